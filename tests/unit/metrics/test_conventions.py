"""Other scorers' conventions: each choice shows in the number, as counted by hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import load_protocol
from dreambench.datasets.subjects import Subject
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import ENCODERS
from dreambench.errors import UserError
from dreambench.metrics.conventions import CONVENTIONS, find_convention, score_convention

ONE = Subject("one", "dog", "live", (Path("r1"), Path("r2")), ("", ""), single=1)
TWO = Subject("two", "mug", "object", (Path("s1"),), ("",))
IDENTITIES = {"dino": "DINO-IDENTITY", "clip": "CLIP-IDENTITY"}


def unit(subject, prompt, prompt_id="p"):
    return ImageUnit(subject, prompt_id, "property", 0, prompt, "", 0, 0)


IMAGES = {
    "one": [
        (unit("one", "a {subject}"), Path("i1")),
        (unit("one", "a {subject}"), Path("black")),
        (unit("one", "a {subject}", "prior"), Path("prior")),
    ],
    "two": [(unit("two", "a {subject}"), Path("i2"))],
}
BLACK = {path: path.name == "black" for units in IMAGES.values() for _, path in units}


def at(degrees):
    """A unit vector."""
    return np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], np.float32)


ANGLES = {"r1": 0, "r2": 60, "i1": 60, "black": 90, "prior": 45, "s1": 0, "i2": 180}
VECTORS = {Path(name): at(angle) for name, angle in ANGLES.items()}
TEXTS = {
    "a dog": at(60), "a mug": at(0), "a qwe dog": at(90), "a qwe mug": at(90), "a ": at(150),
    "a photo of a dog": at(30), "a photo of a mug": at(180),
}  # fmt: skip


def score(name, **parts):
    convention = replace(find_convention(name), **parts)
    roles = ["dino", "clip"] if convention.dino else ["clip"]
    frame = score_convention(
        convention, [ONE, TWO], IMAGES, dict.fromkeys(roles, VECTORS), TEXTS, BLACK, IDENTITIES
    )
    return frame.set_index("metric")


def cos(degrees):
    return np.cos(np.deg2rad(degrees))


def test_paper_averages_pairs_then_subjects_over_all_references():
    found = score("paper")["mean"]
    one = np.mean([cos(60), cos(0), cos(90), cos(30)])
    assert found["dino"] == pytest.approx(np.mean([one, -1]), abs=1e-6)
    assert found["clip-i"] == found["dino"]
    assert found["clip-t"] == pytest.approx(np.mean([np.mean([1, cos(30)]), -1]), abs=1e-6)


def test_dreambench_plus_takes_the_first_reference_and_all_pairs_alike_times_100():
    found = score("dreambench-plus")["mean"]
    assert found["dino"] == pytest.approx(100 * np.mean([cos(60), cos(90), -1]), abs=1e-4)
    assert found["clip-t"] == pytest.approx(100 * np.mean([1, cos(30), -1]), abs=1e-4)


def test_kosmos_g_takes_the_listed_reference_with_clip_b_32_and_cuts_the_mean_at_zero():
    pairs = [cos(0), cos(30), -1]
    assert score("kosmos-g")["mean"]["dino"] == pytest.approx(100 * np.mean(pairs), abs=1e-4)
    first = score("kosmos-g", references="first", floor=False)["mean"]["dino"]
    assert first == pytest.approx(100 * np.mean([cos(60), cos(90), -1]), abs=1e-4)
    assert first < 0
    assert score("kosmos-g", references="first")["mean"]["dino"] == 0
    assert find_convention("kosmos-g").clip == "clip-vit-b-32"
    assert "refs:listed" in score("kosmos-g")["signature"]["dino"]


def test_patchdpo_is_the_papers_way_and_its_single_mode_takes_the_listed_reference():
    found, paper = score("patchdpo")["mean"], score("paper")["mean"]
    assert found.to_dict() == paper.to_dict()
    single = score("patchdpo-single")["mean"]
    assert single["dino"] == pytest.approx(np.mean([np.mean([cos(0), cos(30)]), -1]), abs=1e-6)
    assert single["clip-t"] == paper["clip-t"]


def test_aishutin_has_a_prefix_and_imagenhub_one_reference():
    found = score("aishutin")
    assert found["mean"]["dino"] == score("paper")["mean"]["dino"]
    wanted = np.mean([np.mean([cos(30), cos(60)]), 1])
    assert found["mean"]["clip-t"] == pytest.approx(wanted, abs=1e-6)
    assert "prefix:a photo of" in found["signature"]["clip-t"]
    hub = score("imagenhub")["mean"]
    assert hub["dino"] == pytest.approx(np.mean([cos(60), cos(90), -1]), abs=1e-6)


def test_oft_drops_black_images_and_keeps_the_identifier():
    found = score("oft")
    pairs = [cos(60), cos(0), -1]
    assert found["mean"]["dino"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found["mean"]["clip-t"] == pytest.approx(np.mean([cos(30), cos(90)]), abs=1e-6)
    assert found["n_images"]["dino"] == 2
    assert found["n_dropped"]["dino"] == 1
    assert "black:dropped" in found["signature"]["dino"]
    assert "text:subject-identifier-qwe" in found["signature"]["clip-t"]


def test_customconcept101_has_clipscore():
    found = score("customconcept101")["mean"]
    assert found["clip-t"] == pytest.approx(np.mean([2.5 * np.mean([1, cos(30)]), 0]), abs=1e-6)


def test_textual_inversion_removes_the_subjects_word_and_has_no_dino():
    found = score("textual-inversion")["mean"]
    one = np.mean([cos(90), cos(60)])
    assert found["clip-t"] == pytest.approx(np.mean([one, cos(30)]), abs=1e-6)
    assert "dino" not in found.index


def test_signatures_tell_the_conventions_apart():
    rows = [text for name in CONVENTIONS for text in score(name)["signature"]]
    assert len(rows) == len(set(rows))
    assert all("IDENTITY" in text for text in rows)


def test_every_convention_names_encoders_that_exist():
    paper, mini = load_protocol("dreambench"), load_protocol("mini")
    for convention in CONVENTIONS.values():
        real, small = convention.encoders(paper), convention.encoders(mini)
        assert {spec.name for spec in real.values()} <= set(ENCODERS)
        assert real.keys() == small.keys()
        for role, spec in small.items():
            assert spec.shipped
            assert spec.pixels.fit == real[role].pixels.fit
            assert spec.pixels.interpolation == real[role].pixels.interpolation


def test_an_unknown_convention_is_refused_with_the_nearest_name():
    with pytest.raises(UserError) as caught:
        find_convention("dreambench++")
    assert caught.value.code == "unknown-name"
    assert "'dreambench-plus'" in caught.value.hint


def test_tensor_bicubic_is_not_antialiased():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    image = Image.fromarray(stripes)
    plain = Pixels(32, 32, (0.0,) * 3, (1.0,) * 3)
    smooth = plain.prepare(image)
    rough = replace(plain, interpolation="bicubic-tensor").prepare(image)
    # Antialiasing turns fine stripes to grey; without it they stay as contrast or shift.
    assert np.abs(smooth - 0.5).max() < 0.1
    assert rough.shape == smooth.shape
    assert str(replace(plain, interpolation="bicubic-tensor")) != str(plain)
    large = Image.new("RGB", (64, 48), (255, 0, 0))
    assert replace(plain, interpolation="bicubic-tensor").prepare(large).shape == (3, 32, 32)


def test_every_convention_says_where_its_code_was_read():
    for convention in CONVENTIONS.values():
        if convention.name != "paper":
            assert re.match(r"[\w-]+/[\w.-]+ at [0-9a-f]{7}, \S", convention.source), (
                convention.name
            )
