"""Before a run: what it will take, and which identifiers there are."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dreambench import cli
from dreambench.base_models import BASE_MODELS, find_base_model, load_tokenizer
from dreambench.encoders import ENCODERS
from dreambench.estimate import make_estimate
from dreambench.methods.identifier import find_rare_tokens, sample_tokens
from dreambench.protocol import load_protocol
from dreambench.recipe import load_recipe
from dreambench.speeds import Setting, note_speed, read_speed
from dreambench.subjects import find_dataset, list_subjects


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
    assert found.weight_bytes == 30 * 2 * BASE_MODELS["sd15"].n_unet_parameters


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
def test_every_baseline_has_numbers_for_every_base_model(recipe, base_model):
    assert estimate(recipe, base_model=base_model).n_images == 3000


def test_plan_prints_counts_and_no_hours_that_nobody_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path))
    done = run_cli("plan", "--method", "dreambooth", "--protocol", "dreambench")
    assert done.exit_code == 0, done.output
    for text in ("30 subjects, 750 prompts, 3,000 images", "30,000 on 60,000", "download", "GB"):
        assert text in done.output
    assert "hours" not in done.output
    found = json.loads(run_cli("plan", "--method", "dreambooth", "--protocol", "mini",
                               "--device", "cpu", "--json").output)  # fmt: skip
    assert found["downloads"] == {}
    assert found["hours"] == {"tuning": None, "drawing": None}


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
    tokenizer = load_tokenizer(BASE_MODELS["mini"])
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
    assert "0 of 158" in done.output
    assert "GB free" in done.output
    found = json.loads(run_cli("doctor", "--data", tmp_path, "--json").output)
    assert {row["name"] for row in found} >= {"memory", "torch", "sdxl", "dinov2-vits14"}


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
