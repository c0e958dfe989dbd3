"""What methods cost, by what their runs noted."""

import csv
import json

import pytest
from conftest import invoke

from dreambench.analysis.costs import measure_costs
from dreambench.artifacts.image_set import read_image_set
from dreambench.base_models.catalogue import BASE_MODELS


def measure(folder):
    (cost,) = measure_costs([(folder.name, read_image_set(folder))])
    return cost


def test_a_tuned_method_has_parameters_weights_time_and_memory(finished):
    tuned = measure(finished[0] / "quick")
    mini = BASE_MODELS["mini"]
    assert tuned.trained_parameters == mini.n_denoiser_parameters + mini.n_text_parameters
    # They are kept in 16 bits.
    assert tuned.weights_bytes == pytest.approx(2 * tuned.trained_parameters, rel=0.01)
    assert 0 < tuned.training_seconds < 600
    assert 4 * 4 * tuned.trained_parameters < tuned.peak_bytes < 8e9
    assert 0 < tuned.seconds_per_image < 60


def test_a_method_that_trains_nothing_has_the_time_of_its_images_alone(finished):
    floor = measure(finished[0] / "class-only")
    assert floor.seconds_per_image > 0
    assert floor.trained_parameters is floor.weights_bytes is None
    assert floor.training_seconds is floor.peak_bytes is None


def test_a_note_of_an_older_version_and_one_that_is_damaged_leave_gaps(copied):
    notes = sorted(copied.glob("train/*/done.json"))
    for note in notes:
        old = {key: json.loads(note.read_text())[key] for key in ("seed", "train_seconds")}
        note.write_text(json.dumps(old))
    cost = measure(copied)
    assert cost.training_seconds > 0
    assert cost.trained_parameters is cost.weights_bytes is cost.peak_bytes is None
    notes[0].write_text("[]")
    assert measure(copied).training_seconds == json.loads(notes[1].read_text())["train_seconds"]


def test_the_report_has_a_row_for_each_method(copied, finished):
    invoke("report", copied, finished[0] / "class-only")
    with (copied / "report" / "costs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["method"] for row in rows] == ["quick", "class-only"]
    assert float(rows[0]["training, s"]) > 0
    assert rows[1]["training, s"] == ""
    assert "## What it costs" in (copied / "report" / "report.md").read_text()
