"""mini-pixel: what its training leaves is a base model of DeepFloyd IF's shape, and is shipped."""

import numpy as np
import pytest
import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline
from PIL import Image
from small_pipelines import NUMBERS, context, pixels, subjects
from small_world import make_world

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.deepfloyd_if import DeepFloydIF
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.config.sampler import Sampler
from dreambench.encoders.registry import load_encoder
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.methods.finetuning.dreambooth_peft import ADAPTERS
from dreambench.methods.finetuning.identifier import choose_identifier
from dreambench.methods.registry import find_method, read_settings
from dreambench.mini.training.loop import train
from dreambench.mini.training.pixel_model import (
    WITHOUT,
    compute_loss,
    load_large,
    load_small,
    make_cascade,
    shrink,
)

SAMPLER = Sampler(scheduler="ddim", n_steps=2, guidance_scale=3.0, size_px=64)
PROMPTS, SEEDS = ["a dog on the beach", "a red mug"], [3, 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cascade():
    return make_cascade(small=8, large=8)


@pytest.fixture(scope="module")
def folder(cascade, tmp_path_factory):
    found = tmp_path_factory.mktemp("cascade") / "mini-pixel"
    cascade.save(found)
    return found


@pytest.mark.parametrize("stage", ["small", "large"])
def test_a_step_is_that_of_the_base_model_that_methods_train(stage, cascade, folder):
    """On the same draws: stage II is given the very image that it cleans."""
    model = load_base_model(find_base_model(f"mini-pixel={folder}"), SAMPLER)
    assert isinstance(model, DeepFloydIF)
    unet = cascade.small if stage == "small" else cascade.large
    side, stage_of = (32, model) if stage == "small" else (64, model.upscaler)
    noisy, times = torch.randn(2, 3, side, side), torch.tensor([10, 700])
    states = cascade.read(PROMPTS)
    wanted_states = model.encode_prompts(PROMPTS).tensors["states"]
    assert torch.allclose(states, wanted_states, atol=2e-2)  # Weights are stored in fp16.
    labels, seen = (None, noisy) if stage == "small" else (times, torch.cat([noisy, noisy], 1))
    with torch.no_grad():
        found = unet(seen, times, encoder_hidden_states=states, class_labels=labels).sample[:, :3]
        wanted = stage_of.predict(noisy, times, model.encode_prompts(PROMPTS))
    assert torch.allclose(found, wanted, atol=2e-2) and found.std() > 0.05


def test_diffusers_loads_the_folder_and_it_draws(folder):
    small = IFPipeline.from_pretrained(folder, dtype=torch.float32, **WITHOUT)
    large = IFSuperResolutionPipeline.from_pretrained(
        folder / "upscaler", dtype=torch.float32, tokenizer=None, text_encoder=None, **WITHOUT
    )
    assert (small.unet.config.sample_size, large.unet.config.sample_size) == (32, 64)
    model = load_base_model(find_base_model(f"mini-pixel={folder}"), SAMPLER)
    images = pixels(model.sample(PROMPTS, SEEDS))
    assert images.shape == (2, 64, 64, 3) and images.std() > 1
    # The tokenizer has words that no caption has, for DreamBooth, and they are one token each.
    word = choose_identifier(model.tokenizer, "auto")
    assert len(word) == 3 and len(model.tokenizer.tokenize(f"a {word} dog")) == 3


def test_dreambooth_trains_both_stages(folder, tmp_path):
    (dog,) = subjects("dog")
    where = context(tmp_path / "cache", base_model=find_base_model(f"mini-pixel={folder}"))
    settings = DreamBoothSettings(
        **{**NUMBERS, "n_steps": 1, "n_class_images": 1, "batch_size": 1}, upscaler_n_steps=1,
        upscaler_learning_rate=1e-4,
    )  # fmt: skip
    method = DreamBooth(settings, where)
    method.fit(dog, tmp_path, seed=1)
    (image,) = method.load(dog, tmp_path).generate(["a {subject} on the beach"], [1])
    assert image.size == (64, 64)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_each_adapters_recipe_fits_its_layers_and_trains_what_is_counted(adapter, tmp_path):
    (mug,) = subjects("mug")
    recipe, base = load_recipe(f"dreambooth-{adapter}"), BASE_MODELS["mini-pixel"]
    settings = read_settings(recipe, base.name)
    kind = find_method(recipe.method)
    changes = {"n_steps": 1, "batch_size": 1, "prior_weight": 0.0, "n_class_images": 0}
    method = kind(settings.model_copy(update=changes), context(tmp_path / "cache", base_model=base))
    method.fit(mug, tmp_path, seed=1)
    trained = [part for part in method.model.pipeline.unet.parameters() if part.requires_grad]
    assert (
        sum(part.numel() for part in trained) == kind.count_work(settings, base).trained_parameters
    )


@pytest.mark.parametrize("stage", ["small", "large"])
def test_a_stage_learns_and_goes_on_where_it_was_stopped(stage, world, tmp_path):
    def go(name, *, n_calls):
        cascade = make_cascade(small=8, large=8)
        unet = cascade.small if stage == "small" else cascade.large
        losses = []

        def step(rng, noise):
            loss, parts = compute_loss(cascade, stage, world, 4, rng, noise)
            losses.append(loss.item())
            return loss, parts

        for _ in range(n_calls):
            # Each call but that of the whole run stops after a step.
            train(
                unet, step, out_dir=tmp_path / name, seed=1, n_steps=3, learning_rate=3e-3,
                n_warmup_steps=1, n_seconds=0 if n_calls > 1 else 1e9,
            )  # fmt: skip
        return unet.state_dict(), losses

    (whole, seen), (parts, again) = go("whole", n_calls=1), go("parts", n_calls=3)
    assert seen == again
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    start = make_cascade(small=8, large=8)
    before = (start.small if stage == "small" else start.large).state_dict()
    assert not torch.equal(whole["conv_in.weight"], before["conv_in.weight"])


def test_training_goes_on_from_weights_of_both_stages(cascade, folder):
    found = make_cascade(small=8, large=8)
    for network in (found.text_encoder, found.small, found.large):
        for weight in network.parameters():
            weight.data += 1
    load_small(found, folder)
    load_large(found, folder)
    for ours, theirs in (
        (found.text_encoder, cascade.text_encoder), (found.small, cascade.small),
        (found.large, cascade.large),
    ):  # fmt: skip
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value.half().float()), name


def test_small_images_are_those_that_tuning_has(world, folder):
    model = load_base_model(find_base_model(f"mini-pixel={folder}"), SAMPLER)
    images = [Image.fromarray(world.images[row]) for row in (0, 1)]
    assert np.array_equal(shrink(world.images[:2]), model.encode_images(images).mean)


def test_what_is_shipped_draws_what_prompts_say():
    """Of its own identities: CLIP tells the captions of its images among each other."""
    model = load_base_model(BASE_MODELS["mini-pixel"], load_protocol("mini").sampler.at_size(64))
    captions = [
        "a car in the snow", "a mug in the jungle", "a plushie on the beach", "a vase in the snow",
    ]  # fmt: skip
    clip = load_encoder("mini-clip", "clip")
    drawn = model.sample([text for text in captions for _ in range(2)], range(8))
    images = clip.encode_images(drawn)
    found = (images @ clip.encode_texts(captions).T).argmax(1)
    assert (found == np.repeat(range(4), 2)).mean() >= 0.75


def test_its_parameters_are_counted():
    def count(*networks):
        return sum(weight.numel() for network in networks for weight in network.parameters())

    made, model = make_cascade(), BASE_MODELS["mini-pixel"]
    assert model.n_denoiser_parameters == count(made.small)
    assert model.n_text_parameters == count(made.text_encoder)
    assert model.upscaler[2] == count(made.large)
    assert model.n_other_parameters == count(made.text_encoder, made.large)
