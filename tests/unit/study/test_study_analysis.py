"""What a study shows, on simulated raters whose truth is known and on votes counted by hand."""

import evalica
import numpy as np
import pandas as pd
import pytest
from scored_runs import info_of
from simulated_raters import (
    World,
    find_held,
    find_majority_truth,
    find_truth,
    make_plan,
    simulate,
)

from dreambench.artifacts.study import Answers, StudyResults, read_study_results
from dreambench.errors import UserError
from dreambench.report.study_page import make_preference_table, make_study_document
from dreambench.study.analysis import analyse, choose_again, compute_alphas, resample
from dreambench.study.votes import check_raters, count_votes, make_votes
from dreambench.study.writing import write_study_results

TWO = {"alpha": 0.6, "beta": -0.6}
THREE = {"alpha": 1.0, "beta": 0.0, "gamma": -1.0}


def answer(study, number, rater, votes):
    """Answers of one person by what each comparison's first method gets: 1, 0 or -1."""
    given = {}
    for question in study.questionnaires[number - 1].questions:
        vote = votes.get((question.asks, question.of), 1 if question.of.startswith("k") else None)
        if vote is not None:
            is_left = (vote == 1) == question.first_is_left
            given[question.id] = "neither" if vote == 0 else "left" if is_left else "right"
    return Answers(study=study.digest(), questionnaire=number, rater=rater, answers=given)


def find_pair(results, asks="subject", of="majority"):
    return next(row for row in results.everyone.pairs if (row.asks, row.of) == (asks, of))


def test_majorities_are_counted_as_by_hand():
    study = make_plan(("a", "b"), n_sheets=1, n_questions=5, n_checks=0)
    by_hand = {
        "c0000": (1, 1, -1), "c0001": (1, 0, -1), "c0002": (0, 0, 1), "c0003": (-1, -1, 0),
        "c0004": (1, 1, 1),
    }  # fmt: skip
    answers = [
        answer(study, 1, f"r{n}", {("subject", name): v[n] for name, v in by_hand.items()})
        for n in range(3)
    ]
    counts = count_votes(make_votes(study, answers)).loc["subject"]
    assert counts["majority"].to_dict() == {
        "c0000": 1, "c0001": 0, "c0002": 0, "c0003": -1, "c0004": 1
    }  # fmt: skip
    row = find_pair(analyse(study, answers))
    shares = [share.mean for share in (row.prefers_first, row.prefers_second, row.undecided)]
    assert shares == pytest.approx([0.4, 0.2, 0.4]) and row.undecided.n == 5
    single = find_pair(analyse(study, answers), of="answers")
    assert single.prefers_first.mean == pytest.approx(7 / 15) and single.undecided.n == 15


def test_strengths_of_simulated_raters_are_recovered():
    study = make_plan(tuple(THREE), n_sheets=24, n_questions=25)
    results = analyse(study, simulate(study, World(THREE, ties=0.3), seed=1))
    for row in results.everyone.strengths:
        assert row.strength.low < THREE[row.method] < row.strength.high
        assert row.strength.mean == pytest.approx(THREE[row.method], abs=0.2)
    assert results.simulated and results.n_questionnaires == 24 and results.n_expected == 72


def test_a_method_that_always_wins_has_a_finite_strength():
    study = make_plan(("a", "b"), n_sheets=1, n_questions=9, n_checks=0)
    votes = {("subject", one.id): 1 for one in study.comparisons}
    results = analyse(study, [answer(study, 1, "r", votes)])
    found = np.array([row.strength.mean for row in results.everyone.strengths])
    assert np.isfinite(found).all() and found[0] > 1 and found.sum() == pytest.approx(0)


@pytest.mark.parametrize("spread", [0.0, 0.8])
def test_intervals_hold_the_truth_of_simulated_raters(spread):
    world = World(TWO, image_spread=spread, rater_spread=spread / 2)
    truth, majority = (
        find_truth(world, "alpha", "beta"),
        find_majority_truth(world, "alpha", "beta"),
    )
    study = make_plan(tuple(TWO), n_sheets=12, n_questions=10, n_checks=0)
    truths = {"answers": truth[0], "majority": majority[0]}
    held = find_held(study, world, truths, seeds=range(60))
    # Of 120 questions 114 are expected; below 106 would be a chance of 1 in 1,000 at 95 %.
    assert min(held["answers"], held["majority"]) >= 0.88


def test_a_bent_for_one_side_is_found_and_none_is_not():
    study = make_plan(tuple(TWO))
    found = {
        side: analyse(study, simulate(study, World(TWO, side=side), seed=3)).everyone.sides
        for side in (0.0, 0.5)
    }
    for row in found[0.5]:
        assert row.p < 0.001 and row.left.low > 0.5 and row.n_left > row.n_right
    for row in found[0.0]:
        assert row.p > 0.01 and row.left.low < 0.5 < row.left.high


def test_balanced_sides_keep_a_bent_from_favouring_a_method():
    study = make_plan(tuple(TWO))
    equal = dict.fromkeys(TWO, 0.0)
    row = find_pair(analyse(study, simulate(study, World(equal, side=1.0), seed=4)), of="answers")
    assert row.prefers_first.low < row.prefers_second.mean < row.prefers_first.high


def test_raters_that_click_anywhere_are_listed_and_left_out():
    study = make_plan(tuple(TWO))
    answers = simulate(study, World(TWO, bad_share=0.25), seed=5)
    results = analyse(study, answers)
    failed = {row.rater for row in results.raters if not row.passed}
    bad = {one.rater for one in answers if one.rater.startswith("bad")}
    assert failed <= bad and len(failed) >= 0.9 * len(bad) >= 9
    assert results.passed.n_raters == results.everyone.n_raters - len(failed)
    means = [
        next(r for r in found.strengths if r.method == "alpha").strength.mean
        for found in (results.everyone, results.passed)
    ]
    assert abs(means[1] - 0.6) < abs(means[0] - 0.6)
    page = str(make_study_document(results))
    assert all(row.rater in page for row in results.raters if not row.passed)


def test_one_slip_is_forgiven_and_checks_are_never_scored():
    study = make_plan(("a", "b"), n_sheets=1, n_questions=2)
    votes = {(asks, one.id): 1 for asks in ("subject", "prompt") for one in study.comparisons}
    good = answer(study, 1, "good", votes)
    checks = [q for q in study.questionnaires[0].questions if q.of.startswith("k")]

    def slip(rater, n):
        wrong = {q.id: "right" if q.first_is_left else "left" for q in checks[:n]}
        return good.model_copy(update={"rater": rater, "answers": {**good.answers, **wrong}})

    rows = check_raters(study, [good, slip("once", 1), slip("twice", 2)])
    assert [(row.n_checks, row.n_wrong, row.passed) for row in rows] == [
        (6, 0, True), (6, 1, True), (6, 2, False)
    ]  # fmt: skip
    assert [row.n_answers for row in rows] == [4, 4, 4]
    assert analyse(study, [good, slip("twice", 2)]).everyone.n_answers == 8


def measure(study, world_seed=3):
    """The study with metrics: one that follows people, the same turned round, and a coin."""
    rng = np.random.default_rng(world_seed)
    infos = [
        info_of("dino"), info_of("pixel-match", higher_is_better=False), info_of("clip-t"),
    ]  # fmt: skip
    comparisons = []
    for one in study.comparisons:
        images = []
        for method, image in ((one.first, one.first_image), (one.second, one.second_image)):
            quality = 1.0 if method == "alpha" else 0.0
            scores = {"dino": quality, "pixel-match": -quality, "clip-t": float(rng.random())}
            images.append(image.model_copy(update={"scores": scores}))
        comparisons.append(
            one.model_copy(update={"first_image": images[0], "second_image": images[1]})
        )
    return study.model_copy(update={"metrics": infos, "comparisons": comparisons})


def test_metric_that_follows_people_is_told_from_one_that_does_not():
    study = measure(make_plan(tuple(TWO)))
    results = analyse(study, simulate(study, World({"alpha": 2.0, "beta": -2.0}), seed=6))
    found = {
        (row.metric, row.family): row.agrees
        for row in results.everyone.follows
        if row.asks == "subject"
    }
    assert found["dino", None].mean > 0.95
    assert found["dino", None] == found["pixel-match", None]
    assert found["clip-t", None].low < 0.5 < found["clip-t", None].high
    assert 0.9 < found[None, None].mean <= 1
    families = {family for _, family in found} - {None}
    assert families == {"recontextualization", "property"}
    assert sum(found["dino", f].n for f in families) == found["dino", None].n


def test_equal_scores_agree_by_half():
    study = measure(make_plan(tuple(TWO), n_sheets=8, n_questions=5))
    alike = [one.model_copy(update={"second_image": one.first_image}) for one in study.comparisons]
    study = study.model_copy(update={"comparisons": alike})
    results = analyse(study, simulate(study, World(TWO), seed=7))
    rows = [row for row in results.everyone.follows if row.metric is not None]
    assert rows and all(row.agrees.mean == 0.5 and row.agrees.low is None for row in rows)


def test_alpha_is_that_of_the_library_and_near_its_ends():
    study = make_plan(tuple(TWO), n_sheets=8, n_questions=10, n_checks=0)
    sure = analyse(study, simulate(study, World(TWO, image_spread=50.0, ties=0.0), seed=8))
    noise = analyse(study, simulate(study, World(dict.fromkeys(TWO, 0.0)), seed=8))
    for row in sure.everyone.agreement:
        assert row.alpha.mean > 0.85 and row.alpha.n == 80
    better = analyse(study, simulate(study, World({"alpha": 3.0, "beta": -3.0}), seed=8))
    assert all(row.alpha.mean > 0.8 for row in better.everyone.agreement)
    for row in noise.everyone.agreement:
        assert row.alpha.low < 0.0 < row.alpha.high and abs(row.alpha.mean) < 0.15


def test_alpha_of_resamples_is_the_librarys():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(4, (0.5, 0.3, 0.2), size=30)
    times = rng.multinomial(30, np.full(30, 1 / 30), size=20)
    for row, alpha in zip(times, compute_alphas(counts, times), strict=True):
        drawn = np.repeat(counts, row, axis=0)
        ratings = pd.DataFrame([np.repeat([1.0, 2.0, 3.0], one).tolist() for one in drawn]).T
        assert alpha == pytest.approx(evalica.alpha(ratings).alpha, abs=1e-12)


def test_few_questionnaires_are_resampled_crossed_and_one_has_no_interval():
    study = make_plan(("a", "b"), n_sheets=2, n_questions=20, raters_each=6, n_checks=0)
    results = analyse(study, simulate(study, World({"a": 0.3, "b": -0.3}), seed=9))
    assert "12 raters and 40 comparisons, crossed" in results.resampled
    row = find_pair(results, of="answers")
    assert row.prefers_first.low < row.prefers_first.mean < row.prefers_first.high
    lone = analyse(study, simulate(study, World({"a": 0.3, "b": -0.3}), seed=9)[:1])
    assert find_pair(lone).prefers_first.low is None


def test_crossed_intervals_hold_the_truth_of_raters_that_differ():
    world = World(TWO, rater_spread=0.7)
    truths = {
        "answers": find_truth(world, "alpha", "beta")[0],
        "majority": find_majority_truth(world, "alpha", "beta", raters=6)[0],
    }
    study = make_plan(tuple(TWO), n_sheets=4, n_questions=15, raters_each=6, n_checks=0)
    held = find_held(study, world, truths, seeds=range(25))
    assert min(held["answers"], held["majority"]) >= 0.88


def test_majorities_of_raters_drawn_again_are_counted_as_by_hand():
    study = make_plan(tuple(TWO), n_sheets=2, n_questions=4, raters_each=4, n_checks=0)
    votes = make_votes(study, simulate(study, World(TWO, ties=0.5), seed=0))
    own, questions, drawn = resample(votes, "subject", seed=0)
    found = choose_again(own, questions, drawn)
    for turn in range(20):
        for place, name in enumerate(questions["comparison"]):
            is_own = (own["comparison"] == name).to_numpy()
            counts, vote = drawn.raters[turn][is_own], own["vote"].to_numpy()[is_own]
            first, second, neither = (float(counts[vote == kind].sum()) for kind in (1, -1, 0))
            expected = (first > max(second, neither)) - (second > max(first, neither))
            assert found[turn, place] == expected


def test_same_answers_give_the_same_results_in_any_order():
    study = make_plan(tuple(TWO), n_sheets=8, n_questions=5)
    answers = simulate(study, World(TWO), seed=10)
    assert analyse(study, answers) == analyse(study, answers)
    empty = [one.model_copy(update={"answers": {}}) for one in answers]
    with pytest.raises(UserError) as found:
        analyse(study, empty)
    assert found.value.code == "no-answers"


def test_what_is_simulated_is_named_so_in_every_output(tmp_path):
    study = measure(make_plan(tuple(TWO), n_sheets=8, n_questions=5))
    results = analyse(study, simulate(study, World(TWO, bad_share=0.3), seed=11))
    paths = write_study_results(results, tmp_path)
    assert read_study_results(tmp_path / "study-results.json") == results
    for path in paths:
        if path.suffix not in (".png", ".pdf"):
            text = path.read_text()
            assert "imulated" in text or path.suffix == ".svg", path
    page = (tmp_path / "index.html").read_text()
    assert "Simulated raters: user study on tiny v1" in page
    assert "people prefer" not in page and "follows people" not in page
    assert {path.suffix for path in paths} == {
        ".html",
        ".md",
        ".json",
        ".csv",
        ".png",
        ".pdf",
        ".svg",
    }


def test_table_has_the_form_of_the_papers_table_2():
    study = make_plan(("DreamBooth", "Textual Inversion"), n_sheets=8, n_questions=5)
    world = World({"DreamBooth": 1.0, "Textual Inversion": -1.0})
    results = analyse(study, simulate(study, world, seed=12))
    table = make_preference_table(results, results.everyone, "majority")
    assert list(table.columns) == ["prefers", "subject fidelity", "prompt fidelity"]
    names = [row["prefers"] for row in table.rows]
    assert names == ["DreamBooth", "Textual Inversion", "undecided", "n (comparisons)"]
    assert isinstance(StudyResults.model_validate(results.model_dump()), StudyResults)
