"""Schedulers: images do not depend on what a base model's scheduler file leaves out."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from small_pipelines import PROMPTS, SAMPLER, pixels

from dreambench.base_models import find_base_model, load_base_model
from dreambench.config.sampler import FLOW, SCHEDULER_OPTIONS, Sampler
from dreambench.errors import UserError

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OF_DIFFUSION = [name for name in SCHEDULER_OPTIONS if name != FLOW]
DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
FILES = {
    "PNDM": {"_class_name": "PNDMScheduler", **NOISE, "skip_prk_steps": True},
    "DPM++": {"_class_name": "DPMSolverMultistepScheduler", **NOISE},
    "Euler": {"_class_name": "EulerDiscreteScheduler", **NOISE, "timestep_spacing": "trailing"},
    "UniPC": {"_class_name": "UniPCMultistepScheduler", **NOISE, "num_train_timesteps": 1000},
    "DDIM": {"_class_name": "DDIMScheduler", **NOISE},
    "DDIM, whole": {"_class_name": "DDIMScheduler", **NOISE, **DDIM, "num_train_timesteps": 1000},
    "DDIM, no noise": {"_class_name": "DDIMScheduler", **DDIM},
    "LMS, no noise": {"_class_name": "LMSDiscreteScheduler"},
}


@pytest.fixture
def with_file(other_folder, tmp_path):
    """Makes the random pipeline with another scheduler file."""

    def write(content):
        folder = tmp_path / "pipeline"
        folder.mkdir()
        for entry in other_folder.iterdir():
            if entry.name not in ("scheduler", "model_index.json"):
                (folder / entry.name).symlink_to(entry)
        index = json.loads((other_folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", content["_class_name"]]
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))
        return folder

    return write


def draw(pipeline, sampler):
    noise = [torch.Generator("cpu").manual_seed(index) for index in range(len(PROMPTS))]
    found = pipeline(
        [text.format(subject="dog") for text in PROMPTS],
        num_inference_steps=sampler.n_steps, guidance_scale=sampler.guidance_scale,
        height=64, width=64, generator=noise,
    )  # fmt: skip
    return pixels(found.images)


@pytest.mark.parametrize("kind", FILES)
def test_every_scheduler_file_draws_as_stable_diffusions_own_does(kind, with_file):
    sampler = Sampler(scheduler="ddim", n_steps=5, guidance_scale=7.5, size_px=64)
    folder = with_file(FILES[kind])
    model = load_base_model(find_base_model(f"sd15={folder}"), sampler)
    texts = [text.format(subject="dog") for text in PROMPTS]
    found = pixels(model.sample(texts, range(len(texts))))

    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = DDIMScheduler(**NOISE, **DDIM)
    theirs.unet.to(memory_format=torch.channels_last)
    theirs.vae.to(memory_format=torch.channels_last)
    wanted = draw(theirs, sampler)
    assert np.array_equal(found, wanted)

    # The test can fail: with the class's own values another image comes out.
    theirs.scheduler = DDIMScheduler(**NOISE)
    assert not np.array_equal(draw(theirs, sampler), wanted)


def test_an_image_to_image_pipeline_changes_no_field_of_the_scheduler(other_folder):
    for name in OF_DIFFUSION:
        sampler = Sampler(scheduler=name, n_steps=5, guidance_scale=3.0, size_px=64)
        model = load_base_model(find_base_model(f"sd15={other_folder}"), sampler)
        before = dict(model.pipeline.scheduler.config)
        assert model._img2img.scheduler is model.pipeline.scheduler
        assert dict(model.pipeline.scheduler.config) == before


@pytest.mark.parametrize("name", OF_DIFFUSION)
def test_every_value_of_an_option_is_one_that_diffusers_takes(name, other_folder):
    base = find_base_model(f"sd15={other_folder}")
    for option, choices in SCHEDULER_OPTIONS[name].items():
        for choice in choices:
            changed = Sampler(
                scheduler=name, n_steps=5, guidance_scale=3.0, size_px=64, options={option: choice}
            )
            scheduler = load_base_model(base, changed).pipeline.scheduler
            assert scheduler.config[option] == choice
            scheduler.set_timesteps(5)
            assert len(scheduler.timesteps) == 5


def test_the_noise_that_a_model_was_trained_on_stays_its_own(with_file):
    told = {
        "num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.01,
        "beta_schedule": "linear", "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
    }  # fmt: skip
    folder = with_file({"_class_name": "DDIMScheduler", **told})
    model = load_base_model(find_base_model(f"sd15={folder}"), SAMPLER)
    for scheduler in (
        model.pipeline.scheduler, model._training_schedule,
        model.make_ddim(), model.make_ddim(inverse=True),
    ):  # fmt: skip
        assert {key: scheduler.config[key] for key in told} == told
    assert model.make_ddim().config["timestep_spacing"] == "trailing"


def test_a_scheduler_of_flow_matching_is_refused(with_file):
    config = dict(diffusers.FlowMatchEulerDiscreteScheduler().config)
    folder = with_file({**config, "_class_name": "FlowMatchEulerDiscreteScheduler"})
    with pytest.raises(UserError) as caught:
        load_base_model(find_base_model(f"sd15={folder}"), SAMPLER)
    assert caught.value.code == "unsupported-base-model"
    assert "FlowMatchEulerDiscreteScheduler" in caught.value.problem
