"""Frozen weights in 8 and 4 bits: training and images beside those of whole ones, on the CPU."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import invoke, refused_at_once
from small_flows import PROTOCOL, SIDE_PX
from small_pipelines import NUMBERS, Heard, pixels, subjects
from torch import nn

from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.base_models.registry import find_base_model, load_base_model
from dreambench.config.recipe import load_recipe
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.methods.finetuning.dreambooth_lora import DreamBoothLora, DreamBoothLoraSettings
from dreambench.methods.finetuning.dreambooth_peft import DreamBoothPeft, DreamBoothPeftSettings
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import estimate_memory
from dreambench.preflight.doctor import check_recipes

pytest.importorskip("bitsandbytes")

SAMPLER = Sampler(scheduler="flow-euler", n_steps=2, guidance_scale=4.0, size_px=SIDE_PX)
PROMPTS, SEEDS = ["a {subject} on the beach", "a red {subject}"], [3, 4]
LORA = {**NUMBERS, "prior_weight": 0.0, "learning_rate": 1e-2, "rank": 4}
# How far the losses of four steps, and images of 0 to 255, may lie from those of whole weights.
NEAR = {"int8": (2e-3, 1), "nf4": (2e-2, 6)}
STORED = {"int8": torch.int8, "nf4": torch.uint8}


@pytest.fixture
def flux(folder_of):
    return find_base_model(f"flux-dev={folder_of('flux-dev')}")


def learn(method, settings, base_model, folder, *, precision="fp32"):
    """The trained method, its losses, and its images."""
    context = Context(
        base_model=base_model, sampler=SAMPLER, device="cpu", precision=precision, batch_size=2,
        cache_dir=folder / "cache", progress=Heard(),
    )  # fmt: skip
    (dog,) = subjects("dog")
    out_dir = folder / settings.quantization
    out_dir.mkdir()
    made = method(settings, context)
    made.fit(dog, out_dir, seed=5)
    trained = [p for p in made.model.pipeline.transformer.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    losses = [step["subject"] for step in json.loads((out_dir / "losses.json").read_text())]
    return made, losses, pixels(made.load(dog, out_dir).generate(PROMPTS, SEEDS)).astype(int)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_learns_beside_quantised_weights_as_beside_whole_ones(
    precision, checkpointing, flux, tmp_path
):
    numbers, found = {**LORA, "gradient_checkpointing": checkpointing}, {}
    for form in ("none", "int8", "nf4"):
        settings = DreamBoothLoraSettings(**numbers, quantization=form)
        method, losses, images = learn(
            DreamBoothLora, settings, flux, tmp_path, precision=precision
        )
        network, encoder = (
            method.model.pipeline.components[name] for name in ("transformer", "text_encoder_2")
        )
        kinds = {p.dtype for p in network.parameters()}
        assert (STORED.get(form, torch.int16) in kinds) == (form != "none")
        # What reads texts is whole.
        wide = torch.bfloat16 if precision == "bf16" else torch.float32
        assert {p.dtype for p in encoder.parameters()} == {wide}
        found[form] = losses, images, sum(p.nbytes for p in network.parameters())
    exact, wanted, n_bytes = found["none"]
    assert exact[-1] < exact[0] - 0.05
    rounding = 0.01 if precision == "bf16" else 0
    for form, (of_losses, of_images) in NEAR.items():
        losses, images, _ = found[form]
        assert losses == pytest.approx(exact, rel=of_losses + rounding) and losses != exact
        assert 0 < np.abs(images - wanted).mean() < of_images + 100 * rounding
    assert found["nf4"][2] < found["int8"][2] < 0.7 * n_bytes


@pytest.mark.parametrize("adapter", ["dora", "loha", "lokr", "oft", "boft", "hra", "vera"])
def test_each_adapter_learns_so_or_is_refused(adapter, flux, tmp_path):
    size = {"block_size": 8} if adapter in ("oft", "boft") else {"rank": 4}
    numbers = {key: value for key, value in LORA.items() if key != "rank"} | size
    exact = None
    refused = {"hra": ["int8", "nf4"], "loha": ["nf4"], "lokr": ["nf4"]}.get(adapter, [])
    for form in ("none", "int8", "nf4"):
        if form in refused:
            recipe = load_recipe(f"dreambooth-{adapter}")
            with pytest.raises(UserError) as caught:
                read_settings(recipe.change("flux-dev", {"quantization": form}), "flux-dev")
            assert caught.value.code == "invalid-value" and form in caught.value.problem
            continue
        settings = DreamBoothPeftSettings(**numbers, adapter=adapter, quantization=form)
        _, losses, _ = learn(DreamBoothPeft, settings, flux, tmp_path)
        exact = exact or losses
        assert losses == pytest.approx(exact, rel=NEAR.get(form, (0,))[0])


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_an_image_does_not_depend_on_those_beside_it(form, flux):
    model = load_base_model(flux, SAMPLER, quantization=form)
    both = pixels(model.sample(["a dog", "a red mug"], SEEDS)).astype(int)
    alone = pixels(model.sample(["a red mug"], SEEDS[1:])).astype(int)
    assert np.abs(both[1:] - alone).max() <= 1


def test_the_gradient_is_that_of_the_rounded_weights_themselves():
    from dreambench.base_models.quantization import quantize  # noqa: PLC0415  (an extra)

    torch.manual_seed(1)
    for form, near in (("int8", 0.01), ("nf4", 0.2)):
        network = nn.Sequential(nn.Linear(64, 32))
        (plain,) = network
        weight, inputs = plain.weight.detach().clone(), torch.randn(5, 64, requires_grad=True)
        quantize(network, form, device=torch.device("cpu"), rounded=False)
        # The weights that the layer has, read from what it makes of unit vectors.
        own = (network(torch.eye(64)) - plain.bias).T
        assert 0 < (own - weight).abs().max() < near * weight.abs().max()
        found = torch.autograd.grad(network(inputs).square().sum(), inputs)[0]
        wanted = torch.autograd.grad((inputs @ own.T + plain.bias).square().sum(), inputs)[0]
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_without_its_package_it_is_one_line(flux, monkeypatch):
    monkeypatch.delitem(sys.modules, "dreambench.base_models.quantization", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError) as caught:
        load_base_model(flux, SAMPLER, quantization="int8")
    assert caught.value.code == "missing-package"
    assert "dreambench[small-gpu]" in caught.value.hint


def test_what_cannot_be_quantised_is_refused_before_anything_starts():
    words = ("plan", "--protocol", "mini", "--set", "quantization=nf4", "--method")
    other = [word.replace("nf4", "int3") for word in words]
    for base in ("mini", "sdxl"):
        line = refused_at_once(*words, "dreambooth-lora", "--base-model", base)
        assert f"'{base}'" in line and "UNet" in line
    # Full fine-tuning trains those very weights, and has no such setting.
    line = refused_at_once(*words, "dreambooth", "--base-model", "flux-dev")
    assert "quantization" in line and "dreambooth" in line
    line = refused_at_once(*other, "dreambooth-lora", "--base-model", "flux-dev")
    assert "nf4" in line


def test_it_is_part_of_the_digest_and_its_memory_is_counted():
    recipe, base = load_recipe("dreambooth-lora"), BASE_MODELS["qwen-image"]
    changed = recipe.change(base.name, {"quantization": "nf4"})
    assert changed.digest(base.name) != recipe.digest(base.name)

    def need(form, precision):
        settings = read_settings(recipe.change(base.name, {"quantization": form}), base.name)
        work = find_method(recipe.method).count_work(settings, base)
        return estimate_memory(settings, work, base, size_px=1024, precision=precision) / 1.05

    widest = max(n_in * n_out for n_in, n_out, _ in base.adapted_shapes)
    for precision, width in (("fp32", 4), ("bf16", 2)):
        for form, n_bytes in (("int8", 1), ("nf4", 0.5625)):
            saved = need("none", precision) - need(form, precision)
            wanted = (width - n_bytes) * base.n_denoiser_parameters - width * widest
            assert saved == pytest.approx(wanted)
    # Said where memory is short: 20 billion weights beside a language model of 8 billion.
    (line,) = [
        line
        for found in check_recipes("cuda", 48_000_000_000)
        if found.name == "dreambooth-lora"
        for line in found.text.splitlines()
        if line.startswith("qwen-image ")
    ]
    assert 'quantization = "' in line


@pytest.mark.long
def test_a_run_with_quantised_weights_is_a_row_of_its_own(folder_of, shared_cache, tmp_path):
    (tmp_path / "tiny.toml").write_text(PROTOCOL)
    words = ("--set", "n_steps=2", "--set", "n_class_images=2", "--set", "quantization=nf4")
    invoke(
        "run", "--protocol", tmp_path / "tiny.toml", "--method", "dreambooth-lora", "--base-model",
        f"flux-dev={folder_of('flux-dev')}", "--out", tmp_path / "runs", "--cache", shared_cache,
        "--batch-size", 2, "--alongside", "", *words,
    )  # fmt: skip
    (run,) = (tmp_path / "runs").glob("*/*nf4*/run.json")
    content = run.read_text()
    assert '"quantization": "nf4"' in content
