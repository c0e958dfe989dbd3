"""DreamBooth on a cascade on pixels: both stages learn, are saved and load again."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_PROTOCOL, invoke, refused_at_once
from safetensors.torch import load_file
from small_cascade import LARGE_PX, write_cascade_folder
from small_pipelines import NUMBERS, Heard, pixels, subjects

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model
from dreambench.config.recipe import load_recipe
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.methods.finetuning.dreambooth import DreamBooth, DreamBoothSettings
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.finetuning.dreambooth_peft import DreamBoothPeft, DreamBoothPeftSettings
from dreambench.methods.registry import find_method, read_settings

SAMPLER = Sampler(scheduler="ddpm", n_steps=2, guidance_scale=3.0, size_px=LARGE_PX)
WORDS = {**NUMBERS, "identifier": "zbx", "learning_rate": 1e-3, "n_steps": 3, "n_class_images": 2}
SECOND = {"upscaler_n_steps": 2, "upscaler_learning_rate": 1e-3}
PROMPTS, SEEDS = ["a {subject} on the beach", "a dog"], [3, 4]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade") / "pipeline"
    write_cascade_folder(folder)
    return find_base_model(f"deepfloyd-if={folder}")


def context(base, folder, **options):
    return Context(
        base_model=base, sampler=SAMPLER, device="cpu", precision="fp32", batch_size=2,
        cache_dir=folder / "cache", progress=Heard(), **options,
    )  # fmt: skip


MADE = {
    "full": (DreamBooth, DreamBoothSettings(**WORDS, **SECOND)),
    "lora": (DreamBoothLora, DreamBoothLoraSettings(**WORDS, **SECOND, rank=2)),
    "dora": (DreamBoothPeft, DreamBoothPeftSettings(**WORDS, **SECOND, rank=2, adapter="dora")),
}
FILES = {
    "full": "unet.safetensors",
    "lora": "pytorch_lora_weights.safetensors",
    "dora": "unet/adapter_model.safetensors",
}


def predict(model):
    """What both stages predict of the same noise, as they are."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        text = model.encode_prompts(["a zbx dog"])
        return [
            stage.predict(torch.randn((1, 3, side, side), generator=noise), torch.tensor([9]), text)
            for stage, side in ((model, 16), (model.upscaler, 32))
        ]


@pytest.mark.parametrize("how", MADE)
def test_both_stages_learn_and_load_again(how, base, tmp_path):
    kind, settings = MADE[how]
    (dog,) = subjects("dog")
    out = tmp_path / "out"
    out.mkdir()
    method = kind(settings, context(base, tmp_path))
    before = {
        stage: {key: value.clone() for key, value in stage.pipeline.unet.state_dict().items()}
        for stage in (method.model, method.model.upscaler)
    }
    method.fit(dog, out, seed=5)
    trained = predict(method.model)
    generator = method.load(dog, out)
    # Full weights are saved in half precision.
    near = 1e-2 if how == "full" else 1e-6
    for mine, loaded in zip(trained, predict(method.model), strict=True):
        assert torch.allclose(mine, loaded, atol=near)
    images = pixels(generator.generate(PROMPTS, SEEDS))
    for folder, n_steps in ((out, 3), (out / "upscaler", 2)):
        losses = json.loads((folder / "losses.json").read_text())
        assert len(losses) == n_steps and all(np.isfinite(step["subject"]) for step in losses)
        assert load_file(folder / FILES[how])
        # Stage II learns from the photos alone.
        assert (losses[0]["prior"] > 0) == (folder == out)
    if how == "full":
        for stage, weights in before.items():
            now = stage.pipeline.unet.state_dict()
            assert any(not torch.equal(now[key], weights[key]) for key in weights)
    again = kind(settings, context(base, tmp_path))
    assert np.array_equal(images, pixels(again.load(dog, out).generate(PROMPTS, SEEDS)))
    # Either stage counts.
    alone = kind(settings.model_copy(update=dict.fromkeys(SECOND)), context(base, tmp_path))
    first = pixels(alone.load(dog, out).generate(PROMPTS, SEEDS))
    assert not np.array_equal(images, first)
    plain = pixels(kind(settings, context(base, tmp_path)).model.sample(["a zbx dog"], SEEDS[:1]))
    assert not np.array_equal(first[:1], plain)


def test_stage_two_starts_anew_for_each_subject(base, tmp_path):
    dog, mug = subjects("dog", "mug")
    kind, settings = MADE["lora"]
    both = kind(settings, context(base, tmp_path))
    for name, subject in (("mug", mug), ("dog", dog), ("alone", dog)):
        (tmp_path / name).mkdir()
        method = kind(settings, context(base, tmp_path)) if name == "alone" else both
        method.fit(subject, tmp_path / name, seed=5)
    for part in (".", "upscaler"):
        found, wanted = (
            load_file(tmp_path / name / part / FILES["lora"]) for name in ("dog", "alone")
        )
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_numbers_of_stage_two_go_together_and_need_a_cascade(base, tmp_path):
    words = ("plan", "--protocol", "mini", "--method", "dreambooth", "--base-model")
    line = refused_at_once(*words, "deepfloyd-if", "--set", "upscaler_n_steps=0")
    assert "upscaler_learning_rate" in line
    steps = ("--set", "upscaler_n_steps=5", "--set", "upscaler_learning_rate=1e-6")
    assert "'mini'" in refused_at_once(*words, "mini", *steps)
    kind, settings = MADE["lora"]
    with pytest.raises(UserError) as caught:
        kind(settings, context(base, tmp_path, checkpoints=[1]))
    assert caught.value.code == "invalid-value"


def test_work_of_both_stages_is_counted():
    base = BASE_MODELS["deepfloyd-if"]
    work = {}
    for name in ("dreambooth", "dreambooth-lora"):
        recipe = load_recipe(name)
        settings = read_settings(recipe, base.name)
        work[name] = find_method(recipe.method).count_work(settings, base)
        assert work[name].second_steps == 2000
        assert work[name].training_images == settings.n_steps * 4 * 2 + 2000 * 4
    assert work["dreambooth"].saved_bytes == 2 * (base.n_denoiser_parameters + 1_200_000_000)
    n_trained = sum(4 * (i + o) * n for i, o, n in base.adapted_shapes)
    assert work["dreambooth-lora"].trained_parameters == n_trained > 2_000_000


@pytest.mark.long
def test_a_run_ends_with_scores(base, shared_cache, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY_PROTOCOL.replace("size_px = 64", "size_px = 32"))
    words = ["identifier=zbx", "n_steps=2", "upscaler_n_steps=2", "n_class_images=2"]
    invoke(
        "run", "--method", "dreambooth-lora", "--protocol", tmp_path / "tiny.toml", "--alongside",
        "class-only", "--base-model", f"deepfloyd-if={base.location}", "--out", tmp_path / "runs",
        "--cache", shared_cache, "--subjects", "dog", "--prompts", "red",
        *(part for word in words for part in ("--set", word)),
    )  # fmt: skip
    folders = sorted(path.parent for path in (tmp_path / "runs").glob("*/*/summary.json"))
    assert [folder.name.split("+")[0] for folder in folders] == ["class-only", "dreambooth-lora"]
    trained = folders[1] / "train" / "dog"
    assert (trained / "upscaler" / FILES["lora"]).is_file()
