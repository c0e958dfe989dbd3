"""Hostile inputs: some of each kind here, with a fixed seed; many more in the campaign."""

from __future__ import annotations

import pytest
from PIL import Image

from faults.fuzzing import CORPUS, Fuzzer, Target
from faults.mutations import join_png, split_png
from faults.readers import has_flat_end, is_whole_png
from faults.targets import TARGETS
from faults.test_injection import check

N_INPUTS, N_CAMPAIGN_INPUTS = 5, 400
TARGETS_BY_NAME = [pytest.param(one, id=one.name) for one in TARGETS]


@pytest.fixture
def fuzzer(server, tmp_path):
    return Fuzzer(server, tmp_path / "fuzz", keep=tmp_path / "kept")


@pytest.mark.parametrize("target", TARGETS_BY_NAME)
def test_hostile_inputs_are_read_right_or_refused(fuzzer, target):
    verdicts = [*fuzzer.replay(target), *fuzzer.run(target, n=N_INPUTS, seed=0)]
    assert len(verdicts) >= N_INPUTS
    check(verdicts)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", (1, 2))
@pytest.mark.parametrize("target", TARGETS_BY_NAME)
def test_many_hostile_inputs_are_read_right_or_refused(fuzzer, target, seed):
    check(fuzzer.run(target, n=N_CAMPAIGN_INPUTS, seed=seed))


def test_every_folder_of_the_corpus_has_its_target():
    assert {path.name for path in CORPUS.iterdir()} <= {target.folder for target in TARGETS}


PNG = next(target for target in TARGETS if target.name == "png")


def test_a_write_outside_and_a_hang_are_found(fuzzer, monkeypatch):
    words = ("data", "add", "it", "photo", "--class", "dog", "--to", "../canary/x")
    outside = Target("outside", PNG.place, ((*words, "--min-side-px", "16"),), PNG.mutate, PNG.good)
    content = PNG.good(fuzzer.folder)[0]
    assert {kind for kind, _ in fuzzer.try_input(outside, content, "x").faults} == {"outside"}
    monkeypatch.setattr("faults.fuzzing.MAX_SECONDS", 0.001)
    monkeypatch.setattr("faults.fuzzing.PATIENCE", 2)
    assert {kind for kind, _ in fuzzer.try_input(PNG, content, "x").faults} == {"limits"}


def test_damage_that_a_reader_took_is_known(tmp_path):
    content = PNG.good(tmp_path)[0]
    assert is_whole_png(content)
    assert not is_whole_png(content[: len(content) // 2] + bytes(len(content) // 2))
    kept = [(kind, data[:200] if kind == b"IDAT" else data) for kind, data in split_png(content)]
    assert not is_whole_png(join_png(kept))
    image = Image.effect_noise((64, 64), 90.0)
    assert not has_flat_end(image)
    image.paste(0, (0, 32, 64, 64))
    assert has_flat_end(image)
