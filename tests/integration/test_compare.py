"""Comparing runs: known answers, what is paired and what is left out, words, and refusals."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_PROTOCOL, invoke
from conftest import refused_at_once as refused
from scipy import stats

from dreambench.analysis.comparison import (
    NOT_SHOWN,
    TOO_FEW,
    Scored,
    check_comparable,
    compare_paired,
    compare_runs,
)
from dreambench.analysis.stats import (
    MAX_EXACT_SUBJECTS,
    N_FLIPS,
    adjust_holm,
    compute_sign_flip_p,
    smallest_p,
    why_no_interval,
)
from dreambench.errors import UserError
from dreambench.report.tables import (
    describe_comparison,
    format_number,
    make_comparison_notes,
    make_comparison_table,
    make_difference_table,
    make_measure_signatures,
)
from dreambench.runs.pipeline import read_comparable
from dreambench.runs.run_folder import read_run
from dreambench.storage.files import read_json, write_json

COLUMNS = ["subject", "family", "prompt_id", "metric", "value", "n_pairs"]


def frame(*rows):
    """Scores of rows (subject, prompt, metric, value)."""
    return pd.DataFrame([[s, "art", p, m, v, 1] for s, p, m, v in rows], columns=COLUMNS)


def scored(name, *, partial=False, **values):
    """A run with one prompt; `values` has by metric (with _ for -) the value of each subject."""
    rows = [
        (f"s{index:02}", "red", metric.replace("_", "-"), value)
        for metric, subjects in values.items()
        for index, value in enumerate(subjects)
    ]
    digests = {"protocol": "p0", "recipe": f"recipe of {name}", "data": "d0", "base_model": "b0"}
    summary = {
        "method": name, "protocol": "p v1", "partial": partial, "digests": digests, "n_images": 9,
        "metrics": {m.replace("_", "-"): {"signature": f"S|{m}"} for m in values},
        "code": {"version": "0", "commit": None, "dirty": None},
    }  # fmt: skip
    return Scored(name, frame(*rows), summary, frame())


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
    table = compare_runs([run, replace(run, name="a #2")])
    assert table["mean"].tolist() == [0.0, 0.0]
    assert table["p_holm"].tolist() == [1.0, 1.0]
    assert table["verdict"].tolist() == [NOT_SHOWN, NOT_SHOWN]


def test_words_say_which_is_higher_and_whether_that_is_better():
    low = np.linspace(0.1, 0.4, 8)
    first, second = scored("a", dino=low + 0.3, pres=low + 0.2), scored("b", dino=low, pres=low)
    for runs in ([first, second], [second, first]):
        table = compare_runs(runs).set_index("metric")
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
    table = compare_runs(runs)
    assert table[["first", "second"]].drop_duplicates().to_numpy().tolist() == [
        ["a", "b"], ["a", "c"]
    ]  # fmt: skip
    assert set(table["n_comparisons"]) == {4}
    assert table["p_holm"].tolist() == adjust_holm(table["p"].to_numpy()).tolist()
    every = compare_runs(runs, all_pairs=True)
    assert set(every["n_comparisons"]) == {6}
    assert every["first"].tolist()[-2:] == ["b", "b"]
    one = compare_runs(runs, metrics=["clip-t"])
    assert set(one["metric"]) == {"clip-t"}
    assert set(one["n_comparisons"]) == {2}
    assert "over all 2 tests" in " ".join(make_comparison_notes(one))
    with pytest.raises(UserError, match="did you mean 'clip-t'"):
        compare_runs(runs, metrics=["clip-tt"])


def test_too_few_subjects_is_not_called_no_difference():
    # Five subjects: no p below 1/16, whatever the difference.
    low = np.linspace(0.1, 0.2, 5)
    table = compare_runs([scored("a", dino=low + 0.5, div=low), scored("b", dino=low, div=low)])
    assert table["verdict"].tolist() == [TOO_FEW, NOT_SHOWN]
    notes = " ".join(make_comparison_notes(table))
    assert "5 subjects give no p below .062" in notes
    assert "over 2 tests no p Holm below .125" in notes


def test_one_subject_has_neither_interval_nor_test_and_is_told_why():
    runs = [scored("a", dino=[0.7]), scored("b", dino=[0.5])]
    table = compare_runs(runs)
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert table["verdict"].item() == f"not tested: {why_no_interval(1, None)}"
    shown = make_comparison_table(table).iloc[0]
    assert shown["mean and 95 % interval"] == ".200 [-, -]"
    assert shown["p Holm"] == "-"
    assert any("one subject does not show" in note for note in make_comparison_notes(table))
    row = json.loads(json.dumps(describe_comparison(runs, table), allow_nan=False))["comparisons"]
    assert row[0]["low"] is None
    assert row[0]["mean"] == pytest.approx(0.2)
    # Only what was tested counts among the tests.
    assert table["n_comparisons"].item() == 0


def test_partial_runs_are_marked_and_what_is_left_out_is_shown():
    whole, part = scored("a", dino=[0.5, 0.6, 0.7]), scored("b", partial=True, dino=[0.1, 0.3])
    table = compare_runs([whole, part])
    shown = make_comparison_table(table).iloc[0]
    assert shown["difference"] == "a - b (partial)"
    assert shown["cells"] == "2 (1 left out)"
    assert table["partial_second"].item()
    notes = " ".join(make_comparison_notes(table))
    assert "Left out: cells" in notes
    assert "Partial:" in notes
    # The report's table is of the same differences.
    report = make_difference_table([whole, part]).iloc[0]
    assert report["DINO (up)"].endswith("(1 cells left out)")
    assert report["DINO (up)"].startswith(shown["mean and 95 % interval"])


def test_every_row_carries_its_recipe():
    table = compare_runs([scored("a", dino=[0.1, 0.2]), scored("b", dino=[0.3, 0.1])])
    row = table.iloc[0]
    assert row["signature"] == "S|dino"
    assert row["protocol"] == "p0"
    assert row["recipe_first"] == "recipe of a"
    assert row["recipe_second"] == "recipe of b"


def with_measures(run, *rows):
    """The run with measures of rows (subject, family, measure, value)."""
    measures = pd.DataFrame([[s, f, f, m, v, 1] for s, f, m, v in rows], columns=COLUMNS)
    signatures = {m: {"signature": f"S|{m}"} for m in measures["metric"].unique()}
    return replace(run, measures=measures, summary={**run.summary, "measures": signatures})


def test_measures_are_compared_without_property_prompts_unless_these_are_asked_for():
    subjects = [f"s{i:02}" for i in range(8)]
    first, second = (
        with_measures(
            scored(name, dino=np.linspace(0.1, 0.5, 8)),
            *[(s, "art", "joint", level + i / 100) for i, s in enumerate(subjects)],
            *[(s, "property", "joint", 1 - level) for s in subjects],
            *[(s, "art", "copy", np.nan if s == "s00" else level) for s in subjects],
        )
        for name, level in (("a", 0.6), ("b", 0.2))
    )
    table = compare_runs([first, second], metrics=["joint", "dino", "copy"]).set_index("metric")
    assert table.index.tolist() == ["joint", "dino", "copy"]
    assert table["prompts"].tolist() == ["all but property", "all", "all but property"]
    assert table["mean"].tolist() == pytest.approx([0.4, 0, 0.4])
    assert table["n_subjects"].tolist() == [8, 8, 7]
    assert table["verdict"].tolist() == [
        "a is higher (better)", NOT_SHOWN, "a is higher (worse)"
    ]  # fmt: skip
    assert table["signature"].tolist() == ["S|joint", "S|dino", "S|copy"]
    shown = make_comparison_table(table.reset_index())
    assert shown["metric"][0] == "Joint (up), all but property prompts"
    assert "--family property" in " ".join(make_comparison_notes(table))

    apart = compare_runs([first, second], metrics=["joint", "dino"], families=["property"])
    assert apart["metric"].tolist() == ["joint"]
    assert apart["mean"].item() == pytest.approx(-0.4)
    assert apart["prompts"].item() == "property"
    assert set(compare_runs([first, second])["metric"]) == {"dino"}
    with pytest.raises(UserError, match="did you mean 'joint'"):
        compare_runs([first, second], metrics=["joimt"])
    with pytest.raises(UserError, match="dino has no row of these prompts"):
        compare_runs([first, second], metrics=["dino"], families=["property"])


def test_the_report_says_of_which_run_a_measure_is_missing():
    whole = with_measures(scored("a", dino=[0.1, 0.2]), ("s00", "art", "joint", 0.3))
    lacks = {"joint": {"signature": None, "not_measured": "no segmenter"}}
    other = replace(scored("b", dino=[0.1]), summary={**whole.summary, "measures": lacks})
    assert make_measure_signatures([other, whole]) == [
        "S|joint", "Joint: not measured of b: no segmenter"
    ]  # fmt: skip
    assert make_measure_signatures([other]) == ["Joint: not measured: no segmenter"]


def test_a_measure_that_one_run_lacks_is_not_tested():
    first = with_measures(scored("a", dino=[0.1, 0.2]), ("s00", "art", "joint", 0.3))
    second = scored("b", dino=[0.1, 0.2])
    row = compare_runs([first, second], metrics=["joint"]).iloc[0]
    assert row["verdict"] == f"not tested: {why_no_interval(0, None)}"
    assert row["n_left_out"] == 1
    with pytest.raises(UserError, match="no metric of these runs named 'joint'"):
        compare_runs([second, first], metrics=["joint"])


# On real runs.


def make_run(folder, cache, *options, protocol=TINY_PROTOCOL, method="copy-reference", beside=""):
    """Real runs without tuning; returns the folder of the first."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(protocol)
    invoke(
        "run", "--protocol", folder / "tiny.toml", "--method", method, "--beside", beside,
        "--out", folder, "--cache", cache, "--device", "cpu", *options,
    )  # fmt: skip
    return folder / "tiny" / method


@pytest.fixture(scope="module")
def pair(tmp_path_factory, shared_cache):
    """Folders of two whole runs."""
    folder = tmp_path_factory.mktemp("pair")
    first = make_run(folder, shared_cache, beside="class-only")
    return first, first.parent / "class-only"


def test_compare_prints_differences_tests_words_and_signatures(pair):
    done = invoke("compare", *pair)
    assert "copy-reference - class-only" in done.stdout
    assert "too few subjects to tell" in done.stdout
    assert "over all 5 tests" in done.stdout
    assert "DINO|v1|" in done.stdout
    scores = [pd.read_parquet(path / "scores.parquet") for path in pair]
    means = [
        frame[frame["metric"] == "dino"].groupby("subject")["value"].mean() for frame in scores
    ]
    found = json.loads(invoke("compare", *pair, "--json").stdout)
    row = found["comparisons"][0]
    assert row["metric"] == "dino"
    assert row["mean"] == pytest.approx((means[0] - means[1]).mean())
    interval = stats.ttest_rel(*means).confidence_interval(0.95)
    assert [row["low"], row["high"]] == pytest.approx([interval.low, interval.high])
    assert (row["p"], row["n_subjects"], row["n_cells"], row["n_left_out"]) == (0.5, 2, 4, 0)
    assert found["n_tests"] == 5
    for run, path in zip(found["runs"], pair, strict=True):
        assert run["digests"] == read_json(path / "run.json")["digests"]
        assert "code" in run


def test_compare_writes_csv_and_markdown(pair, tmp_path):
    invoke("compare", *pair, "--metrics", "dino,pres", "--out", tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["metric"].tolist() == ["dino", "pres"]
    wanted = ["signature", "protocol", "base_model", "recipe_first", "recipe_second", "data_first"]
    assert table[wanted].notna().all(axis=None)
    invoke("compare", *pair, "--out", tmp_path / "table.md")
    text = (tmp_path / "table.md").read_text()
    digests = read_json(pair[1] / "run.json")["digests"]
    assert digests["protocol"] in text
    assert digests["recipe"] in text
    assert "| copy-reference - class-only | DINO (up)" in text
    assert "CLIP-T|v1|" in text
    assert "neither .csv nor .md" in refused("compare", *pair, "--out", tmp_path / "table.xlsx")
    assert not (tmp_path / "table.xlsx").exists()


def test_compare_takes_measures_and_families(pair):
    rows = json.loads(invoke("compare", *pair, "--metrics", "joint,clip-t", "--json").stdout)
    joint, clip_t = rows["comparisons"]
    measures = [pd.read_parquet(path / "measures.parquet") for path in pair]
    means = [
        frame[(frame["metric"] == "joint") & (frame["family"] != "property")]
        .groupby("subject")["value"].mean()
        for frame in measures
    ]  # fmt: skip
    assert joint["mean"] == pytest.approx((means[0] - means[1]).mean())
    assert (joint["prompts"], joint["n_cells"]) == ("all but property", 2)
    assert (
        joint["signature"] == read_json(pair[0] / "summary.json")["measures"]["joint"]["signature"]
    )
    assert (clip_t["prompts"], clip_t["n_cells"]) == ("all", 4)
    done = invoke("compare", *pair, "--metrics", "joint,dino", "--family", "property")
    assert "property prompts" in done.stdout
    assert "over all 2 tests" in done.stdout
    assert "did you mean 'property'" in refused("compare", *pair, "--family", "properti")


def test_the_report_has_differences_in_property_prompts_apart(pair):
    table = pd.read_csv(pair[0] / "report" / "differences.csv").set_index("difference")
    whole, apart = table.index
    assert apart == f"{whole}, property prompts"
    scores = [pd.read_parquet(path / "scores.parquet") for path in pair]
    means = [
        frame[(frame["metric"] == "dino") & (frame["family"] == "property")]
        .groupby("subject")["value"].mean()
        for frame in scores
    ]  # fmt: skip
    assert table.loc[apart, "DINO (up)"].startswith(format_number((means[0] - means[1]).mean()))
    assert table.loc[apart, "PRES (down)"] == "-"


def test_a_run_against_itself_shows_no_difference(pair):
    done = invoke("compare", pair[0], pair[0], "--json")
    rows = json.loads(done.stdout)["comparisons"]
    assert {row["verdict"] for row in rows} == {"no difference shown"}
    assert {row["mean"] for row in rows} == {0.0}
    assert {(row["first"], row["second"]) for row in rows} == {
        ("copy-reference", "copy-reference #2")
    }


def test_a_narrowed_run_is_paired_where_it_can_be(pair, tmp_path, shared_cache):
    narrow = make_run(tmp_path, shared_cache, "--subjects", "mug", method="class-only")
    done = invoke("compare", pair[0], narrow)
    assert "class-only (partial)" in done.stdout
    assert "(2 left out)" in done.stdout
    assert "not tested: one subject" in done.stdout.replace("\n", " ")
    other = make_run(tmp_path / "dog", shared_cache, "--subjects", "dog")
    assert "has no subject in common" in refused("compare", narrow, other)


def test_report_says_why_one_subject_of_a_kind_has_no_interval(pair):
    text = (pair[0] / "report" / "report.md").read_text()
    assert "## By kind of subject" in text
    kinds = pd.read_csv(pair[0] / "report" / "kinds.csv")
    assert kinds["kind"].tolist() == ["live", "object"] * 4
    assert kinds["prompts"].tolist() == (["all"] * 2 + ["property"] * 2) * 2
    assert set(kinds["subjects"]) == {1}
    assert kinds["DINO (up)"].str.endswith("[-, -]").all()
    assert "[-, -]: no interval, since one subject" in text
    summary = read_json(pair[0] / "summary.json")
    assert summary["metrics"]["dino"]["no_interval"] is None


def test_a_report_keeps_no_grid_of_a_row_that_it_has_not(pair, tmp_path):
    run = shutil.copytree(pair[0], tmp_path / "copy")
    for beside, grids in (([pair[1]], ["class-only.png"]), ([], [])):
        invoke("report", run, *beside)
        assert [path.name for path in (run / "report" / "grids").glob("*")] == grids


def test_runs_that_cannot_be_compared_are_refused(pair, tmp_path, shared_cache):
    assert "name at least two run folders" in refused("compare", pair[0])
    assert "is not there" in refused("compare", pair[0], tmp_path)
    assert "no metric of these runs named 'dinoo'" in refused(
        "compare", *pair, "--metrics", "dinoo"
    )
    text = TINY_PROTOCOL.replace("guidance_scale = 3.0", "guidance_scale = 2.0")
    other = make_run(tmp_path / "other", shared_cache, protocol=text)
    line = refused("compare", pair[0], other)
    assert f"{other} has another protocol than {pair[0]}" in line
    assert "compare runs of one protocol" in line


def test_runs_scored_by_other_encoders_are_refused(pair, tmp_path):
    changed = shutil.copytree(pair[1], tmp_path / "changed")
    manifest = read_json(changed / "run.json")
    manifest["encoders"]["clip"] += "-of-another-day"
    write_json(changed / "run.json", manifest)
    assert "has another clip encoder than" in refused("compare", pair[0], changed)


def test_runs_scored_by_another_version_of_a_metric_are_refused(pair, tmp_path):
    changed = shutil.copytree(pair[1], tmp_path / "changed")
    summary = read_json(changed / "summary.json")
    entry = summary["metrics"]["clip-t"]
    entry["signature"] = entry["signature"].replace("|v1|", "|v0|")
    write_json(changed / "summary.json", summary)
    line = refused("compare", pair[0], changed)
    assert f"{changed} has CLIP-T|v0|" in line
    summary["metrics"]["clip-t"]["signature"] = entry["signature"].replace("|v0|", "|v1|")
    joint = summary["measures"]["joint"]
    joint["signature"] = joint["signature"].replace("|v1|", "|v0|")
    write_json(changed / "summary.json", summary)
    assert f"{changed} has Joint|v0|" in refused("compare", pair[0], changed)
    assert "score and aggregate both again" in line


def test_runs_on_other_photos_are_refused(pair):
    first, second = (read_run(path) for path in pair)
    subjects = [replace(s, sha256=tuple(reversed(s.sha256))) for s in second.subjects]
    with pytest.raises(UserError, match="has other photos of dog than"):
        check_comparable([first, replace(second, subjects=subjects)])


def test_runs_without_scores_or_summary_are_refused(pair, tmp_path):
    for name, command in (("summary.json", "aggregate"), ("scores.parquet", "score")):
        broken = shutil.copytree(pair[1], tmp_path / name)
        (broken / name).unlink()
        assert f"first: dreambench {command} {broken}" in refused("compare", pair[0], broken)


def test_names_are_told_apart(pair):
    runs = [read_run(path) for path in (*pair, pair[0], pair[0])]
    names = [run.name for run in read_comparable(runs)]
    assert names == ["copy-reference", "class-only", "copy-reference #2", "copy-reference #3"]
