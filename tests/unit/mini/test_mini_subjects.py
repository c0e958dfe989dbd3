"""The rendered datasets: who is in them, and what their protocols ask for."""

import numpy as np
import pytest
from PIL import Image

from dreambench.config.protocol import load_protocol
from dreambench.datasets.index import EMBEDDED, find_dataset, read_index
from dreambench.datasets.subjects import load_subjects
from dreambench.mini.real_images import find_identity, read_prompt
from dreambench.mini.training.benchmark import FULL_SUBJECTS, SUBJECTS, write_benchmark
from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.renderer import PROPERTIES, VIEWS
from dreambench.mini.world.scenes import PHOTO_PLACES, SCENES
from dreambench.mini.world.styles import STYLES


def test_the_script_draws_the_photos_that_are_shipped(tmp_path, monkeypatch):
    chosen = ("dog", "vase2")
    for name in FULL_SUBJECTS.keys() - chosen:
        monkeypatch.delitem(FULL_SUBJECTS, name)
    write_benchmark(tmp_path)
    for subject in load_subjects(find_dataset("mini-full"), names=chosen):
        for photo in (*subject.photos, *subject.masks):
            found, known = (
                np.asarray(Image.open(path), float)
                for path in (tmp_path / "subjects" / subject.name / photo.name, photo)
            )
            # Rounding differs between platforms.
            assert np.abs(found - known).mean() < 0.5
    assert [
        row["subject"] for row in read_index(find_dataset(str(tmp_path / "full"))).subjects
    ] == [*chosen]


def test_thirty_subjects_of_all_classes_begin_with_minis_eight():
    full, mini = (read_index(find_dataset(name)) for name in ("mini-full", "mini"))
    n = len(SUBJECTS)
    assert len(full.subjects) == 30
    assert full.subjects[:n] == mini.subjects
    assert full.images[: len(mini.images)] == mini.images
    assert {row["class_name"] for row in full.subjects} == set(CLASSES)
    assert len({file.sha256 for file in full.files if "mask" not in file.file}) == 150
    for row in full.subjects:
        assert (row["kind"] == "live") == (row["class_name"] in LIVE)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_program_can_draw_each_prompt_and_no_photo_answers_one(name):
    protocol = load_protocol(name)
    for subject in load_subjects(protocol.find_dataset()):
        identity = find_identity(subject)
        assert identity.class_name == subject.class_name
        for prompt in protocol.prompts_for(subject.kind):
            assert read_prompt(prompt.text, identity, seed=0).scene not in PHOTO_PLACES


def test_mini_full_asks_for_all_that_the_world_has():
    protocol = load_protocol("mini-full")
    dog = load_subjects(protocol.find_dataset(), names=["dog"])[0]
    shots = [
        read_prompt(prompt.text, find_identity(dog), seed=0)
        for prompt in protocol.prompts_for("live")
    ]
    assert {shot.scene for shot in shots} == {None, *SCENES} - {*PHOTO_PLACES}
    assert {shot.accessory for shot in shots} == {None, *ACCESSORIES}
    assert {shot.property_name for shot in shots} == {None, *PROPERTIES}
    assert {shot.style for shot in shots} == {None, *STYLES, "marble"}
    assert {shot.view for shot in shots} == {None, *VIEWS}
    assert {prompt.family for prompt in protocol.prompts} == {
        "recontextualization", "accessorization", "property", "art", "viewpoint",
    }  # fmt: skip
