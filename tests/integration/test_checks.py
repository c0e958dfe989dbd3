"""Before a run: what it will take, and which identifiers there are."""

import json
import re
from dataclasses import replace

import pytest
import torch
from conftest import invoke, refused_at_once

from dreambench.base_models import BASE_MODELS, find_base_model
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.config.protocol import load_protocol
from dreambench.config.recipe import load_recipe
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import list_subjects
from dreambench.encoders.registry import ENCODERS, SEGMENTERS
from dreambench.errors import UserError
from dreambench.machine.devices import name_device
from dreambench.machine.throughput import Setting, note_speed, read_speed
from dreambench.methods.finetuning.identifier import find_rare_tokens, sample_tokens
from dreambench.methods.image_prompting.adapters import ADAPTERS
from dreambench.methods.registry import find_method, read_settings
from dreambench.preflight.cost_estimate import (
    DECODING_BYTES_PER_PIXEL,
    estimate_memory,
    make_estimate,
)
from dreambench.preflight.doctor import check_recipes


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
    if base_model == "sd21-unclip" or (base_model == "omnigen" and recipe != "class-only"):
        with pytest.raises(UserError) as caught:
            estimate(recipe, base_model=base_model)
        assert caught.value.code == "missing-table"
        assert recipe in caught.value.problem and base_model in caught.value.problem
    else:
        assert estimate(recipe, base_model=base_model).n_images == 3000


def test_plan_prints_counts_and_no_hours_that_nobody_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path))
    words = ("plan", "--method", "dreambooth", "--protocol", "dreambench")
    output = invoke(*words).stdout
    for fact in ("30 subjects", "750 prompts", "3,000 images", "30,000 on 60,000", "GB"):
        assert fact in output
    for name in ("config.json", "model.safetensors", "CIDAS/clipseg-rd64-refined"):
        assert name in output
    assert "hours" not in output
    found = json.loads(invoke(*words, "--json").stdout)
    assert found["hours"] == {"training": None, "generating": None}
    assert sum(found["downloads"].values()) > 0
    small = json.loads(
        invoke("plan", "--method", "dreambooth", "--protocol", "mini", "--device", "cpu",
               "--json").stdout
    )  # fmt: skip
    assert small["downloads"] == {}
    assert small["hours"] == {"training": None, "generating": None}


@pytest.mark.parametrize("method", ["ip-adapter", "image-variation"])
def test_plan_counts_a_methods_own_downloads(method, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    words = ["plan", "--method", f"{method},class-only", "--protocol", "dreambench"]
    own, plain = json.loads(invoke(*words, "--json").stdout)
    (lacking,) = own["downloads"].keys() - plain["downloads"].keys()
    assert lacking.startswith("ip-adapter-sd15: models/ip-adapter_sd15.safetensors, models/image_")
    assert own["downloads"][lacking] == 2_573_000_000
    assert f"{lacking} (2.57 GB)" in invoke(*words).stdout
    for file in ADAPTERS["ip-adapter-sd15"].files:
        path = tmp_path / "ip-adapter-sd15" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    own, plain = json.loads(invoke(*words, "--json").stdout)
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
    done = invoke("tokens", "--n", 5, "--seed", 3)
    assert all(word in done.stdout for word in chosen)
    assert len(done.stdout.splitlines()) == 6
    base = BASE_MODELS["sdxl"]
    line = refused_at_once("tokens", "--base-model", "sdxl")
    assert base.location in line
    with pytest.raises(UserError) as caught:
        StableDiffusion.load_tokenizer(base)
    assert caught.value.code == "hub-unreachable"
    assert "sdxl=FOLDER" in caught.value.hint


def find_line(output, name):
    """The one line of doctor's diagnosis about a name."""
    (line,) = [line for line in output.splitlines() if f" {name} " in line]
    return line


def test_doctor_says_for_each_weight_present_or_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    output = invoke("doctor", "--data", tmp_path).stdout
    for name, spec in ENCODERS.items():
        line = find_line(output, name)
        if spec.shipped:
            assert "ok" in line and "shipped" in line
        else:
            assert f"{tmp_path / (spec.stored_as or name) / spec.file}" in line
            assert "--" in line
    clipseg = SEGMENTERS["clipseg"]
    for fact in (*clipseg.files, clipseg.hub, clipseg.revision, str(tmp_path / "clipseg")):
        assert fact in find_line(output, "clipseg")
    adapter = ADAPTERS["ip-adapter-sdxl"]
    for fact in (*adapter.files, adapter.hub, str(tmp_path / "ip-adapter-sdxl")):
        assert fact in find_line(output, "ip-adapter-sdxl")
    for name in ("mini-segmenter", "ip-adapter-mini"):
        assert "shipped" in find_line(output, name)
    assert "0 of 158" in output
    assert "GB free" in output
    found = json.loads(invoke("doctor", "--data", tmp_path, "--json").stdout)
    rows = {row["name"]: row for row in found}
    assert set(rows) >= {"memory", "torch", "sdxl", "dinov2-vits14"}
    assert (rows["mini-vit"]["ok"], rows["clipseg"]["ok"]) == (True, False)


def test_doctor_ends_with_a_verdict_on_the_protocol_that_a_run_would_take(tmp_path, monkeypatch):
    done = invoke("doctor", "--data", tmp_path)
    assert done.stdout.splitlines()[-1] == "Ready: 'mini' can be run on cpu"
    assert "No --protocol" in done.stderr
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    line = invoke("doctor", "--data", tmp_path, "--protocol", "dreambench").stdout.splitlines()[-1]
    assert line.startswith("Not ready for 'dreambench' on cpu: it lacks weights of sd15: ")
    assert "158 of 158 photos of dreambooth" in line
    assert "CIDAS/clipseg-rd64-refined" in line
    found = json.loads(invoke("doctor", "--data", tmp_path, "--json").stdout)
    assert (found[-1]["section"], found[-1]["name"], found[-1]["ok"]) == ("verdict", "mini", True)
    line = refused_at_once("doctor", "--protocol", "minni")
    assert "minni" in line


def plan(*words):
    found = json.loads(invoke("plan", "--method", *words, "--json").stdout)
    return found if isinstance(found, list) else [found]


def test_plan_takes_the_protocol_and_the_device_that_a_run_would_take(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path))
    own = Setting(name_device("cpu"), "mini", 64, "fp32")
    note_speed(tmp_path, own, "network_call", seconds_per_unit=36.0)
    (found,) = plan("dreambooth")
    assert [found] == plan("dreambooth", "--protocol", "mini", "--device", "cpu")
    assert found["hours"]["generating"] == found["n_network_calls"] / 100


def test_plan_counts_replicates_and_checkpoints():
    tuned, floor = plan("dreambooth,class-only")
    again, plain = plan("dreambooth,class-only", "--replicates", "3")
    assert plain == floor
    for name in ("n_images", "n_prior_images", "n_optimizer_steps", "n_training_images"):
        assert again[name] == 3 * tuned[name]
    assert again["weight_bytes"] == 3 * tuned["weight_bytes"]
    assert again["n_class_images"] == tuned["n_class_images"]
    rows = plan("dreambooth", "--checkpoints", "20,10")
    assert [row["method"] for row in rows] == ["dreambooth+n_steps=10", "dreambooth+n_steps=20"]
    # One training, to the last of them; images of each.
    assert [row["n_optimizer_steps"] for row in rows] == [0, 8 * 20]
    assert [row["n_class_images"] > 0 for row in rows] == [False, True]
    assert {row["n_images"] for row in rows} == {tuned["n_images"]}
    assert "10,x" in refused_at_once("plan", "--method", "dreambooth", "--checkpoints", "10,x")


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
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / f"models--{hub.replace('/', '--')}" / "snapshots" / revision
    for file in files:
        assert find() is None
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    assert find().is_relative_to(snapshot)


def test_golden_check_passes_here_and_fails_with_a_cause_when_pixels_are_wrong(monkeypatch):
    words = ("doctor", "--golden", "--protocol", "mini")
    found = json.loads(invoke(*words, "--json").stdout)
    assert [(row["metric"], row["passed"]) for row in found] == [("dino", True), ("clip-i", True)]
    assert invoke(*words).stdout.count(" 0 of ") == 2
    right = ENCODERS["mini-vit"]
    wrong = replace(right, pixels=replace(right.pixels, interpolation="bilinear"))
    monkeypatch.setitem(ENCODERS, "mini-vit", wrong)
    (line,) = [
        line
        for line in invoke(*words, status=2).stderr.splitlines()
        if line.startswith("dreambench:")
    ]
    assert all(fact in line for fact in ("dino: ", "bilinear", "bicubic is right"))
    assert "clip-i:" not in line


def need(method, base_model, *, precision="fp32", **changes):
    base = BASE_MODELS[base_model]
    recipe = load_recipe(method)
    settings = read_settings(recipe, base_model).model_copy(update=changes)
    work = find_method(recipe.method).count_work(settings, base)
    return estimate_memory(settings, work, base, size_px=base.size_px, precision=precision)


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
    drawing = DECODING_BYTES_PER_PIXEL * base.size_px**2
    assert need("class-only", "sd15") == pytest.approx(1.05 * (weights + drawing) + 1e9)
    # bf16 halves what is frozen, but for text encoders.
    saved = need("class-only", "sd15") - need("class-only", "sd15", precision="bf16")
    assert saved == pytest.approx(1.05 * (weights / 2 - 2 * base.n_text_parameters))


def count_trained(name):
    recipe, base = load_recipe(name), BASE_MODELS["mini"]
    settings = read_settings(recipe, "mini")
    return find_method(recipe.method).count_work(settings, base).trained_parameters


def found_for(n_bytes, name):
    return next(f for f in check_recipes("cuda", n_bytes) if f.name == name)


def test_doctor_says_what_to_lower_where_a_baseline_does_not_fit():
    assert found_for(500_000_000_000, "dreambooth").ok
    at_80 = found_for(80_000_000_000, "dreambooth").text.splitlines()
    assert [line.split()[0] for line in at_80 if " needs " not in line] == [
        "mini", "sd15", "sd21", "sdxl", "sd35-medium", "flux2-klein-base", "flux2-klein",
        "deepfloyd-if", "mini-pixel",
    ]  # fmt: skip
    at_24 = found_for(24_000_000_000, "dreambooth").text.splitlines()
    assert [line.split()[0] for line in at_24] == list(load_recipe("dreambooth").tables)
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


def test_text_encoders_on_the_cpu_are_counted_where_a_gpu_lacks_their_memory():
    base = BASE_MODELS["flux2-klein-base"]
    recipe = load_recipe("dreambooth-lora")
    work = find_method(recipe.method).count_work(read_settings(recipe, base.name), base)
    for precision, n_bytes in (("fp32", 4), ("bf16", 2)):
        found = [
            estimate_memory(
                read_settings(recipe, base.name), work, base, size_px=base.size_px,
                precision=precision, offloads=offloads,
            )
            for offloads in (False, True)
        ]  # fmt: skip
        assert found[0] - found[1] == pytest.approx(1.05 * n_bytes * base.n_text_parameters)
    plain = need("dreambooth-lora", "flux2-klein-base")
    line = found_for(plain - 1, "dreambooth-lora").text.splitlines()[5]
    assert line == f"{base.name} 25.3 GB, text encoders on the CPU"
    assert found_for(plain, "dreambooth-lora").text.splitlines()[5] == f"{base.name} 42.2 GB"
    # Only a GPU's memory is another than the CPU's.
    (on_cpu,) = (f for f in check_recipes("cpu", plain - 1) if f.name == "dreambooth-lora")
    assert " needs " in on_cpu.text.splitlines()[5]
    assert "text encoders" not in on_cpu.text
    at_24 = found_for(24_000_000_000, "dreambooth-lora").text.splitlines()
    (flux,) = (line for line in at_24 if line.startswith("flux-dev"))
    assert flux.endswith('quantization = "int8", text encoders on the CPU')


def test_plan_tells_what_offloading_saves():
    done = invoke(
        "plan", "--method", "class-only", "--base-model", "flux-dev", "--protocol", "dreambench",
        "--precision", "bf16",
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if line.strip().startswith("memory"))
    assert re.search(r"GB of the device in bf16; where a GPU has less, \d+\.\d with text", line)
    done = invoke("plan", "--method", "class-only", "--base-model", "sd15")
    assert "where a GPU has less" not in done.stdout


def test_parameters_that_memory_is_counted_from_are_minis_own():
    base = BASE_MODELS["mini"]
    pipeline = StableDiffusion.load_pipeline(base, torch.device("cpu"))
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    unet = sum(p.numel() for p in pipeline.unet.parameters())
    assert (unet, sum(counts) - unet) == (base.n_denoiser_parameters, base.n_other_parameters)
    text = sum(p.numel() for p in pipeline.text_encoder.parameters())
    assert text == base.n_text_parameters
    with_text = count_trained("dreambooth-text-encoder") - count_trained("dreambooth")
    assert with_text == base.n_text_parameters
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == base.size_px
