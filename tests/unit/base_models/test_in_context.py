"""Families that are shown photos: images are those of the pipeline called directly with them."""

import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from small_flows import SIDE_PX
from small_pipelines import pixels

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.flow import InContextModel
from dreambench.base_models.registry import FAMILIES, find_base_model, find_family, load_base_model
from dreambench.base_models.spec import IN_CONTEXT
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError

SAMPLER = Sampler(scheduler="flow-euler", n_steps=2, guidance_scale=4.0, size_px=SIDE_PX)
PROMPTS, SEEDS = ["a dog on the beach", "a red mug"], [3, 4]
NAMES = ["flux-kontext", "flux2-klein-base", "qwen-image-edit", "omnigen"]
SIZES = [(64, 64), (96, 64), (70, 110)]


def load(folder, name, **options):
    return load_base_model(find_base_model(f"{name}={folder}"), SAMPLER, **options)


def photos(name):
    """Photos of several shapes, as many as the pipeline takes."""
    rng = np.random.default_rng(1)
    made = [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        for width, height in SIZES
    ]
    return made[:1] if name == "flux-kontext" else made


def tell(model, n_photos):
    """Prompts that name their photos, where a model wants that."""
    words = model.photo_words or ""
    names = "".join(words.replace("{number}", str(place + 1)) for place in range(n_photos))
    return [f"{names}{prompt}" for prompt in PROMPTS]


def show(model, shown, n_prompts=2):
    options = {"image_guidance": 1.6} if model.has_image_guidance else {}
    prompts = tell(model, len(shown))[:n_prompts]
    return pixels(model.sample_in_context(prompts, SEEDS[:n_prompts], photos=shown, **options))


def call(name, pipeline, prompts, seeds, shown):
    pipeline.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    words = {"guidance_scale": SAMPLER.guidance_scale}
    if name == "flux-kontext":
        (shown,), words["max_area"] = shown, SIDE_PX**2
    if name == "omnigen":
        # It draws from the posterior of photos with torch's own generator.
        torch.manual_seed(*seeds)
        return pipeline(
            input_images=[shown], prompt=prompts, num_inference_steps=SAMPLER.n_steps,
            generator=noise, height=SIDE_PX, width=SIDE_PX, img_guidance_scale=1.6, **words,
        ).images  # fmt: skip
    if name == "qwen-image-edit":
        words = {"true_cfg_scale": SAMPLER.guidance_scale, "negative_prompt": " "}
    return pipeline(
        image=shown, prompt=prompts, num_inference_steps=SAMPLER.n_steps, generator=noise,
        height=SIDE_PX, width=SIDE_PX, **words,
    ).images  # fmt: skip


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.parametrize("name", NAMES)
def test_images_are_those_of_the_pipeline_called_directly_with_the_photos(name, folder_of):
    model, shown = load(folder_of(name), name), photos(name)
    found, prompts = show(model, shown), tell(model, len(shown))
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder_of(name))
    if name in ("qwen-image-edit", "omnigen"):  # One prompt at a time.
        wanted = [
            *call(name, theirs, prompts[:1], SEEDS[:1], shown),
            *call(name, theirs, prompts[1:], SEEDS[1:], shown),
        ]
    else:
        wanted = call(name, theirs, prompts, SEEDS, shown)
    assert type(theirs).__name__ in (
        "FluxKontextPipeline",
        "Flux2KleinPipeline",
        "QwenImageEditPlusPipeline",
        "OmniGenPipeline",
    )
    assert np.array_equal(found, pixels(wanted))
    assert found.shape == (2, SIDE_PX, SIDE_PX, 3) and found.std() > 1
    # Without photos it generates as before.
    assert not np.array_equal(found, pixels(model.sample(PROMPTS, SEEDS)))


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.parametrize("name", NAMES)
def test_each_photo_matters_and_so_does_their_order(name, folder_of):
    model, shown = load(folder_of(name), name), photos(name)

    def draw(chosen):
        return show(model, chosen, 1)

    found = draw(shown)
    for place, photo in enumerate(shown):
        other = Image.new("RGB", photo.size, "red")
        assert not np.array_equal(found, draw([*shown[:place], other, *shown[place + 1 :]])), place
    if len(shown) > 1:
        assert not np.array_equal(found, draw(shown[::-1]))
        assert not np.array_equal(found, draw(shown[:-1]))


@pytest.mark.usefixtures("few_pixels")
@pytest.mark.parametrize("name", NAMES)
def test_in_bf16_latents_stay_fp32_beside_photos(name, folder_of, monkeypatch):
    model, seen = load(folder_of(name), name, precision="bf16"), []
    step = model.pipeline.scheduler.step

    def watch(predicted, time, latents, **options):
        seen.append(latents.dtype)
        return step(predicted, time, latents, **options)

    monkeypatch.setattr(model.pipeline.scheduler, "step", watch)
    found = show(model, photos(name))
    exact = show(load(folder_of(name), name), photos(name))
    assert set(seen) == {torch.float32}
    assert 0 < np.abs(found.astype(int) - exact).mean() < 16


def test_omnigen_without_photos_is_the_pipeline_one_prompt_at_a_time(folder_of):
    model = load(folder_of("omnigen"), "omnigen")
    theirs = diffusers.DiffusionPipeline.from_pretrained(folder_of("omnigen"))
    theirs.set_progress_bar_config(disable=True)
    prompts, wanted = ["a dog", "a red mug on a table by the window"], []
    for prompt, seed in zip(prompts, SEEDS, strict=True):
        wanted += theirs(
            [prompt], num_inference_steps=SAMPLER.n_steps, height=SIDE_PX, width=SIDE_PX,
            guidance_scale=SAMPLER.guidance_scale, generator=torch.Generator().manual_seed(seed),
        ).images  # fmt: skip
    assert np.array_equal(pixels(model.sample(prompts, SEEDS)), pixels(wanted))
    for ask in (
        lambda: model.sample(prompts, SEEDS, after_step=lambda _, latents: latents),
        lambda: model.encode_prompts(prompts),
        lambda: model.trainable_networks(with_text_encoders=False),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.code == "unsupported-base-model"


@pytest.mark.parametrize("size", [(64, 40), (1000, 100)])
def test_a_photo_that_a_pipeline_does_not_take_is_refused_in_one_line(size, folder_of):
    model = load(folder_of("flux2-klein-base"), "flux2-klein-base")
    with pytest.raises(UserError) as caught:
        model.sample_in_context(PROMPTS[:1], SEEDS[:1], photos=[Image.new("RGB", size)])
    assert caught.value.code == "unusable-image"
    assert str(size[0]) in caught.value.problem and "'flux2-klein-base'" in caught.value.problem


def test_the_families_that_are_shown_photos_are_those_that_can_be():
    can = {family for family in FAMILIES if issubclass(find_family(family), InContextModel)}
    assert can == set(IN_CONTEXT)
    # mini's own is held to the same in tests/unit/mini.
    assert {BASE_MODELS[name].family for name in NAMES} == can - {"mini-flow"}


def test_a_folder_without_what_reads_photos_is_refused_before_it_is_loaded(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("qwen-image-edit"), tmp_path / "pipeline")
    (folder / "processor" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        load(folder, "qwen-image-edit")
    assert caught.value.code == "incomplete-base-model"
    shutil.rmtree(folder / "processor")
    with pytest.raises(UserError) as caught:
        find_base_model(f"qwen-image-edit={folder}")
    assert caught.value.code == "incomplete-base-model"
    assert str(folder / "processor") in caught.value.problem
