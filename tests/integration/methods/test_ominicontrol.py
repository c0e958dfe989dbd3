"""OminiControl: which tokens join the sequence, where they stand, and what the adapter is for."""

import json
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from conftest import invoke, refused_at_once
from PIL import Image
from safetensors.torch import load_file, save_file
from small_flows import (
    PROTOCOL,
    SIDE_PX,
    find_photo_layers,
    write_photo_adapter,
    write_schnell_folder,
)
from small_pipelines import context, pixels, subjects

from dreambench.base_models import flux_photo
from dreambench.base_models.flux_photo import PhotoAdapter
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.recipe import load_recipe
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError
from dreambench.methods.image_prompting import adapters
from dreambench.methods.registry import make_method, read_settings
from dreambench.storage.images import load_image

SAMPLER = Sampler(scheduler="flow-euler", n_steps=2, guidance_scale=1.0, size_px=SIDE_PX)
PROMPTS, SEEDS = ["a dog on the beach", "a red mug"], [3, 4]
NAME, FILE = "ominicontrol-subject-512", "omini/subject_512.safetensors"


@pytest.fixture(scope="module")
def schnell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schnell") / "pipeline"
    write_schnell_folder(folder)
    return find_base_model(f"flux-schnell={folder}")


@pytest.fixture(scope="module")
def model(schnell):
    return load_base_model(schnell, SAMPLER)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return write_photo_adapter(model, tmp_path_factory.mktemp("adapter") / FILE)


def photo(seed=1):
    values = np.random.default_rng(seed).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    return Image.fromarray(values)


def draw(adapter, *, shown=None, shift=(0, 4), weight=1.0):
    chosen = shown or photo()
    return pixels(adapter.sample(PROMPTS, SEEDS, photo=chosen, shift=shift, weight=weight))


def call(model, *, photo_tokens=None, places=None, time=0.6):
    """One call as the pipeline makes it, with tokens and places after the image's."""
    noise = torch.Generator().manual_seed(5)
    text = model.encode_prompts(PROMPTS).tensors
    tokens = torch.randn((2, 16, 16), generator=noise)
    ids = model.pipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
    n_image = len(ids)
    if photo_tokens is not None:
        tokens = torch.cat([tokens, photo_tokens.expand(2, -1, -1)], dim=1)
        ids = torch.cat([ids, places])
    with torch.no_grad():
        (found,) = model.pipeline.transformer(
            hidden_states=tokens, timestep=torch.full((2,), time), guidance=None,
            pooled_projections=text["pooled"], encoder_hidden_states=text["states"],
            txt_ids=torch.zeros(text["states"].shape[1], 3), img_ids=ids, return_dict=False,
        )  # fmt: skip
    return found[:, :n_image]


def shown(model, *, weight=1.0, shift=(0, 4)):
    tokens = model.pack(model.encode_images([photo()]).means())
    ids = model.pipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
    return flux_photo._Photo(tokens, ids + torch.tensor([0.0, *shift]), weight)


def test_without_its_contribution_images_are_those_of_the_pipeline(schnell, model, file):
    theirs = diffusers.FluxPipeline.from_pretrained(schnell.location)
    theirs.set_progress_bar_config(disable=True)
    plain = theirs(
        PROMPTS, num_inference_steps=SAMPLER.n_steps, guidance_scale=1.0, height=SIDE_PX,
        width=SIDE_PX, generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
    ).images  # fmt: skip
    adapter = PhotoAdapter(model, file)
    off = draw(adapter, weight=0.0).astype(int)
    assert np.abs(off - pixels(plain)).max() <= 1
    # The base model itself is as it was, to the bit.
    assert np.array_equal(pixels(model.sample(PROMPTS, SEEDS)), pixels(plain))
    on = draw(adapter).astype(int)
    assert np.abs(on - off).mean() > 0.1
    # The less the photo counts, the nearer is the image to the pipeline's.
    assert 0 < np.abs(draw(adapter, weight=0.05).astype(int) - off).mean() < np.abs(on - off).mean()


def test_tokens_of_the_photo_join_the_sequence_at_shifted_places(model, tmp_path):
    nothing = PhotoAdapter(
        model, write_photo_adapter(model, tmp_path / "zeros.safetensors", scale=0.0)
    )
    given = shown(model)

    def compare(time, *others):
        """Beside the base model's own forward pass on the longer sequence."""
        with nothing._shown(given):
            found = call(model, time=time)
        for other in (given, *others):
            yield (found - call(model, photo_tokens=other.tokens, places=other.places, time=time))

    # At the time 0 the image is as clean as the photo, so that all are told the same.
    same, unshifted, below = compare(0.0, shown(model, shift=(0, 0)), shown(model, shift=(4, 0)))
    assert same.abs().max() < 1e-5
    assert min(unshifted.abs().max(), below.abs().max()) > 1e-4
    # At any other time the photo is clean, and the image is not.
    (other,) = compare(0.6)
    assert other.abs().max() > 1e-4


def test_the_adapter_acts_on_the_photo_alone(model, file, monkeypatch):
    adapter, given = PhotoAdapter(model, file), shown(model)
    seen, pass_layer = [], adapter._pass

    def watch(layer, inputs, part):
        found = pass_layer(layer, inputs, part)
        changed = not torch.equal(found, layer(inputs))
        seen.append((layer, part.is_photo, changed))
        return found

    monkeypatch.setattr(adapter, "_pass", watch)
    with adapter._shown(given):
        call(model)
    assert {layer for layer, _, changed in seen if changed} == set(
        find_photo_layers(model).values()
    )
    assert all(
        changed == is_photo for layer, is_photo, changed in seen if layer in adapter._factors
    )
    assert {is_photo for _, is_photo, _ in seen} == {True, False}
    # Where nothing attends to it, no adapter can be seen.
    with adapter._shown(replace(given, weight=0.0)):
        found = call(model)
    assert torch.allclose(found, call(model), atol=1e-5)


def test_photo_place_and_adapter_each_count(model, file, tmp_path):
    adapter = PhotoAdapter(model, file)
    found = draw(adapter)
    assert np.array_equal(found, draw(adapter))
    half = write_photo_adapter(model, tmp_path / "half.safetensors", kinds=r"to_[qk]$|norm")
    for other in (
        draw(adapter, shown=photo(2)),
        draw(adapter, shift=(4, 0)),
        draw(PhotoAdapter(model, half)),
    ):
        assert not np.array_equal(found, other)
    # Each image by itself.
    alone = adapter.sample(PROMPTS[1:], SEEDS[1:], photo=photo(), shift=(0, 4), weight=1.0)
    assert np.abs(pixels(alone)[0].astype(int) - found[1]).max() <= 1


def test_in_bf16_it_is_near(schnell, model, file):
    rounded = load_base_model(schnell, SAMPLER, precision="bf16")
    found, exact = draw(PhotoAdapter(rounded, file)), draw(PhotoAdapter(model, file))
    assert 0 < np.abs(found.astype(int) - exact).mean() < 16


@pytest.mark.parametrize("fault", ["missing", "shape", "unknown", "empty", "cut"])
def test_a_file_that_is_not_the_whole_adapter_is_refused(fault, model, file, tmp_path):
    state, path = load_file(file), tmp_path / "adapter.safetensors"
    key = next(key for key in state if "transformer_blocks.0.attn.to_k.lora_B" in key)
    if fault == "missing":
        del state[key]
    elif fault == "shape":
        state[key] = state[key][:-1].contiguous()
    elif fault == "unknown":
        state["transformer.context_embedder.lora_A.weight"] = torch.zeros(2, 24)
    save_file({} if fault == "empty" else state, path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError) as caught:
        PhotoAdapter(model, path)
    assert caught.value.code == "wrong-weights" and str(path) in caught.value.problem


@pytest.fixture
def here(model, tmp_path, monkeypatch):
    """The small adapter where a user puts the real one, and of this test's size."""
    write_photo_adapter(model, tmp_path / "weights" / NAME / FILE)
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "weights"))
    small = replace(adapters.ADAPTERS[NAME], size_px=SIDE_PX)
    monkeypatch.setitem(adapters.ADAPTERS, NAME, small)


@pytest.mark.usefixtures("here")
def test_the_seed_picks_the_photo_and_the_words_are_the_recipes(schnell, shared_cache, tmp_path):
    (dog,) = subjects("dog")
    made = replace(context(shared_cache, base_model=schnell), sampler=SAMPLER)
    method = make_method(load_recipe("ominicontrol"), made)
    generator = method.load(dog, tmp_path)
    seeds = [len(dog.photos), 1, 7]
    found = pixels(
        generator.generate(["a {subject} on the beach", "a red {subject}", "a dog"], seeds)
    )
    told = ["A picture of this item: a dog on the beach", "A picture of this item: a red dog"]
    for row, place in ((0, 0), (1, 1)):
        wanted = method._adapter.sample(
            told[row : row + 1], seeds[row : row + 1], photo=load_image(dog.photos[place]),
            shift=(0, 32), weight=1.0,
        )  # fmt: skip
        assert np.array_equal(found[row], pixels(wanted)[0])
    assert np.array_equal(found[2], pixels(method.model.sample(["a dog"], [7]))[0])


@pytest.mark.long
@pytest.mark.usefixtures("here")
def test_a_run_ends_with_scores(schnell, shared_cache, tmp_path):
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    invoke(
        "run", "--method", "ominicontrol", "--protocol", tmp_path / "tiny.toml", "--alongside", "",
        "--base-model", f"flux-schnell={schnell.location}", "--out", tmp_path / "runs",
        "--cache", shared_cache,
    )  # fmt: skip
    folder = tmp_path / "runs" / "tiny" / "ominicontrol"
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["recipe"]["track"] == "tuning-free, all photos"
    assert manifest["recipe"]["settings"]["shift"] == [0, 32]
    assert (folder / "summary.json").is_file()


def test_what_it_needs_is_said_before_anything_starts(schnell, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    words = ("plan", "--method", "ominicontrol", "--protocol", "mini", "--base-model")
    assert FILE in invoke(*words, "flux-schnell").stdout
    assert "flux-schnell" in refused_at_once(*words, "sd15")
    assert NAME in refused_at_once(*words, "flux-schnell", "--set", "adapter=ominicontrol-x")
    for key, text in (("instruction", "{photos} {prompt}"), ("photo_weight", -1)):
        with pytest.raises(UserError) as caught:
            recipe = load_recipe("ominicontrol").change("flux-schnell", {key: text})
            read_settings(recipe, "flux-schnell")
        assert caught.value.code == "invalid-value"
    # At another size than the adapter's own, and without its file.
    made = replace(context(tmp_path, base_model=schnell), sampler=SAMPLER)
    with pytest.raises(UserError, match="512") as caught:
        make_method(load_recipe("ominicontrol"), made)
    assert caught.value.code == "invalid-value"
    made = replace(made, sampler=SAMPLER.model_copy(update={"size_px": 512}))
    with pytest.raises(UserError) as caught:
        make_method(load_recipe("ominicontrol"), made)
    assert caught.value.code == "missing-weights" and FILE in caught.value.hint
