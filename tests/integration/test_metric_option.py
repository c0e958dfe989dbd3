"""A metric by --metric FILE.py:Class: in all results, which need its code no more."""

import json
import shutil

import pandas as pd
import pytest
from conftest import REPOSITORY, TINY_PROTOCOL, invoke, refused_at_once

from dreambench.errors import UserError
from dreambench.metrics.registry import find_metric
from dreambench.report.formatting import format_number
from dreambench.storage.files import read_json, sha256_file

NAME, TITLE = "nearest-photo", "Nearest photo"


@pytest.fixture(scope="module")
def scored(tmp_path_factory, shared_cache):
    """Two runs with the example's metric, from a copy of its file that is gone afterwards."""
    root = tmp_path_factory.mktemp("metric")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    file = shutil.copy(REPOSITORY / "examples" / "my_metric.py", root / "my_metric.py")
    digest = sha256_file(root / "my_metric.py")
    done = [
        invoke(
            "run", "--protocol", root / "tiny.toml", "--method", method, "--alongside", "",
            "--out", root / "runs", "--cache", shared_cache, "--metric", f"{file}:NearestPhoto",
        )
        for method in ("copy-reference", "class-only")
    ]  # fmt: skip
    (root / "my_metric.py").unlink()
    folder = root / "runs" / "tiny"
    return [folder / "copy-reference", folder / "class-only"], digest, done


def test_its_rows_are_scores(scored):
    (copies, _), _, _ = scored
    frame = pd.read_parquet(copies / "scores.parquet")
    rows = frame[frame["metric"] == NAME]
    assert len(rows) == 2 * 2 * 2
    assert rows[["subject", "prompt_id", "k"]].drop_duplicates().shape == (8, 3)
    # A pasted photo is its own nearest photo.
    assert rows["value"].tolist() == pytest.approx([1.0] * 8, abs=1e-5)
    assert set(rows["n_pairs"]) == {1}


def test_its_mean_and_signature_are_in_the_summary(scored):
    folders, digest, _ = scored
    for folder in folders:
        entry = read_json(folder / "summary.json")["metrics"][NAME]
        frame = pd.read_parquet(folder / "scores.parquet")
        rows = frame[(frame["metric"] == NAME) & (frame["family"] != "property")]
        mean = rows.groupby("subject")["value"].mean().mean()
        assert entry["whole"]["mean"] == pytest.approx(mean)
        assert entry["property"]["n_subjects"] == 2
        assert (entry["n_scored"], entry["n_expected"]) == (8, 8)
        info = entry["info"]
        assert info["listed"] is True
        encoder = read_json(folder / "run.json")["encoders"]["dino"]
        assert info["signature"] == (
            f"{TITLE}|v1|code:{digest[:16]}|{encoder}|refs:nearest|mean:images>subject"
        )
        assert info["code"] == {
            "file": "my_metric.py", "class": "NearestPhoto", "sha256": digest,
        }  # fmt: skip


def test_the_path_of_its_file_is_in_no_result(scored):
    (copies, _), _, _ = scored
    for path in copies.rglob("*"):
        if path.suffix in (".json", ".csv", ".md", ".parquet"):
            assert str(copies.parents[2]).encode() not in path.read_bytes()


def test_it_is_a_column_of_the_printed_table_and_the_report(scored):
    (copies, _), digest, (done, _) = scored
    mean = read_json(copies / "summary.json")["metrics"][NAME]["whole"]["mean"]
    assert TITLE in done.stdout and digest[:16] in done.stdout
    text = (copies / "report" / "report.md").read_text()
    lines, heading = text.splitlines(), f"{TITLE} (up), property prompts left out"
    head = next(line for line in lines if line.startswith("| method"))
    column = [cell.strip() for cell in head.split("|")].index(heading)
    row = lines[lines.index(head) + 2]
    assert row.split("|")[column].strip().startswith(format_number(mean))
    assert digest[:16] in text


def test_the_csvs_hold_it_unrounded(scored):
    (copies, _), digest, _ = scored
    entry = read_json(copies / "summary.json")["metrics"][NAME]["whole"]
    table = pd.read_csv(copies / "report" / "table.csv").set_index("metric")
    assert table.loc[TITLE, "mean"] == pytest.approx(entry["mean"], abs=1e-15)
    assert digest[:16] in table.loc[TITLE, "signature"]
    heading = f"{TITLE} (up)"
    for name in ("families", "kinds", "subjects"):
        assert pd.read_csv(copies / "report" / f"{name}.csv")[heading].notna().any()


def test_compare_and_report_need_no_code(scored, tmp_path):
    folders, digest, _ = scored
    words = ("compare", *folders, "--metrics", NAME)
    found = json.loads(invoke(*words, "--json").stdout)
    (row,) = found["comparisons"]
    means = [read_json(f / "summary.json")["metrics"][NAME]["whole"]["mean"] for f in folders]
    assert row["mean"] == pytest.approx(means[0] - means[1])
    assert (row["metric"], found["n_tests"]) == (NAME, 1)
    assert digest[:16] in row["signature"]
    # It was asked for, so it is among the metrics that are compared by default.
    every = json.loads(invoke("compare", *folders, "--json").stdout)
    assert NAME in {one["metric"] for one in every["comparisons"]}
    copies = shutil.copytree(folders[0], tmp_path / "copies")
    done = invoke("report", copies, folders[1])
    assert TITLE in done.stdout
    table = pd.read_csv(copies / "report" / "differences.csv")
    assert table[f"{TITLE} (up)"][0] == pytest.approx(means[0] - means[1])
    invoke("summarise", copies)
    assert read_json(copies / "summary.json") == read_json(folders[0] / "summary.json")


def test_another_code_of_the_metric_is_not_compared(scored, tmp_path, shared_cache):
    (copies, floor), _, _ = scored
    text = (REPOSITORY / "examples" / "my_metric.py").read_text()
    (tmp_path / "my_metric.py").write_text(f"{text}# another remark\n")
    again = shutil.copytree(floor, tmp_path / "again")
    reference = f"{tmp_path / 'my_metric.py'}:NearestPhoto"
    invoke("score", again, "--metric", reference, "--cache", shared_cache)
    invoke("summarise", again)
    line = refused_at_once("compare", copies, again)
    code = find_metric(reference).code["sha256"]
    assert code[:16] in line and str(again) in line and str(copies) in line


def test_a_score_without_the_option_has_no_such_metric(scored, tmp_path, shared_cache):
    (copies, _), _, _ = scored
    again = shutil.copytree(copies, tmp_path / "again")
    invoke("score", again, "--cache", shared_cache)
    invoke("summarise", again)
    assert NAME not in read_json(again / "summary.json")["metrics"]
    before, after = (pd.read_parquet(folder / "scores.parquet") for folder in (copies, again))
    kept = before[before["metric"] != NAME].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, after)


def test_a_metric_that_is_not_there_shows_before_anything_is_made(tmp_path, shared_cache):
    (tmp_path / "tiny.toml").write_text(TINY_PROTOCOL)
    reference = f"{tmp_path / 'gone.py'}:Gone"
    line = refused_at_once(
        "run", "--protocol", tmp_path / "tiny.toml", "--method", "copy-reference",
        "--alongside", "", "--out", tmp_path / "runs", "--cache", shared_cache,
        "--metric", reference,
    )  # fmt: skip
    assert str(tmp_path / "gone.py") in line
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError) as caught:
        find_metric(reference)
    assert caught.value.code == "unreadable-file"
