"""A cascade on pixels: losses are those of diffusers' script for both stages, images of pipelines.

The losses are computed here once more, without the package, as `examples/dreambooth/
train_dreambooth.py` of diffusers (at 58eb52c) computes them with the options for IF.
"""

import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from script_steps import CLASS, PRIOR_WEIGHT, SEED, SUBJECT, take_step
from small_cascade import LARGE_PX, SMALL_PX, write_cascade_folder
from small_pipelines import pixels

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError

SAMPLER = Sampler(scheduler="ddpm", n_steps=3, guidance_scale=4.0, size_px=LARGE_PX)
PROMPTS, SEEDS = ["a dog on the beach", "a red mug"], [3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cascade") / "pipeline"
    write_cascade_folder(made)
    return made


@pytest.fixture
def base(folder):
    return find_base_model(f"deepfloyd-if={folder}")


def photos(side):
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(4)]


def load_stages(folder):
    first = diffusers.IFPipeline.from_pretrained(folder, safety_checker=None)
    second = diffusers.IFSuperResolutionPipeline.from_pretrained(
        folder / "upscaler", safety_checker=None
    )
    for pipeline in (first, second):
        pipeline.set_progress_bar_config(disable=True)
    return first, second


def compute_scripts_loss(folder, stage, images):
    """The script's step, from images on: noise first and then the times."""
    first, second = load_stages(folder)
    pipeline = (first, second)[stage]
    unet, scheduler = pipeline.unet, pipeline.scheduler
    unet.requires_grad_(True)
    values = np.stack([np.asarray(image, np.float32) for image in images]) / 255
    inputs = torch.from_numpy((values - 0.5) / 0.5).permute(0, 3, 1, 2)
    noise = torch.Generator().manual_seed(SEED)
    torch.randn(inputs.shape, generator=noise)  # Where others draw from the posterior.
    target = torch.randn(inputs.shape, generator=noise)
    times = torch.randint(0, 1000, (len(inputs),), generator=noise).long()
    share = scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = share**0.5 * inputs + (1 - share) ** 0.5 * target
    tokens = first.tokenizer(
        [SUBJECT, CLASS], truncation=True, padding="max_length", max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        states = first.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    states = states.repeat_interleave(len(inputs) // 2, dim=0)
    labels = None
    if unet.config.in_channels == 6:
        noisy, labels = torch.cat([noisy, noisy], dim=1), times
    found = unet(noisy, times, states, class_labels=labels, return_dict=False)[0]
    found, _ = torch.chunk(found, 2, dim=1)
    (of_subject, of_class), (mine, others) = found.chunk(2), target.chunk(2)
    loss = torch.nn.functional.mse_loss(of_subject, mine)
    loss = loss + PRIOR_WEIGHT * torch.nn.functional.mse_loss(of_class, others)
    loss.backward()
    return loss.item(), {key: weight.grad for key, weight in unet.named_parameters()}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_step_of_each_stage_is_that_of_the_script_with_prior_preservation(stage, base, folder):
    cascade = load_base_model(base, SAMPLER)
    model = (cascade, cascade.upscaler)[stage]
    images = photos((SMALL_PX, LARGE_PX)[stage])
    ours, network, _ = take_step(model, images)
    wanted, gradients = compute_scripts_loss(folder, stage, images)
    assert ours.item() == pytest.approx(wanted, abs=1e-6)
    n_compared = 0
    for key, weight in network.named_parameters():
        if gradients[key] is not None:
            assert torch.allclose(weight.grad, gradients[key], atol=1e-6), key
            n_compared += bool(weight.grad.abs().sum() > 0)
    assert n_compared > 30


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm-solver"])
def test_images_are_those_of_both_pipelines_called_directly(scheduler, base, folder):
    sampler = Sampler(scheduler=scheduler, n_steps=3, guidance_scale=4.0, size_px=LARGE_PX)
    model = load_base_model(base, sampler)
    found = pixels(model.sample(PROMPTS, SEEDS))
    first, second = load_stages(folder)
    kinds = {
        "ddpm": diffusers.DDPMScheduler, "ddim": diffusers.DDIMScheduler,
        "dpm-solver": diffusers.DPMSolverMultistepScheduler,
    }  # fmt: skip
    for pipeline in (first, second):
        options = {**sampler.options, "thresholding": True, "variance_type": "fixed_small"}
        made = kinds[scheduler].from_config(pipeline.scheduler.config, **options)
        made.register_to_config(variance_type="fixed_small")
        pipeline.scheduler = made
    noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    states, nothing = first.encode_prompt(PROMPTS, do_classifier_free_guidance=True)
    words = {"prompt_embeds": states, "negative_prompt_embeds": nothing, "generator": noise}
    small = first(**words, guidance_scale=4.0, num_inference_steps=3, output_type="pt").images
    large = second(image=small, **words, num_inference_steps=3, guidance_scale=4.0).images
    assert small.shape == (2, 3, SMALL_PX, SMALL_PX)
    assert found.shape == (2, LARGE_PX, LARGE_PX, 3) and found.std() > 1
    assert np.array_equal(found, pixels(large))
    # Each image by itself, whatever stands beside it.
    alone = pixels(model.sample(PROMPTS[1:], SEEDS[1:]))[0]
    assert np.abs(alone.astype(int) - found[1]).max() <= 1


def test_in_bf16_pixels_stay_fp32(base, monkeypatch):
    model, seen = load_base_model(base, SAMPLER, precision="bf16"), []
    for stage in (model, model.upscaler):
        step = stage.pipeline.scheduler.step

        # The pipeline looks whether a step takes a generator.
        def watch(predicted, time, values, *, generator, step=step, **options):
            seen.append(values.dtype)
            return step(predicted, time, values, generator=generator, **options)

        monkeypatch.setattr(stage.pipeline.scheduler, "step", watch)
        assert {p.dtype for p in stage.pipeline.unet.parameters()} == {torch.bfloat16}
    found = pixels(model.sample(PROMPTS, SEEDS)).astype(int)
    exact = pixels(load_base_model(base, SAMPLER).sample(PROMPTS, SEEDS))
    assert set(seen) == {torch.float32} and len(seen) == 6
    assert 0 < np.abs(found - exact).mean() < 16


def test_what_a_cascade_cannot_do_is_refused(base, folder, tmp_path):
    model = load_base_model(base, SAMPLER)
    for ask in (
        lambda: model.sample(PROMPTS, SEEDS, after_step=lambda _, latents: latents),
        lambda: model.redraw(PROMPTS, SEEDS, images=photos(32)[:2], strength=0.5),
        lambda: model.trainable_networks(with_text_encoders=True),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.code == "unsupported-base-model"
    with pytest.raises(UserError, match="40 px") as caught:
        load_base_model(base, SAMPLER.model_copy(update={"size_px": 40}))
    assert caught.value.code == "invalid-value"
    copy = shutil.copytree(folder, tmp_path / "pipeline")
    (copy / "upscaler" / "unet" / "config.json").unlink()
    with pytest.raises(UserError, match="upscaler") as caught:
        find_base_model(f"deepfloyd-if={copy}")
    assert caught.value.code == "incomplete-base-model"


def test_both_stages_are_in_identity_and_counts():
    model = BASE_MODELS["deepfloyd-if"]
    assert model.identity().count("@") == 2 and "IF-II" in model.identity()
    sampler = SAMPLER.model_copy(update={"n_steps": 100})
    assert model.count_calls(sampler) == 200 + 100
