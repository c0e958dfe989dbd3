"""The plan of a user study: as many of everything, sides even, and the same from the same seed."""

from collections import Counter

import pytest
from study_runs import make_runs

from dreambench.artifacts.study import read_study, write_study
from dreambench.errors import UserError
from dreambench.study.plan import N_CHECKS, make_study

METHODS = ("alpha", "beta", "gamma")
NUMBERS = {"n_comparisons": 36, "n_raters": 18, "n_questions": 6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"), METHODS)


@pytest.fixture(scope="module")
def study(runs):
    return make_study(runs, **NUMBERS)[0]


def test_every_pair_and_subject_has_as_many_comparisons(study):
    assert len(study.comparisons) == 36 and study.raters_each == 3
    pairs = Counter((one.first, one.second) for one in study.comparisons)
    assert set(pairs.values()) == {12} and len(pairs) == 3
    subjects = Counter((one.first, one.second, one.subject) for one in study.comparisons)
    assert set(subjects.values()) == {6}
    cells = Counter((o.first, o.second, o.subject, o.prompt_id) for o in study.comparisons)
    assert set(cells.values()) == {3}


def test_a_comparison_is_of_one_subject_and_prompt_and_comes_once(study):
    seen = set()
    for one in study.comparisons:
        head = f"images/{one.subject}/{one.prompt_id}/"
        assert one.first_image.path.startswith(head) and one.second_image.path.startswith(head)
        assert one.first_image.sha256 != one.second_image.sha256
        seen.add((one.first, one.second, one.first_image.path, one.second_image.path))
    assert len(seen) == 36
    assert {one.text for one in study.comparisons if one.subject == "mug"} == {
        "a cup on the beach", "a red cup"
    }  # fmt: skip


def test_each_comparison_is_asked_about_twice_and_sides_are_even(study):
    asked = Counter()
    left = Counter()
    comparisons = {one.id: one for one in study.comparisons}
    for sheet in study.questionnaires:
        of_sheet = Counter()
        for question in sheet.questions:
            one = comparisons.get(question.of)
            if one is None:
                continue
            asked[question.of, question.asks] += 1
            key = (one.first, one.second, question.asks)
            left[key] += 1 if question.first_is_left else -1
            of_sheet[key] += 1 if question.first_is_left else -1
        assert all(abs(excess) <= 1 for excess in of_sheet.values())
    assert set(asked.values()) == {1} and len(asked) == 72
    assert all(abs(excess) <= 1 for excess in left.values())


def test_questions_of_one_kind_stand_together_and_half_of_the_sheets_begin_with_each(study):
    firsts = []
    for sheet in study.questionnaires:
        kinds = [question.asks for question in sheet.questions]
        assert sorted(kinds, key=kinds.index) == kinds and len(kinds) == 2 * (6 + N_CHECKS)
        firsts.append(kinds[0])
        assert len({question.id for question in sheet.questions}) == len(kinds)
    assert Counter(firsts) == {"subject": 3, "prompt": 3}


def test_checks_show_a_photo_of_the_subject_beside_one_of_another_class(study):
    photos = {photo.sha256: one.name for one in study.subjects for photo in one.photos}
    assert len(study.checks) == 6 * 2 * N_CHECKS
    for check in study.checks:
        assert photos[check.first_image.sha256] == check.subject
        assert photos[check.second_image.sha256] != check.subject
        assert check.text == {"dog": "a dog", "mug": "a cup"}[check.subject]


def test_same_seed_gives_the_same_study_and_another_seed_another(runs, study, tmp_path):
    again, pictures = make_study(runs, **NUMBERS)
    assert again == study and again.digest() == study.digest()
    other, _ = make_study(runs, **NUMBERS, seed=1)
    assert other.digest() != study.digest()
    assert {c.first_image.file for c in other.comparisons}.isdisjoint(pictures.sources)
    write_study(tmp_path, study)
    assert read_study(tmp_path) == study


def test_subjects_of_one_class_have_no_checks_and_that_is_said(tmp_path, caplog):
    runs = make_runs(tmp_path, classes={"dog": "dog", "mug": "dog"})
    study, _ = make_study(runs, n_comparisons=4, n_raters=2, n_questions=4)
    assert study.checks == [] and "no checks" in caplog.text


def test_missing_and_equal_images_are_not_compared(tmp_path):
    runs = make_runs(tmp_path, missing={("dog", "red", 0), ("dog", "red", 1)})
    same = runs[0].folder / "images" / "mug" / "red" / "0.png"
    (runs[1].folder / "images" / "mug" / "red" / "0.png").write_bytes(same.read_bytes())
    from dreambench.storage.sums import write_sums  # noqa: PLC0415

    write_sums(runs[1].images_dir("mug"))
    study, _ = make_study(runs, n_comparisons=11, n_raters=1, n_questions=11)
    assert ("dog", "red") not in {(one.subject, one.prompt_id) for one in study.comparisons}
    assert all(one.first_image.sha256 != one.second_image.sha256 for one in study.comparisons)
    with pytest.raises(UserError, match="11 pairs of different images") as found:
        make_study(runs, n_comparisons=12, n_raters=1, n_questions=12)
    assert found.value.code == "too-few-images" and "--comparisons 11" in found.value.hint


@pytest.mark.parametrize(
    ("numbers", "hint"),
    [
        ({"n_comparisons": 35}, "--comparisons 30 or 36"),
        ({"n_comparisons": 3}, "--comparisons 6"),
        ({"n_raters": 20}, "--raters 18 or 24"),
        ({"n_raters": 2}, "--raters 6"),
    ],
)
def test_numbers_that_do_not_divide_are_refused_with_those_that_do(runs, numbers, hint):
    with pytest.raises(UserError) as found:
        make_study(runs, **{**NUMBERS, **numbers})
    assert found.value.code == "invalid-value" and hint in found.value.hint


def test_one_run_and_changed_images_are_refused(tmp_path):
    runs = make_runs(tmp_path)
    with pytest.raises(UserError) as found:
        make_study(runs[:1], **NUMBERS)
    assert found.value.code == "too-few-methods"
    for path in (runs[0].folder / "images").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError) as found:
        make_study(runs, n_comparisons=4, n_raters=1, n_questions=4)
    assert found.value.code == "changed-product"
