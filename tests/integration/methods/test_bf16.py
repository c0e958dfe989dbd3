"""--precision bf16: what is held and computed in it, what stays fp32, and that methods work so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pipelines import PROMPTS, context, pixels, subjects

from dreambench.config.recipe import load_recipe
from dreambench.methods.finetuning import training
from dreambench.methods.finetuning.dreambooth import DreamBooth
from dreambench.methods.finetuning.dreambooth_peft import DreamBoothPeft
from dreambench.methods.registry import make_method

BF16, FP32 = torch.bfloat16, torch.float32
STEPS = 3
# Every way to train and to generate, each on one of the two shapes.
CASES = [
    ("other", "dreambooth"), ("xl", "dreambooth-text-encoder"), ("other", "dreambooth-lora"),
    ("xl", "textual-inversion"), ("other", "custom-diffusion"), ("xl", "sdedit"),
    ("other", "ddim-inversion"), ("other", "dreambooth-boft"), ("other", "dreambooth-vera"),
]  # fmt: skip


def make(name, base, cache_dir, precision):
    recipe = load_recipe(name)
    for table in recipe.tables.values():
        if "n_steps" in table:
            table |= {"n_steps": STEPS}
        if table.get("n_class_images"):
            table |= {"n_class_images": 2}
    where = replace(context(cache_dir, base_model=base, batch_size=2), precision=precision)
    return make_method(recipe, where)


def dtypes(pipeline, name):
    parts = [getattr(pipeline, name)] if hasattr(pipeline, name) else []
    return {weight.dtype for part in parts for weight in part.parameters()}


@pytest.mark.parametrize(("where", "name"), CASES)
def test_frozen_parts_are_bf16_and_what_trains_is_fp32(
    where, name, base_of, shared_cache, tmp_path, monkeypatch
):
    method = make(name, base_of[where], shared_cache, "bf16")
    pipeline, steps, drawn = method.model.pipeline, [], []
    initial = {
        key: value.clone() for key, value in method.model.load_networks(
            method.model.model, names=["unet"])["unet"].state_dict().items()
    }  # fmt: skip

    def compute_losses(*words):
        networks = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
        weights = [weight for part in networks for weight in part.parameters()]
        steps.append({(weight.requires_grad, weight.dtype) for weight in weights})
        if len(steps) == 1 and name.startswith(("dreambooth", "custom")):
            for key, value in pipeline.unet.state_dict().items():
                if key in initial:  # Masters are the files' weights, and not rounded ones.
                    assert torch.equal(value, initial[key].to(value.dtype))
        return real(*words)

    real = training.compute_losses
    monkeypatch.setattr(training, "compute_losses", compute_losses)
    dog = subjects("dog")[0]
    method.fit(dog, tmp_path, seed=1)
    generator = method.load(dog, tmp_path)
    pipeline.unet.register_forward_pre_hook(
        lambda unet, args, kwargs: drawn.append((args[0].dtype, dtypes(pipeline, "unet"))),
        with_kwargs=True,
        prepend=True,
    )
    images = generator.generate(PROMPTS, [1, 2, 3])
    assert [image.size for image in images] == [(64, 64)] * 3
    if method.tunes:
        assert len(steps) == STEPS
        assert all((True, FP32) in found and (True, BF16) not in found for found in steps)
        if name != "dreambooth-text-encoder":
            assert all((False, BF16) in found for found in steps)
    assert dtypes(pipeline, "vae") == {BF16} and dtypes(pipeline, "text_encoder") == {FP32}
    # Latents come in fp32 to the networks' border, and all weights that generate are bf16, but for
    # PEFT's, which mixes them itself.
    if isinstance(method, DreamBoothPeft):
        assert drawn and all(found == (FP32, {BF16, FP32}) for found in drawn)
    elif name != "ddim-inversion":
        assert set(map(str, drawn)) == {str((FP32, {BF16}))}
    assert dtypes(pipeline, "unet") == ({FP32} if type(method) is DreamBooth else {BF16}) or (
        name in ("dreambooth-lora", "dreambooth-boft", "dreambooth-vera", "custom-diffusion")
    )


def test_images_in_bf16_are_those_of_fp32_but_for_rounding(base_of, shared_cache, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        method = make("dreambooth", base_of["other"], shared_cache, precision)
        (dog,) = subjects("dog")
        out_dir = tmp_path / precision
        out_dir.mkdir()
        method.fit(dog, out_dir, seed=1)
        found[precision] = pixels(method.load(dog, out_dir).generate(PROMPTS, [1, 2, 3]))
        again = pixels(method.load(dog, out_dir).generate(PROMPTS, [1, 2, 3]))
        assert np.array_equal(found[precision], again)
    apart = np.abs(found["fp32"].astype(int) - found["bf16"])
    assert 0 < apart.mean() < 3, "rounding, and not other noise"
