"""Comparing runs: known answers, what is paired and what is left out, words, and refusals."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_PROTOCOL, invoke, refused_at_once
from latex_tables import read_tables
from scipy import stats
from scored_runs import by_subject as scored
from scored_runs import frame as whole_frame
from scored_runs import with_metric, without_metric

import dreambench
from dreambench.analysis.comparison import (
    NOT_SHOWN,
    TOO_FEW,
    check_comparable,
    compare_scored,
    load_comparable,
)
from dreambench.analysis.pairing import compare_paired
from dreambench.analysis.stats import (
    MAX_EXACT_SUBJECTS,
    N_FLIPS,
    adjust_holm,
    compute_bootstrap_p,
    compute_sign_flip_p,
    estimate_by_bootstrap,
    smallest_p,
    why_no_interval,
)
from dreambench.analysis.summary import summarise
from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.results import read_reference_bounds, read_scores, write_scores
from dreambench.errors import UserError
from dreambench.report.formatting import format_cell, format_p
from dreambench.report.notes import list_other_signatures, make_comparison_notes
from dreambench.report.pages import describe_comparison
from dreambench.report.tables import make_comparison_table, make_difference_table
from dreambench.storage.files import read_json, write_json
from dreambench.storage.sums import write_sums


def frame(*rows):
    """Scores of rows (subject, prompt, metric, value)."""
    return whole_frame(*[(s, "art", p, m, v) for s, p, m, v in rows])


def code_of(call, *args, **options):
    """The error of a call that has to be refused."""
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return caught.value


def count_flips(integers):
    """The two-sided p-value by going through all flips of integers, where nothing is rounded."""
    sums = [
        abs(sum(s * v for s, v in zip(signs, integers, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(integers))
    ]
    return sum(value >= abs(sum(integers)) for value in sums) / len(sums)


def test_p_counts_the_flips_that_are_as_far_from_zero():
    # 1 + 2 + 3 and its mirror are the farthest of 8.
    assert compute_sign_flip_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    # |3 - 1 + 2| = 4: as far are 6, 4, -4, -6.
    assert compute_sign_flip_p(np.array([3.0, -1.0, 2.0])) == 4 / 8


def test_p_counts_ties_however_they_are_rounded():
    rng = np.random.default_rng(3)
    for _ in range(40):
        integers = rng.integers(-6, 7, size=8)
        assert compute_sign_flip_p(integers * 0.1) == min(1.0, count_flips(integers))


def test_p_of_no_difference_is_one_and_of_one_subject_none():
    assert compute_sign_flip_p(np.zeros(5)) == 1.0
    assert compute_sign_flip_p(np.full(8, 1e-7)) == 1.0  # The rounding of 32 bits.
    assert np.isnan(compute_sign_flip_p(np.array([0.3])))
    assert np.isnan(compute_sign_flip_p(np.array([])))


def test_drawn_flips_are_seeded_near_the_exact_ones_and_never_zero():
    n = MAX_EXACT_SUBJECTS + 1
    differences = np.random.default_rng(5).normal(0.4, 1, n)
    found = compute_sign_flip_p(differences)
    assert found == compute_sign_flip_p(differences)
    assert found != compute_sign_flip_p(differences, seed=1)
    signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert found == pytest.approx(exact, abs=0.015)
    assert compute_sign_flip_p(np.ones(40)) == 2 / (N_FLIPS + 1)


@pytest.mark.parametrize("n", [2, 6, 16, 17, 30])
def test_smallest_p_is_that_of_subjects_that_all_agree(n):
    assert compute_sign_flip_p(np.linspace(1, 2, n)) == pytest.approx(smallest_p(n))


def test_holm_is_as_worked_out_by_hand():
    # Sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1 = .02, .03, .06, .04; none below the one before.
    found = adjust_holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


def test_holm_counts_only_what_was_tested():
    found = adjust_holm(np.array([0.01, np.nan, 0.02]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(found[1])


def test_pairing_is_by_subject_and_prompt_and_counts_what_it_leaves_out():
    first = frame(
        ("a", "red", "dino", 0.9), ("a", "top", "dino", 0.5),
        ("b", "red", "dino", 0.6), ("c", "red", "dino", 0.8),
    )  # fmt: skip
    second = frame(
        ("a", "red", "dino", 0.4), ("b", "red", "dino", 0.5), ("b", "top", "dino", 0.9),
        ("c", "red", "dino", 0.4), ("d", "red", "dino", 0.1),
    )  # fmt: skip
    row = compare_paired(first, second).iloc[0]
    # a: .5, b: .1, c: .4, of "red" alone; mean 1/3, s = .2082, t(.975, 2) = 4.30265.
    assert row["mean"] == pytest.approx(1 / 3)
    assert row["high"] - row["mean"] == pytest.approx(4.30265 * 0.2081666 / np.sqrt(3), abs=1e-5)
    assert row["p"] == 2 / 8
    assert (row["n_subjects"], row["n_cells"], row["n_left_out"]) == (3, 3, 3)


def test_prompts_count_alike_though_images_are_missing():
    both = frame(("a", "red", "dino", 0.2), ("a", "red", "dino", 0.4), ("a", "top", "dino", 0.9))
    other = frame(("a", "red", "dino", 0.2), ("a", "top", "dino", 0.5), ("a", "top", "dino", 0.5))
    # red: .3 - .2, top: .9 - .5.
    assert compare_paired(both, other)["mean"].item() == pytest.approx((0.1 + 0.4) / 2)


def test_order_of_rows_and_of_subjects_changes_nothing():
    rng = np.random.default_rng(0)
    first, second = (
        frame(*[(f"s{i}", p, "dino", v) for i in range(20) for p, v in zip("xy", rng.random(2))])  # noqa: B905
        for _ in range(2)
    )
    found = compare_paired(first, second)
    again = compare_paired(first.sample(frac=1, random_state=1), second)
    assert found["p"].item() == again["p"].item()
    assert found["mean"].item() == pytest.approx(again["mean"].item(), abs=1e-12)


def test_a_method_against_itself_shows_no_difference():
    values = [0.4, 0.5, 0.3, 0.6, 0.2, 0.7]
    run = scored("a", dino=values, pres=values)
    table = compare_scored([run, replace(run, name="a #2")])
    assert table["mean"].tolist() == [0.0, 0.0]
    assert table["p_holm"].tolist() == [1.0, 1.0]
    assert table["verdict"].tolist() == [NOT_SHOWN, NOT_SHOWN]


def test_words_say_which_is_higher_and_whether_that_is_better():
    low = np.linspace(0.1, 0.4, 8)
    first, second = scored("a", dino=low + 0.3, pres=low + 0.2), scored("b", dino=low, pres=low)
    for runs in ([first, second], [second, first]):
        table = compare_scored(runs).set_index("metric")
        assert table["verdict"].to_dict() == {
            "dino": "a is higher (better)", "pres": "a is higher (worse)"
        }  # fmt: skip
        assert table["p_holm"].tolist() == [2 * 2 / 2**8] * 2


def test_holm_goes_over_methods_times_metrics():
    rng = np.random.default_rng(7)
    runs = [
        scored(name, dino=rng.random(10), clip_t=rng.random(10) + shift)
        for name, shift in (("a", 0.0), ("b", 0.5), ("c", 0.0))
    ]
    table = compare_scored(runs)
    assert table[["first", "second"]].drop_duplicates().to_numpy().tolist() == [
        ["a", "b"], ["a", "c"]
    ]  # fmt: skip
    assert set(table["n_comparisons"]) == {4}
    assert table["p_holm"].tolist() == adjust_holm(table["p"].to_numpy()).tolist()
    every = compare_scored(runs, all_pairs=True)
    assert set(every["n_comparisons"]) == {6}
    assert every["first"].tolist()[-2:] == ["b", "b"]
    one = compare_scored(runs, metrics=["clip-t"])
    assert set(one["metric"]) == {"clip-t"}
    assert set(one["n_comparisons"]) == {2}
    assert describe_comparison(runs, one)["n_tests"] == 2
    error = code_of(compare_scored, runs, metrics=["clip-tt"])
    assert error.code == "unknown-name"
    assert "'clip-t'" in error.hint


def test_too_few_subjects_is_not_called_no_difference():
    # Five subjects: no p below 1/16, whatever the difference.
    low = np.linspace(0.1, 0.2, 5)
    table = compare_scored([scored("a", dino=low + 0.5, div=low), scored("b", dino=low, div=low)])
    assert table["verdict"].tolist() == [TOO_FEW, NOT_SHOWN]
    notes = " ".join(make_comparison_notes(table))
    # 2 / 2^5, and twice that over two tests.
    assert format_p(2 / 2**5) == ".062" and ".062" in notes
    assert format_p(4 / 2**5) == ".125" and ".125" in notes


def test_interval_and_test_by_the_bootstrap_t_are_over_subjects():
    differences = np.random.default_rng(4).exponential(0.2, 9)
    runs = [scored("first", dino=0.3 + differences), scored("second", dino=[0.3] * 9)]
    (row,) = compare_scored(runs, way="bootstrap-t").itertuples()
    wanted = estimate_by_bootstrap(differences)
    assert (row.low, row.high) == pytest.approx((wanted.low, wanted.high))
    assert row.p == pytest.approx(compute_bootstrap_p(differences))
    assert row.way == "bootstrap-t"
    assert "bootstrap-t" in make_comparison_notes(compare_scored(runs, way="bootstrap-t"))[0]
    (plain,) = compare_scored(runs).itertuples()
    assert (plain.way, plain.mean) == ("student-t", row.mean)
    assert plain.low != row.low


def test_the_bootstrap_t_is_refused_for_a_handful_of_subjects():
    runs = [scored(name, dino=[0.3, 0.4, 0.6, 0.7, 0.8]) for name in ("first", "second")]
    assert code_of(compare_scored, runs, way="bootstrap-t").code == "too-few-subjects"


def test_one_subject_has_neither_interval_nor_test_and_is_told_why():
    runs = [scored("a", dino=[0.7]), scored("b", dino=[0.5])]
    table = compare_scored(runs)
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert why_no_interval(1, None) in table["verdict"].item()
    (shown,) = make_comparison_table(table, runs[0].infos).rows
    assert format_cell(shown["mean and 95 % interval"]) == ".200 [-, -]"
    assert format_cell(shown["p Holm"]) == "-"
    (row,) = json.loads(json.dumps(describe_comparison(runs, table), allow_nan=False))[
        "comparisons"
    ]
    assert row["low"] is None
    assert row["mean"] == pytest.approx(0.2)
    # Only what was tested counts among the tests.
    assert table["n_comparisons"].item() == 0


def test_partial_runs_are_marked_and_what_is_left_out_is_shown():
    whole, part = scored("a", dino=[0.5, 0.6, 0.7]), scored("b", partial=True, dino=[0.1, 0.3])
    table = compare_scored([whole, part])
    (shown,) = make_comparison_table(table, whole.infos).rows
    assert shown["difference"] == "a - b (partial)"
    assert shown["cells"] == "2 (1 left out)"
    assert table["n_left_out"].item() == 1
    assert (table["partial_first"].item(), table["partial_second"].item()) == (False, True)
    plain = compare_scored([whole, scored("c", dino=[0.1, 0.3, 0.2])])
    assert len(make_comparison_notes(table)) == len(make_comparison_notes(plain)) + 2
    # The report's table is of the same differences.
    (report,) = make_difference_table([whole, part]).rows
    assert report["difference"] == "a - b (partial)"
    cell, same = report["DINO (up)"], shown["mean and 95 % interval"]
    assert (cell.mean, cell.low, cell.high) == (same.mean, same.low, same.high)
    assert cell.mean == pytest.approx(0.35)
    assert "1 cells" in cell.note


def test_every_row_carries_its_recipe():
    table = compare_scored([scored("a", dino=[0.1, 0.2]), scored("b", dino=[0.3, 0.1])])
    row = table.iloc[0]
    assert row["signature"] == "S|dino"
    assert (row["protocol"], row["base_model"]) == ("p0", "b0")
    assert (row["recipe_first"], row["recipe_second"]) == ("recipe of a", "recipe of b")
    assert (row["data_first"], row["data_second"]) == ("d0", "d0")


def test_other_metrics_are_compared_without_property_prompts_unless_these_are_asked_for():
    subjects = [f"s{i:02}" for i in range(8)]
    first, second = (
        with_metric(
            scored(name, dino=np.linspace(0.1, 0.5, 8)),
            *[(s, "art", "art", "joint", level + i / 100) for i, s in enumerate(subjects)],
            *[(s, "property", "property", "joint", 1 - level) for s in subjects],
            *[(s, "art", "art", "copy", level) for s in subjects if s != "s00"],
        )
        for name, level in (("a", 0.6), ("b", 0.2))
    )
    table = compare_scored([first, second], metrics=["joint", "dino", "copy"]).set_index("metric")
    assert table.index.tolist() == ["joint", "dino", "copy"]
    assert table["prompts"].tolist() == ["all but property", "all", "all but property"]
    assert table["mean"].tolist() == pytest.approx([0.4, 0, 0.4])
    assert table["n_subjects"].tolist() == [8, 8, 7]
    assert table["verdict"].tolist() == [
        "a is higher (better)", NOT_SHOWN, "a is higher (worse)"
    ]  # fmt: skip
    assert table["signature"].tolist() == ["S|joint", "S|dino", "S|copy"]
    shown = make_comparison_table(table.reset_index(), first.infos)
    assert shown.rows[0]["metric"] == "Joint (up), all but property prompts"
    assert shown.rows[1]["metric"] == "DINO (up)"
    assert "--family property" in " ".join(make_comparison_notes(table))

    apart = compare_scored([first, second], metrics=["joint", "dino"], families=["property"])
    assert apart["metric"].tolist() == ["joint"]
    assert apart["mean"].item() == pytest.approx(-0.4)
    assert apart["prompts"].item() == "property"
    assert set(compare_scored([first, second])["metric"]) == {"dino"}
    error = code_of(compare_scored, [first, second], metrics=["joimt"])
    assert error.code == "unknown-name" and "'joint'" in error.hint
    error = code_of(compare_scored, [first, second], families=["properti"])
    assert error.code == "unknown-name" and "'property'" in error.hint
    error = code_of(compare_scored, [first, second], metrics=["dino"], families=["property"])
    assert error.code == "no-rows" and "dino" in error.problem


def test_a_metric_that_was_asked_for_is_compared_where_both_runs_have_it():
    first, second = (
        with_metric(scored(name, dino=[0.1, 0.2]), ("s00", "art", "art", "joint", 0.3), listed=True)
        for name in "ab"
    )
    assert set(compare_scored([first, second])["metric"]) == {"dino", "joint"}
    plain = scored("c", dino=[0.1, 0.2])
    assert set(compare_scored([first, plain])["metric"]) == {"dino"}


def test_the_report_says_of_which_run_a_metric_is_missing():
    whole = with_metric(scored("a", dino=[0.1, 0.2]), ("s00", "art", "art", "joint", 0.3))
    other = without_metric(scored("b", dino=[0.1]), "joint", why="no segmenter")
    signature, missing = list_other_signatures([other, whole])
    assert signature == "S|joint"
    assert all(fact in missing for fact in ("Joint", " b", "no segmenter"))
    (missing,) = list_other_signatures([other])
    assert " b" not in missing
    assert "no segmenter" in missing


def test_a_metric_that_one_run_lacks_is_not_tested():
    first = with_metric(scored("a", dino=[0.1, 0.2]), ("s00", "art", "art", "joint", 0.3))
    second = scored("b", dino=[0.1, 0.2])
    row = compare_scored([first, second], metrics=["joint"]).iloc[0]
    assert why_no_interval(0, None) in row["verdict"]
    assert np.isnan(row["p"])
    assert row["n_left_out"] == 1
    error = code_of(compare_scored, [second, first], metrics=["joint"])
    assert error.code == "unknown-name" and "'joint'" in error.problem


# On real runs.


def make_run(folder, cache, *options, protocol=TINY_PROTOCOL, method="copy-reference", others=""):
    """Real runs without training; returns the folder of the first."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(protocol)
    invoke(
        "run", "--protocol", folder / "tiny.toml", "--method", method, "--alongside", others,
        "--out", folder, "--cache", cache, "--device", "cpu", *options,
    )  # fmt: skip
    return folder / "tiny" / method


@pytest.fixture(scope="module")
def pair(tmp_path_factory, shared_cache):
    """Folders of two whole runs."""
    folder = tmp_path_factory.mktemp("pair")
    first = make_run(folder, shared_cache, others="class-only")
    return first, first.parent / "class-only"


def read_means(path, metric, *, keep=lambda family: True):
    """The mean of each subject in one metric, for the prompt categories that are kept."""
    rows = pd.read_parquet(path / "scores.parquet")
    rows = rows[(rows["metric"] == metric) & rows["family"].map(keep)]
    return rows.groupby("subject")["value"].mean()


def test_compare_prints_differences_tests_words_and_signatures(pair):
    done = invoke("compare", *pair)
    assert "copy-reference - class-only" in done.stdout
    assert TOO_FEW in done.stdout
    assert "DINO|v1|" in done.stdout
    means = [read_means(path, "dino") for path in pair]
    found = json.loads(invoke("compare", *pair, "--json").stdout)
    row = found["comparisons"][0]
    assert row["metric"] == "dino"
    assert row["mean"] == pytest.approx((means[0] - means[1]).mean())
    interval = stats.ttest_rel(*means).confidence_interval(0.95)
    assert [row["low"], row["high"]] == pytest.approx([interval.low, interval.high])
    assert (row["p"], row["n_subjects"], row["n_cells"], row["n_left_out"]) == (0.5, 2, 4, 0)
    assert found["n_tests"] == 5
    for run, path in zip(found["runs"], pair, strict=True):
        stored = read_json(path / "run.json")["digests"]
        assert {key: run["digests"][key] for key in stored} == stored
        assert run["code"] == read_json(path / "summary.json")["code"]


def test_python_compares_as_the_command_does(pair):
    found = dreambench.compare(pair, metrics=["dino", "joint"])
    rows = json.loads(invoke("compare", *pair, "--metrics", "dino,joint", "--json").stdout)
    assert found.table["mean"].tolist() == [row["mean"] for row in rows["comparisons"]]
    assert found.runs == ["copy-reference", "class-only"]
    assert list(found.notes) == rows["notes"]
    results = [dreambench.load_run(path) for path in pair]
    assert dreambench.compare(results).table.equals(dreambench.compare(pair).table)


@pytest.mark.parametrize("n_runs", [0, 1])
def test_fewer_than_two_runs_are_no_comparison(pair, n_runs):
    assert code_of(dreambench.compare, pair[:n_runs]).code == "missing-argument"


def test_the_command_refuses_the_bootstrap_t_for_two_subjects(pair):
    line = refused_at_once("compare", *pair, "--interval", "bootstrap-t")
    assert "--interval student-t" in line


def test_compare_writes_csv_markdown_and_latex(pair, tmp_path):
    invoke("compare", *pair, "--metrics", "dino,pres", "--out", tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["metric"].tolist() == ["dino", "pres"]
    wanted = ["signature", "protocol", "base_model", "recipe_first", "recipe_second", "data_first"]
    assert table[wanted].notna().all(axis=None)
    means = [read_means(path, "dino") for path in pair]
    assert table["mean"][0] == pytest.approx((means[0] - means[1]).mean(), abs=1e-12)
    invoke("compare", *pair, "--out", tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    digests = read_json(pair[1] / "run.json")["digests"]
    assert digests["protocol"] in text
    assert digests["recipe"] in text
    assert "| copy-reference - class-only | DINO (up)" in text
    assert "CLIP-T|v1|" in text
    invoke("compare", *pair, "--metrics", "dino,pres", "--out", tmp_path / "table.tex")
    text = (tmp_path / "table.tex").read_text()
    ((heading, *rows),) = read_tables(text)
    assert heading[0] == "difference" and len(rows) == 2
    assert rows[0][:2] == ["copy-reference - class-only", r"DINO $\uparrow$"]
    assert f"% {table['signature'][0]}\n" in text and digests["recipe"] in text
    path = tmp_path / "table.xlsx"
    line = refused_at_once("compare", *pair, "--out", path)
    assert all(fact in line for fact in (str(path), ".csv", ".md", ".tex"))
    assert not path.exists()


def test_compare_takes_other_metrics_and_categories(pair):
    rows = json.loads(invoke("compare", *pair, "--metrics", "joint,clip-t", "--json").stdout)
    joint, clip_t = rows["comparisons"]
    means = [read_means(path, "joint", keep=lambda family: family != "property") for path in pair]
    assert joint["mean"] == pytest.approx((means[0] - means[1]).mean())
    assert (joint["prompts"], joint["n_cells"]) == ("all but property", 2)
    stored = read_json(pair[0] / "summary.json")["metrics"]["joint"]["info"]["signature"]
    assert joint["signature"] == stored
    assert (clip_t["prompts"], clip_t["n_cells"]) == ("all", 4)
    words = ("compare", *pair, "--metrics", "joint,dino", "--family", "property")
    found = json.loads(invoke(*words, "--json").stdout)
    assert [row["prompts"] for row in found["comparisons"]] == ["property"] * 2
    assert found["n_tests"] == 2
    assert "property prompts" in invoke(*words).stdout
    assert "'property'" in refused_at_once("compare", *pair, "--family", "properti")


def test_the_report_has_differences_in_property_prompts_apart(pair):
    table = pd.read_csv(pair[0] / "report" / "differences.csv").set_index("difference")
    whole, apart = table.index
    assert apart == f"{whole}, property prompts"
    means = [read_means(path, "dino", keep=lambda family: family == "property") for path in pair]
    assert table.loc[apart, "DINO (up)"] == pytest.approx((means[0] - means[1]).mean())
    low, high = table.loc[apart, ["DINO (up) low", "DINO (up) high"]]
    interval = stats.ttest_rel(*means).confidence_interval(0.95)
    assert (low, high) == pytest.approx((interval.low, interval.high))
    assert np.isnan(table.loc[apart, "PRES (down)"])


def test_a_run_against_itself_shows_no_difference(pair):
    done = invoke("compare", pair[0], pair[0], "--json")
    rows = json.loads(done.stdout)["comparisons"]
    assert {row["verdict"] for row in rows} == {NOT_SHOWN}
    assert {row["mean"] for row in rows} == {0.0}
    assert {(row["first"], row["second"]) for row in rows} == {
        ("copy-reference", "copy-reference #2")
    }


def test_a_narrowed_run_is_paired_where_it_can_be(pair, tmp_path, shared_cache):
    narrow = make_run(tmp_path, shared_cache, "--subjects", "mug", method="class-only")
    assert "class-only (partial)" in invoke("compare", pair[0], narrow).stdout
    found = json.loads(invoke("compare", pair[0], narrow, "--json").stdout)
    row = found["comparisons"][0]
    assert (row["n_subjects"], row["n_cells"], row["n_left_out"]) == (1, 2, 2)
    assert (row["low"], row["p"]) == (None, None)
    assert [run["partial"] for run in found["runs"]] == [False, True]
    other = make_run(tmp_path / "dog", shared_cache, "--subjects", "dog")
    error = code_of(dreambench.compare, [narrow, other])
    assert error.code == "not-comparable"
    assert str(narrow) in error.problem and str(other) in error.problem


def test_report_says_why_one_subject_of_a_kind_has_no_interval(pair):
    kinds = pd.read_csv(pair[0] / "report" / "kinds.csv")
    assert kinds["kind"].tolist() == ["live", "object"] * 4
    assert kinds["prompts"].tolist() == (["all"] * 2 + ["property"] * 2) * 2
    assert set(kinds["subjects"]) == {1}
    assert kinds["DINO (up)"].notna().all()
    assert kinds[["DINO (up) low", "DINO (up) high"]].isna().all(axis=None)
    text = (pair[0] / "report" / "report.md").read_text()
    assert "[-, -]: no interval" in text
    summary = read_json(pair[0] / "summary.json")
    assert summary["metrics"]["dino"]["whole"]["no_interval"] is None


def test_a_report_keeps_no_grid_of_a_row_that_it_has_not(pair, tmp_path):
    run = shutil.copytree(pair[0], tmp_path / "copy")
    for others, grids in (([pair[1]], ["class-only.png"]), ([], [])):
        invoke("report", run, *others)
        assert [path.name for path in (run / "report" / "grids").glob("*")] == grids


def test_runs_that_cannot_be_compared_are_refused(pair, tmp_path, shared_cache):
    refused_at_once("compare", pair[0])
    assert str(tmp_path) in refused_at_once("compare", pair[0], tmp_path)
    assert code_of(dreambench.compare, [pair[0], tmp_path]).code == "not-a-run"
    assert "'dinoo'" in refused_at_once("compare", *pair, "--metrics", "dinoo")
    text = TINY_PROTOCOL.replace("guidance_scale = 3.0", "guidance_scale = 2.0")
    other = make_run(tmp_path / "other", shared_cache, protocol=text)
    line = refused_at_once("compare", pair[0], other)
    assert all(fact in line for fact in (str(other), str(pair[0]), "a different protocol"))
    assert code_of(dreambench.compare, [pair[0], other]).code == "not-comparable"


def test_runs_scored_by_other_encoders_are_refused(pair, tmp_path):
    changed = shutil.copytree(pair[1], tmp_path / "changed")
    manifest = read_json(changed / "run.json")
    manifest["encoders"]["clip"] += "-of-another-day"
    write_json(changed / "run.json", manifest)
    error = code_of(dreambench.compare, [pair[0], changed])
    assert error.code == "not-comparable"
    assert str(changed) in error.problem and "clip encoder" in error.problem


@pytest.mark.parametrize(("metric", "title"), [("clip-t", "CLIP-T"), ("joint", "Joint")])
def test_runs_scored_by_another_version_of_a_metric_are_refused(pair, tmp_path, metric, title):
    changed = shutil.copytree(pair[1], tmp_path / "changed")
    images = read_image_set(changed)
    table = read_scores(images)
    now = next(f"|v{info.version}|" for info in table.metrics if info.name == metric)
    infos = [
        info.model_copy(update={"signature": info.signature.replace(now, "|v0|")})
        if info.name == metric
        else info
        for info in table.metrics
    ]
    older = replace(table, metrics=tuple(infos))
    write_scores(images, older, read_reference_bounds(images))
    summarise(images)
    error = code_of(dreambench.compare, [pair[0], changed])
    assert error.code == "not-comparable"
    facts = (str(changed), f"{title}|v0|", f"{title}{now}", str(pair[0]))
    assert all(fact in error.problem for fact in facts)


def test_runs_on_other_photos_are_refused(pair):
    first, second = (read_image_set(path) for path in pair)
    subjects = [replace(s, sha256=tuple(reversed(s.sha256))) for s in second.subjects]
    error = code_of(check_comparable, [first, replace(second, subjects=subjects)])
    assert error.code == "not-comparable"
    assert "photos of dog" in error.problem


@pytest.mark.parametrize(
    ("name", "code", "command"),
    [
        ("summary.json", "not-summarised", "summarise"),
        ("scores.parquet", "not-scored", "score"),
    ],
)
def test_runs_without_scores_or_summary_are_refused(pair, tmp_path, name, code, command):
    broken = shutil.copytree(pair[1], tmp_path / "broken")
    (broken / name).unlink()
    error = code_of(dreambench.compare, [pair[0], broken])
    assert error.code == code
    assert f"dreambench {command} {broken}" in error.hint
    assert str(broken) in refused_at_once("compare", pair[0], broken)


@pytest.mark.parametrize("name", ["summary.json", "scores.parquet"])
def test_damaged_results_are_named(pair, tmp_path, name):
    broken = shutil.copytree(pair[1], tmp_path / "broken")
    if name == "summary.json":
        summary = read_json(broken / name)
        del summary["metrics"]["dino"]["whole"]
        write_json(broken / name, summary)
    else:
        (broken / name).write_bytes(b"no parquet")
    error = code_of(dreambench.compare, [pair[0], broken])
    assert error.code == "changed-product"
    assert str(broken / name) in error.problem
    write_sums(broken)  # As whoever changed it would do next.
    error = code_of(dreambench.compare, [pair[0], broken])
    assert error.code == "damaged-file"
    assert str(broken / name) in error.problem


def test_names_are_told_apart(pair):
    runs = [read_image_set(path) for path in (*pair, pair[0], pair[0])]
    names = [run.name for run in load_comparable(runs)]
    assert names == ["copy-reference", "class-only", "copy-reference #2", "copy-reference #3"]
