"""Pixels of a pipeline become the same images as diffusers makes of them, unless they are NaN."""

import shutil

import numpy as np
import pytest
import torch
from conftest import invoke
from PIL import Image
from safetensors.torch import load_file, save_file
from small_pipelines import SAMPLER, write_unclip_folder

from dreambench.base_models.drawing import NotNumbersError
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.methods.base import Context
from dreambench.methods.finetuning.class_images import make_class_images
from dreambench.progress import no_progress


@pytest.fixture(scope="module")
def bases(base_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unclip") / "pipeline"
    write_unclip_folder(folder)
    return {**base_of, "unclip": find_base_model(f"sd21-unclip={folder}")}


@pytest.mark.parametrize("name", ["mini", "other", "xl", "unclip"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_those_of_the_pipeline_bit_for_bit(bases, name, precision):
    model = load_base_model(bases[name], SAMPLER, precision=precision)
    prompts, seeds = ["a dog on the beach", "a red mug"], [3, 4]
    options = {"height": 64, "width": 64}
    if name == "unclip":
        photo = Image.effect_noise((64, 64), 40).convert("RGB")
        found = torch.cat([model.encode_photo(photo)] * 2)
        images = model.sample_from_embeddings(prompts, seeds, embeddings=found, noise_level=0)
        options |= {"image_embeds": found, "noise_level": 0}
    else:
        images = model.sample(prompts, seeds)
    with model.drawing():
        theirs = model.pipeline(
            prompt=prompts, num_inference_steps=SAMPLER.n_steps,
            guidance_scale=SAMPLER.guidance_scale, output_type="pil",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds], **options,
        ).images  # fmt: skip
    assert [np.asarray(image).tolist() for image in images] == [
        np.asarray(image).tolist() for image in theirs
    ]
    assert images[0].tobytes() != images[1].tobytes()


def break_decoder(model):
    with torch.no_grad():
        model.pipeline.vae.decoder.conv_in.weight.fill_(float("nan"))


def test_decoded_latents_are_those_of_diffusers_too(bases):
    model = load_base_model(bases["other"], SAMPLER)
    latents = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        images = model.decode_latents(latents)
        pixels = model.pipeline.vae.decode(latents / model.pipeline.vae.config.scaling_factor)
    theirs = model.pipeline.image_processor.postprocess(pixels.sample, output_type="pil")
    assert [image.tobytes() for image in images] == [image.tobytes() for image in theirs]
    break_decoder(model)
    with torch.no_grad(), pytest.raises(NotNumbersError):
        model.decode_latents(latents)


def test_pixels_that_are_no_numbers_are_no_images_and_reach_no_cache(bases, tmp_path, recwarn):
    model = load_base_model(bases["other"], SAMPLER)
    break_decoder(model)
    with pytest.raises(NotNumbersError, match="2 of 2 images are not numbers"):
        model.sample(["a dog", "a dog"], [0, 1])
    context = Context(
        base_model=bases["other"], sampler=SAMPLER, device="cpu", precision="fp32", batch_size=2,
        cache_dir=tmp_path, progress=no_progress,
    )  # fmt: skip
    with pytest.raises(NotNumbersError):
        make_class_images(model, context, class_name="dog", n_images=2)
    assert not list(tmp_path.rglob("*.png"))
    assert not [one for one in recwarn if "invalid value" in str(one.message)]


def test_a_run_of_broken_weights_fails_and_scores_nothing(tiny, tmp_path, other_folder):
    folder = shutil.copytree(other_folder, tmp_path / "broken")
    (file,) = (folder / "vae").glob("*.safetensors")
    weights = load_file(file)
    weights["decoder.conv_in.weight"].fill_(float("nan"))
    save_file(weights, file, metadata={"format": "pt"})
    done = invoke(
        "run", "--method", "class-only", "--protocol", tiny[0], "--alongside", "", "--out",
        tmp_path / "runs", "--cache", tmp_path / "cache", "--base-model", f"sd15={folder}",
        status=1,
    )  # fmt: skip
    assert "generate failed: NotNumbersError: pixels of " in done.stderr
    assert not list(tmp_path.glob("runs/**/*.png"))
