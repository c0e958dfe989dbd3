"""Every method trains and generates on the second device what it does on the CPU.

The methods are those of the registry that mini has numbers for: a new one is run by being there.
`pytest tests/second_device -k NAME` runs one. Fused AdamW runs here. Autocast (`--precision bf16`)
and `torch.compile` cannot: their dtypes and shapes are for FakeTensorMode at real size.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_cascade import LARGE_PX, write_cascade_folder
from small_flows import WRITERS, write_photo_adapter
from small_pipelines import (
    SAMPLER,
    context,
    pixels,
    subjects,
    write_adapter_snapshot,
    write_unclip_folder,
)

from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.recipe import list_recipes, load_recipe
from dreambench.config.sampler import FLOW, SCHEDULER_OPTIONS, Sampler
from dreambench.methods.image_prompting import adapters
from dreambench.methods.process_state import kept_process
from dreambench.methods.reference.class_only import ClassOnly
from dreambench.methods.registry import find_class, list_shipped, read_settings
from dreambench.storage.files import read_json
from dreambench.storage.images import load_image
from second_device.device import NAME

QUICK = SAMPLER.model_copy(update={"n_steps": 3})
PROMPTS, SEEDS = ["a {subject} on the beach", "a dog"], [1, 2]
SMALL = {"n_steps": 2, "n_class_images": 1, "batch_size": 1, "strength": 0.4}
SHIPPED = [name for name in list_shipped() if name in list_recipes()]
ADAPTERS = [name for name in list_recipes() if load_recipe(name).method == "dreambooth-peft"]
# Image adapters fit mini's own network alone; inverting a random one amplifies rounding.
OF_MINI = {"ip-adapter", "image-variation", "ddim-inversion"}
METHODS = [name for name in (*SHIPPED, *ADAPTERS) if "mini" in load_recipe(name).tables]


def work(name, folder, *, device, base_model=None, cls=None, sampler=QUICK, **changes):
    """Train a method on a photo and generate with it: (images, losses, where its networks are)."""
    base = base_model or find_base_model("mini")
    settings = read_settings(load_recipe(name), base.name)
    small = {key: SMALL[key] for key in SMALL.keys() & type(settings).model_fields.keys()}
    settings = settings.model_copy(update=small | changes)
    (dog,) = subjects("dog")
    dog = replace(dog, photos=dog.photos[:1], masks=dog.masks[:1])
    out_dir = folder / device
    out_dir.mkdir()
    found = cls or find_class(load_recipe(name))
    where = context(folder / f"cache-{device}", base_model=base, device=device)
    method = found(settings, replace(where, sampler=sampler))
    method.fit(dog, out_dir, seed=1)
    images = pixels(method.load(dog, out_dir).generate(PROMPTS, SEEDS)).astype(int)
    losses = out_dir / "losses.json"
    is_sampled = method.count_work(settings, base).samples
    return (
        images,
        read_json(losses) if losses.is_file() else [],
        method.model.device.type if is_sampled else None,
    )


def compare(*words, **options):
    """Do the same on both devices, and check that it is the same but for rounding."""
    on_cpu, losses, where = work(*words, device="cpu", **options)
    on_second, second_losses, second_where = work(*words, device=NAME, **options)
    assert (where, second_where) in (("cpu", NAME), (None, None))
    assert np.abs(on_cpu - on_second).max() <= 2
    for one, other in zip(losses, second_losses, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    return on_cpu, on_second


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_there_what_it_does_here(name, other_folder, tmp_path):
    # With few layers it is the same, and quicker.
    key = "sd15" if name in ADAPTERS else "mini"
    base = find_base_model("mini" if name in OF_MINI else f"{key}={other_folder}")
    on_cpu, on_second = compare(name, tmp_path, base_model=base)
    if not find_class(load_recipe(name)).tunes and name != "clip-guidance":
        # The same kernels give the same bits where no gradients are summed.
        assert np.array_equal(on_cpu, on_second)


def test_every_method_of_mini_is_among_them():
    assert len(METHODS) > 10 and {"dreambooth", "textual-inversion", "inpainting"} < {*METHODS}


@pytest.mark.parametrize("scheduler", sorted({*SCHEDULER_OPTIONS} - {SAMPLER.scheduler, FLOW}))
def test_every_scheduler_draws_there_what_it_does_here(scheduler, tmp_path):
    sampler = Sampler(scheduler=scheduler, n_steps=2, guidance_scale=3.0, size_px=64)
    on_cpu, on_second = compare("class-only", tmp_path, sampler=sampler)
    assert np.array_equal(on_cpu, on_second)


def test_text_encoders_train_there_with_gradient_checkpointing(xl_folder, tmp_path):
    compare(
        "dreambooth", tmp_path, base_model=find_base_model(f"sdxl={xl_folder}"),
        train_text_encoder=True, gradient_checkpointing=True, optimizer="adamw",
    )  # fmt: skip


def test_an_adapter_in_its_authors_layout_works_there(other_folder, tmp_path, monkeypatch):
    write_adapter_snapshot(tmp_path / "weights" / "ip-adapter-sd15")
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))
    compare(
        "ip-adapter", tmp_path, base_model=find_base_model(f"sd15={other_folder}"),
        adapter="ip-adapter-sd15",
    )  # fmt: skip


def test_unclip_works_there(tmp_path):
    write_unclip_folder(tmp_path / "unclip")
    base = find_base_model(f"sd21-unclip={tmp_path / 'unclip'}")
    compare("image-variation", tmp_path, base_model=base)


@pytest.mark.parametrize("name", ["flux2-klein-base", "flux-dev", "sd35-medium", "qwen-image"])
def test_flow_models_train_and_draw_there(name, tmp_path):
    WRITERS[name](tmp_path / "pipeline")
    compare(
        "dreambooth-lora", tmp_path, base_model=find_base_model(f"{name}={tmp_path / 'pipeline'}"),
        sampler=Sampler(scheduler=FLOW, n_steps=2, guidance_scale=3.0, size_px=64),
        lr_warmup_steps=0,
    )  # fmt: skip


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.parametrize("name", ["flux-kontext", "flux2-klein-base", "qwen-image-edit", "omnigen"])
def test_photos_are_shown_there(name, tmp_path):
    WRITERS[name](tmp_path / "pipeline")
    on_cpu, on_second = compare(
        "photo-prompting", tmp_path, base_model=find_base_model(f"{name}={tmp_path / 'pipeline'}"),
        sampler=Sampler(scheduler=FLOW, n_steps=2, guidance_scale=3.0, size_px=64),
    )  # fmt: skip
    assert np.array_equal(on_cpu, on_second)


def test_a_photo_in_the_sequence_works_there(tmp_path, monkeypatch):
    WRITERS["flux-schnell"](tmp_path / "pipeline")
    base = find_base_model(f"flux-schnell={tmp_path / 'pipeline'}")
    sampler = Sampler(scheduler=FLOW, n_steps=2, guidance_scale=1.0, size_px=64)
    name, file = "ominicontrol-subject-512", "omini/subject_512.safetensors"
    write_photo_adapter(load_base_model(base, sampler), tmp_path / "weights" / name / file)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setitem(adapters.ADAPTERS, name, replace(adapters.ADAPTERS[name], size_px=64))
    compare("ominicontrol", tmp_path, base_model=base, sampler=sampler)


def test_a_cascade_trains_and_draws_there(tmp_path):
    write_cascade_folder(tmp_path / "pipeline")
    compare(
        "dreambooth-lora", tmp_path,
        base_model=find_base_model(f"deepfloyd-if={tmp_path / 'pipeline'}"),
        sampler=Sampler(scheduler="ddpm", n_steps=2, guidance_scale=3.0, size_px=LARGE_PX),
        identifier="zbx", upscaler_n_steps=2, batch_size=1,
    )  # fmt: skip


def test_photos_are_encoded_in_batches_there(monkeypatch):
    monkeypatch.setattr("dreambench.base_models.encodings.ENCODED_PIXELS", 2 * QUICK.size_px**2)
    (dog,) = subjects("dog")
    photos = [load_image(path) for path in dog.photos[:3]]
    found, sizes = [], {"cpu": [], NAME: []}
    for device, seen in sizes.items():
        model = load_base_model(find_base_model("mini"), QUICK, device=device)
        vae = model.pipeline.vae
        monkeypatch.setattr(vae, "encode", note_size(vae.encode, seen))
        found.append(model.encode_images(photos).means().cpu())
    assert sizes == {"cpu": [1, 1, 1], NAME: [2, 1]}
    assert torch.allclose(*found, atol=1e-5)


def note_size(encode, seen):
    def encode_and_note(batch):
        seen.append(len(batch))
        return encode(batch)

    return encode_and_note


class Forgetful(ClassOnly):
    """Begins from noise that nobody moved to the device."""

    def load(self, subject, out_dir):
        generator = super().load(subject, out_dir)
        sample = self.model.sample

        def sample_from_noise(prompts, seeds):
            noise = torch.randn((len(seeds), 4, 16, 16), generator=torch.Generator())
            return sample(prompts, seeds, after_step=lambda _, latents: latents + noise[:, :1])

        self.model.sample = sample_from_noise
        return generator


class OnDevice(Forgetful):
    """Begins from noise of the device's own, which another device samples otherwise."""

    def load(self, subject, out_dir):
        generator = super(Forgetful, self).load(subject, out_dir)
        sample = self.model.sample
        self.model.sample = lambda prompts, seeds: sample(
            prompts, seeds, after_step=lambda _, latents: latents + torch.randn_like(latents)
        )
        return generator


def test_a_tensor_that_is_left_on_the_cpu_is_found(tmp_path):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        compare("class-only", tmp_path, cls=Forgetful)
    assert (tmp_path / NAME).is_dir(), "on the CPU it works"


def test_noise_of_the_device_itself_is_found(tmp_path):
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        compare("class-only", tmp_path, cls=OnDevice)
    assert (tmp_path / NAME).is_dir()


def test_autocast_that_a_method_leaves_on_is_turned_off():
    with kept_process():
        torch.set_autocast_enabled(NAME, True)
    assert not torch.is_autocast_enabled(NAME)
