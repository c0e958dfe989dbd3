"""What a trained run learned: by its images against class-only's of the same seeds."""

import pandas as pd
from scored_runs import make_scored

from dreambench.analysis.learning import judge_learning
from dreambench.artifacts.results import COLUMNS
from dreambench.report.pages import make_run_document
from dreambench.report.tables import make_learning_table

PROMPTS = [f"p{index}" for index in range(8)]


def run(name, *, track, **levels):
    """A run with two images a prompt; `levels` has the DINO of each subject's images by prompt."""
    rows = [
        [subject, "dog", "live", family, prompt, k, "dino", value + 0.01 * k, 1]
        for subject, values in levels.items()
        for family, prompt, value in [
            *(("art", prompt, value) for prompt, value in zip(PROMPTS, values, strict=False)),
            ("property", "red", 0.0),
        ]
        for k in range(2)
    ]
    return make_scored(name, pd.DataFrame(rows, columns=COLUMNS), track=track)


LOW = [0.10, 0.12, 0.11, 0.13, 0.10, 0.12, 0.11, 0.13]
HIGH = [value + 0.3 for value in LOW]
MIXED = [value + (0.3 if index % 2 else -0.3) for index, value in enumerate(LOW)]
FLOOR = run("class-only", track="tuning-free, no photos", a=LOW, b=LOW, c=LOW, d=LOW)


def test_a_subject_is_learned_when_its_images_come_closer_in_nearly_all_prompts():
    tuned = run("mine", track="tuned, all photos", a=HIGH, b=LOW, c=MIXED, d=HIGH[:4])
    (found,) = judge_learning([tuned, FLOOR])
    assert found.method == "mine"
    assert (found.learned, found.not_learned, found.unknown) == (["a"], ["b", "c"], ["d"])


def test_images_further_from_the_subject_than_the_floors_are_not_learned():
    worse = run("mine", track="tuned, all photos", a=[value - 0.3 for value in LOW])
    (found,) = judge_learning([worse, FLOOR])
    assert found.not_learned == ["a"]


def test_only_tuned_runs_are_judged_and_only_beside_the_floor():
    tuned = run("mine", track="tuned, all photos", a=HIGH)
    free = run("free", track="tuning-free, 1 photo", a=HIGH)
    assert [found.method for found in judge_learning([tuned, free, FLOOR])] == ["mine"]
    assert judge_learning([tuned, free]) == []
    assert make_learning_table([free, FLOOR]).rows == []


def test_the_report_names_what_was_not_learned():
    tuned = run("mine", track="tuned, all photos", a=HIGH, b=LOW)
    table = next(t for t in make_run_document([tuned, FLOOR]).tables() if t.name == "learning")
    assert table.rows == [
        {
            "method": "mine", "learned": 1, "not learned": 1, "too few prompts to tell": 0,
            "which were not": "b",
        }
    ]  # fmt: skip
