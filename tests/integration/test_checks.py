"""Before a run: what it will take, and which identifiers there are."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from dreambench import cli
from dreambench.base_models import BASE_MODELS, find_base_model
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.subjects import find_dataset, list_subjects
from dreambench.encoders.registry import ENCODERS, SEGMENTERS
from dreambench.errors import UserError
from dreambench.machine.throughput import Setting, note_speed, read_speed
from dreambench.methods.finetuning.identifier import find_rare_tokens, sample_tokens
from dreambench.methods.image_prompting.adapters import ADAPTERS
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import estimate_memory, make_estimate
from dreambench.preflight.doctor import check_recipes


def run_cli(*words):
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def estimate(method, protocol="dreambench", base_model="sd15"):
    loaded = load_protocol(protocol)
    subjects = list_subjects(find_dataset(loaded.dataset))
    return make_estimate(loaded, load_recipe(method), find_base_model(base_model), subjects)


def test_the_papers_protocol_counts_as_the_paper_says():
    found = estimate("dreambooth")
    assert (found.n_subjects, found.n_prompts, found.n_images) == (30, 750, 3000)
    # 15 classes of 200 images, 1000 steps a subject on a photo and a class image.
    assert found.n_class_images == 15 * 200
    assert found.n_optimizer_steps == 30 * 1000
    assert found.n_training_images == 2 * 30 * 1000
    # 50 steps, twice each for guidance; PRES takes four images a subject.
    assert found.n_network_calls == (3000 + 30 * 4 + 3000) * 50 * 2
    assert found.weight_bytes == 30 * 2 * BASE_MODELS["sd15"].n_denoiser_parameters


def test_methods_that_do_less_are_counted_less():
    without, floor, copies = map(estimate, ("dreambooth-no-prior", "class-only", "copy-reference"))
    assert without.n_class_images == 0
    assert without.n_training_images == without.n_optimizer_steps == 30_000
    assert floor.n_optimizer_steps == floor.weight_bytes == 0
    assert floor.n_network_calls == 3120 * 100
    assert copies.n_network_calls == 0
    assert copies.n_images == 3000


@pytest.mark.parametrize("base_model", BASE_MODELS)
@pytest.mark.parametrize("recipe", ["dreambooth", "dreambooth-no-prior", "class-only"])
def test_every_baseline_has_numbers_for_every_base_model_that_reads_prompts(recipe, base_model):
    if base_model == "sd21-unclip":
        with pytest.raises(UserError, match="has no table for the base model 'sd21-unclip'"):
            estimate(recipe, base_model=base_model)
    else:
        assert estimate(recipe, base_model=base_model).n_images == 3000


def test_plan_prints_counts_and_no_hours_that_nobody_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path))
    done = run_cli("plan", "--method", "dreambooth", "--protocol", "dreambench")
    assert done.exit_code == 0, done.output
    for text in ("30 subjects, 750 prompts, 3,000 images", "30,000 on 60,000", "download", "GB"):
        assert text in done.output
    assert "clipseg: config.json, model.safetensors" in done.output
    assert "hours" not in done.output
    found = json.loads(run_cli("plan", "--method", "dreambooth", "--protocol", "mini",
                               "--device", "cpu", "--json").output)  # fmt: skip
    assert found["downloads"] == {}
    assert found["hours"] == {"tuning": None, "drawing": None}


@pytest.mark.parametrize("method", ["ip-adapter", "image-variation"])
def test_plan_counts_a_methods_own_downloads(method, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    words = ["plan", "--method", f"{method},class-only", "--protocol", "dreambench"]
    own, plain = json.loads(run_cli(*words, "--json").output)
    (lacking,) = own["downloads"].keys() - plain["downloads"].keys()
    assert lacking.startswith("ip-adapter-sd15: models/ip-adapter_sd15.safetensors, models/image_")
    assert own["downloads"][lacking] == 2_573_000_000
    assert f"{lacking} (2.57 GB)" in run_cli(*words).output
    for file in ADAPTERS["ip-adapter-sd15"].files:
        path = tmp_path / "ip-adapter-sd15" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    own, plain = json.loads(run_cli(*words, "--json").output)
    assert own["downloads"] == plain["downloads"]


def test_speeds_are_kept_by_setting(tmp_path):
    setting = Setting("cpu with 2 cores", "mini", 64, "fp32")
    assert read_speed(tmp_path, setting, "network_call") is None
    note_speed(tmp_path, setting, "network_call", seconds_per_unit=0.5)
    note_speed(tmp_path, setting, "training_image", seconds_per_unit=0.25)
    assert read_speed(tmp_path, setting, "network_call") == 0.5
    assert read_speed(tmp_path, setting, "training_image") == 0.25
    other = Setting("cpu with 2 cores", "mini", 128, "fp32")
    assert read_speed(tmp_path, other, "network_call") is None


def test_tokens_are_rare_words_that_survive_a_round_trip():
    tokenizer = StableDiffusion.load_tokenizer(BASE_MODELS["mini"])
    words = find_rare_tokens(tokenizer)
    chosen = sample_tokens(words, 5, seed=3)
    assert chosen == sample_tokens(words, 5, seed=3) != sample_tokens(words, 5, seed=4)
    for word in chosen:
        ids = tokenizer(word, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids).strip() == word
    done = run_cli("tokens", "--n", 5, "--seed", 3)
    assert all(word in done.output for word in chosen)
    assert len(done.output.splitlines()) == 6
    refused = run_cli("tokens", "--base-model", "sdxl")
    assert refused.exit_code == 2
    assert "bring its diffusers folder" in refused.output


def test_doctor_says_for_each_weight_present_or_what_to_bring(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    done = run_cli("doctor", "--data", tmp_path)
    assert done.exit_code == 0, done.output
    for name, spec in ENCODERS.items():
        (line,) = [line for line in done.output.splitlines() if f" {name} " in line]
        if spec.shipped:
            assert "ok" in line
        else:
            assert f"put it at {tmp_path / (spec.stored_as or name) / spec.file}" in line
    (line,) = [line for line in done.output.splitlines() if " clipseg " in line]
    assert f"of CIDAS/clipseg-rd64-refined at {SEGMENTERS['clipseg'].revision}" in line
    assert f"put them into {tmp_path / 'clipseg'}" in line
    (line,) = [line for line in done.output.splitlines() if " ip-adapter-sdxl " in line]
    assert "bring sdxl_models/ip-adapter_sdxl_vit-h.safetensors, models/image_encoder/" in line
    assert f"into {tmp_path / 'ip-adapter-sdxl'}" in line
    for name in ("mini-segmenter", "ip-adapter-mini"):
        (line,) = [line for line in done.output.splitlines() if f" {name} " in line]
        assert "shipped" in line
    assert "0 of 158" in done.output
    assert "GB free" in done.output
    found = json.loads(run_cli("doctor", "--data", tmp_path, "--json").output)
    assert {row["name"] for row in found} >= {"memory", "torch", "sdxl", "dinov2-vits14"}


SD15, DINOV2 = BASE_MODELS["sd15"], ENCODERS["dinov2-vits14"]
CLIPSEG, ADAPTER = SEGMENTERS["clipseg"], ADAPTERS["ip-adapter-sdxl"]


@pytest.mark.parametrize(
    ("find", "hub", "revision", "files"),
    [
        (SD15.find_weights, SD15.location, SD15.revision, [SD15.weights_file]),
        (DINOV2.find_local, DINOV2.hub, DINOV2.revision, [DINOV2.file]),
        (CLIPSEG.find_local, CLIPSEG.hub, CLIPSEG.revision, CLIPSEG.files),
        (ADAPTER.find_local, ADAPTER.hub, ADAPTER.revision, ADAPTER.files),
    ],
    ids=["base model", "encoder", "segmenter", "image adapter"],
)
def test_what_lies_in_the_hubs_cache_is_here(find, hub, revision, files, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "brought"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / f"models--{hub.replace('/', '--')}" / "snapshots" / revision
    for file in files:
        assert find() is None
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    assert find().is_relative_to(snapshot)


def test_golden_check_passes_here_and_fails_with_a_cause_when_pixels_are_wrong(monkeypatch):
    done = run_cli("doctor", "--golden", "--protocol", "mini")
    assert done.exit_code == 0, done.output
    assert "all within tolerance" in done.output
    right = ENCODERS["mini-vit"]
    wrong = replace(right, pixels=replace(right.pixels, interpolation="bilinear"))
    monkeypatch.setitem(ENCODERS, "mini-vit", wrong)
    done = run_cli("doctor", "--golden", "--protocol", "mini")
    assert done.exit_code == 2
    assert "dino: images are resized bilinear where bicubic is right" in done.output
    assert "clip-i:" not in done.output


def need(method, base_model, *, precision="fp32", **changes):
    base = BASE_MODELS[base_model]
    recipe = load_recipe(method)
    settings = read_settings(recipe, base_model).model_copy(update=changes)
    work = find_method(recipe.method).count_work(settings, base)
    size_px = load_protocol("dreambench").sampler.size_px
    return estimate_memory(settings, work, base, size_px=size_px, precision=precision)


def test_memory_of_full_fine_tuning_is_sixteen_bytes_a_weight_and_the_activations():
    base = BASE_MODELS["sd15"]
    weights = 4 * (base.n_denoiser_parameters + base.n_other_parameters)
    bare = weights + 12 * base.n_denoiser_parameters + 2 * base.activation_bytes
    assert need("dreambooth", "sd15") == pytest.approx(1.05 * bare + 1e9)
    # 8-bit Adam saves six bytes a weight, checkpointing five sixths of the activations.
    saved = need("dreambooth", "sd15") - need("dreambooth", "sd15", optimizer="adamw-8bit")
    assert saved == pytest.approx(1.05 * 6 * base.n_denoiser_parameters)
    kept = 2 * (base.activation_bytes - base.checkpointed_bytes)
    saved = need("dreambooth", "sd15") - need("dreambooth", "sd15", gradient_checkpointing=True)
    assert saved == pytest.approx(1.05 * kept)
    assert need("dreambooth-lora", "sd15") < 0.5 * need("dreambooth", "sd15")
    assert need("class-only", "sd15") == pytest.approx(1.05 * weights + 1e9)


def count_trained(name):
    recipe, base = load_recipe(name), BASE_MODELS["mini"]
    settings = read_settings(recipe, "mini")
    return find_method(recipe.method).count_work(settings, base).trained_parameters


def found_for(n_bytes, name):
    return next(f for f in check_recipes("cuda", n_bytes) if f.name == name)


def test_doctor_says_what_to_lower_where_a_baseline_does_not_fit():
    assert found_for(80_000_000_000, "dreambooth").ok
    at_24 = found_for(24_000_000_000, "dreambooth").text.splitlines()
    assert [line.split()[0] for line in at_24] == ["mini", "sd15", "sd21", "sdxl"]
    assert at_24[1].startswith("sd15 20.")
    assert at_24[3].endswith("else take dreambooth-lora")
    at_16 = found_for(16_000_000_000, "dreambooth")
    assert not at_16.ok
    line = at_16.text.splitlines()[1]
    assert 'gradient_checkpointing = true, optimizer = "adamw-8bit"' in line
    needed = need("dreambooth", "sd15", gradient_checkpointing=True, optimizer="adamw-8bit")
    assert needed < 16e9 < need("dreambooth", "sd15", gradient_checkpointing=True)
    assert f"{needed / 1e9:.1f} with" in line
    assert "needs none" in found_for(1, "copy-reference").text


def test_parameters_that_memory_is_counted_from_are_minis_own():
    base = BASE_MODELS["mini"]
    pipeline = StableDiffusion.load_pipeline(base, device=torch.device("cpu"))
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    unet = sum(p.numel() for p in pipeline.unet.parameters())
    assert (unet, sum(counts) - unet) == (base.n_denoiser_parameters, base.n_other_parameters)
    text = sum(p.numel() for p in pipeline.text_encoder.parameters())
    assert text == base.n_text_parameters
    with_text = count_trained("dreambooth-text-encoder") - count_trained("dreambooth")
    assert with_text == base.n_text_parameters
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == base.size_px
