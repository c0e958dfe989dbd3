"""Where a device has no room for all networks, text encoders wait on the CPU; no number changes."""

from dataclasses import replace

import pytest
import torch
from diffusers import DiffusionPipeline, IFSuperResolutionPipeline
from small_cascade import LARGE_PX, write_cascade_folder
from small_flows import WRITERS
from small_pipelines import context, pixels, subjects

from dreambench.base_models.memory import with_room
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.recipe import load_recipe
from dreambench.config.sampler import FLOW, Sampler
from dreambench.errors import UserError
from dreambench.methods.finetuning import training
from dreambench.methods.generators import TextGenerator
from dreambench.methods.registry import find_class, read_settings
from dreambench.storage.images import load_image
from second_device.device import NAME

FLOWS = ["flux2-klein-base", "flux-dev", "sd35-medium", "qwen-image"]
PROMPTS, SEEDS = ["a {subject} on the beach", "a {subject} in the snow"], [1, 2]


def write(name, folder):
    """A small snapshot of a family: its base model, and how it is sampled."""
    WRITERS.get(name, write_cascade_folder)(folder)
    sampler = Sampler(scheduler=FLOW, n_steps=2, guidance_scale=3.0, size_px=64)
    if name == "deepfloyd-if":
        sampler = sampler.model_copy(update={"scheduler": "ddpm", "size_px": LARGE_PX})
    return find_base_model(f"{name}={folder}"), sampler


class Full:
    """A call that runs out of memory the first time, or always."""

    def __init__(self, call, *, n_times=1):
        self.call, self.n_times, self.n_calls = call, n_times, 0

    def __call__(self, *args, **options):
        self.n_calls += 1
        if self.n_calls <= self.n_times:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 2.00 GiB")
        return self.call(*args, **options)


def places(model):
    """Where the parameters of each network are."""
    parts = model.pipeline.components.items()
    return {
        name: {value.device.type for value in part.parameters()}
        for name, part in parts
        if isinstance(part, torch.nn.Module)
    }


def check_places(model):
    """Text encoders wait on the CPU, and all other networks are on the device."""
    assert model.is_offloaded
    assert model.device.type == NAME
    assert model.offloaded_networks
    for name, found in places(model).items():
        assert found == {"cpu" if name in model.offloaded_networks else NAME}, name


@pytest.mark.parametrize("name", [*FLOWS, "deepfloyd-if"])
def test_a_batch_without_room_is_drawn_with_text_encoders_on_the_cpu(name, tmp_path, monkeypatch):
    base, sampler = write(name, tmp_path / "pipeline")
    model = load_base_model(base, sampler, device=NAME)
    generator = TextGenerator(model, subject_phrase="dog")
    before = pixels(generator.generate(PROMPTS, SEEDS))
    assert not model.is_offloaded
    monkeypatch.setattr(model, "_sample", Full(model._sample))
    assert (pixels(generator.generate(PROMPTS, SEEDS)) == before).all()
    check_places(model)
    assert model.most_images is None, "the batch is the same"
    # For good: nothing runs out a second time.
    assert (pixels(generator.generate(PROMPTS, SEEDS)) == before).all()
    check_places(model)


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.parametrize("name", ["flux-kontext", "flux2-klein-base", "qwen-image-edit"])
def test_photos_are_shown_with_text_encoders_on_the_cpu(name, tmp_path):
    base, sampler = write(name, tmp_path / "pipeline")
    model = load_base_model(base, sampler, device=NAME)
    (dog,) = subjects("dog")
    photos = [load_image(dog.photos[0])]

    def show():
        with torch.inference_mode():
            return pixels(model.sample_in_context(["a dog", "a red dog"], SEEDS, photos=photos))

    before = show()
    assert (with_room(model, Full(show)) == before).all()
    check_places(model)


@pytest.mark.parametrize("name", ["flux-dev", "deepfloyd-if"])
def test_a_model_without_room_is_loaded_with_text_encoders_on_the_cpu(name, tmp_path, monkeypatch):
    base, sampler = write(name, tmp_path / "pipeline")
    plain = load_base_model(base, sampler, device=NAME)
    move = DiffusionPipeline.to
    full = Full(move)
    monkeypatch.setattr(DiffusionPipeline, "to", lambda *args: full(*args))  # noqa: PLW0108  (binds)
    model = load_base_model(base, sampler, device=NAME)
    check_places(model)
    found, wanted = (
        pixels(TextGenerator(one, subject_phrase="dog").generate(PROMPTS, SEEDS))
        for one in (model, plain)
    )
    assert (found == wanted).all()


def test_the_second_stage_of_a_cascade_finds_room_that_the_first_makes(tmp_path, monkeypatch):
    base, sampler = write("deepfloyd-if", tmp_path / "pipeline")
    move = IFSuperResolutionPipeline.to
    full = Full(move)
    monkeypatch.setattr(IFSuperResolutionPipeline, "to", lambda *args: full(*args))  # noqa: PLW0108  (binds)
    model = load_base_model(base, sampler, device=NAME)
    assert full.n_calls == 2
    check_places(model)
    assert places(model.upscaler) == {"unet": {NAME}}


@pytest.mark.parametrize("name", ["mini", "flux-dev"])
def test_a_model_that_does_not_fit_at_all_is_one_line(name, tmp_path, monkeypatch):
    base, sampler = write("flux-dev", tmp_path / "pipeline")
    if name == "mini":
        base, sampler = find_base_model("mini"), sampler.model_copy(update={"scheduler": "ddim"})
    monkeypatch.setattr(DiffusionPipeline, "to", Full(None, n_times=9))
    with pytest.raises(UserError, match=f"not enough memory for the base model '{name}'") as caught:
        load_base_model(base, sampler, device=NAME)
    assert caught.value.code == "out-of-memory"
    assert "dreambench doctor" in caught.value.hint


class FullSteps:
    """Losses of a batch, after which memory runs out at one call."""

    def __init__(self, full_call):
        self.compute, self.full_call, self.n_calls = training.compute_losses, full_call, 0

    def __call__(self, *args):
        self.n_calls += 1
        losses = self.compute(*args)
        if self.n_calls == self.full_call:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 2.00 GiB")
        return losses


# A step has two batches: the second of the first step, and the first of the third.
@pytest.mark.parametrize(("name", "call", "n_calls"), [("flux-dev", 2, 8), ("sd35-medium", 5, 7)])
def test_a_step_without_room_is_repeated(name, call, n_calls, tmp_path, monkeypatch):
    base, sampler = write(name, tmp_path / "pipeline")
    settings = read_settings(load_recipe("dreambooth-lora"), name).model_copy(
        update={
            "n_steps": 3, "n_class_images": 1, "batch_size": 1, "lr_warmup_steps": 0,
            "gradient_accumulation_steps": 2,
        }
    )  # fmt: skip
    (dog,) = subjects("dog")
    found = []
    for full_call, is_offloaded in ((None, False), (call, True)):
        folder = tmp_path / str(full_call)
        folder.mkdir()
        where = replace(context(folder / "cache", base_model=base, device=NAME), sampler=sampler)
        method = find_class(load_recipe("dreambooth-lora"))(settings, where)
        steps = FullSteps(full_call)
        with monkeypatch.context() as patch:
            patch.setattr(training, "compute_losses", steps)
            method.fit(dog, folder, seed=1)
        assert steps.n_calls == (n_calls if is_offloaded else 6)
        assert method.model.is_offloaded == is_offloaded
        images = pixels(method.load(dog, folder).generate(PROMPTS, SEEDS))
        found.append((images, (folder / "losses.json").read_bytes()))
    check_places(method.model)
    (images, losses), (images_again, losses_again) = found
    assert losses == losses_again
    assert (images == images_again).all()


def test_stable_diffusion_keeps_its_small_text_encoders(tmp_path, monkeypatch):
    sampler = Sampler(scheduler="ddim", n_steps=2, guidance_scale=3.0, size_px=64)
    model = load_base_model(find_base_model("mini"), sampler, device=NAME)
    monkeypatch.setattr(model, "_sample", Full(model._sample))
    assert len(TextGenerator(model, subject_phrase="dog").generate(PROMPTS, SEEDS)) == 2
    assert (model.is_offloaded, model.most_images) == (False, 1)
