"""Rows of papers: each row that was read is kept or left out with a reason."""

import csv
import importlib.util
import json

import pytest
from conftest import REPOSITORY, invoke, refused_at_once

from dreambench.errors import UserError
from dreambench.leaderboard.published import (
    COLUMNS,
    check_published,
    choose_published,
    explain_references,
    find_reference_pairs,
    load_published,
)

FACTS = REPOSITORY.parent / "shared" / "facts" / "published_results.csv"
GOOD = {
    "method": "M", "variant": "", "base_model": "SDXL", "track": "tuned",
    "benchmark": "dreambench", "references": "all", "convention": "paper", "n_images": "3000",
    "dino": "0.7", "clip-i": "0.8", "clip-t": "0.3", "paper": "P", "arxiv": "2501.00001",
    "year": "2025", "table": "Table 1", "confidence": "primary", "source": "s", "quoted_by": "",
    "note": "",
}  # fmt: skip


def write(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def load_script():
    path = REPOSITORY / "reports" / "make_published.py"
    spec = importlib.util.spec_from_file_location("make_published", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shipped_rows_are_right():
    rows = load_published()
    papers = {(row.name, row.base_model, row.convention): row.dino for row in rows}
    assert papers["DreamBooth", "Stable Diffusion", "paper"] == 0.668
    assert papers["PatchDPO", "SDXL", "patchdpo"] == 0.727
    assert papers["Kosmos-G", "Stable Diffusion 1.5", "kosmos-g"] == 0.694
    # What a method was shown does not say against what it was scored.
    own = next(row for row in rows if row.name == "UNO" and row.paper.startswith("UNO"))
    assert (own.references, own.convention) == ("unknown", "unknown")


def test_page_says_how_many_rows_there_are_and_which_pair_it_tells_of():
    page = (REPOSITORY / "docs" / "explanation" / "published-results.md").read_text()
    with (REPOSITORY / "reports" / "published-left-out.csv").open(newline="") as file:
        n_left_out = len(list(csv.DictReader(file)))
    rows = load_published()
    assert f"{len(rows)} rows" in page and f"{n_left_out} rows" in page
    ((every, one),) = find_reference_pairs(rows)
    assert (every.method, every.dino, one.dino) == ("PatchDPO", 0.727, 0.831)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"dino": "1.2"}, "dino"),
        ({"clip-t": "30.6"}, "clip-t"),
        ({"clip-i": ""}, "clip-i"),
        ({"dino": "nan"}, "dino"),
        ({"track": "fast"}, "track"),
        ({"convention": "kosmos"}, "kosmos"),
        ({"convention": "kosmos-g"}, "kosmos-g"),
        ({"references": "one"}, "paper"),
        ({"arxiv": "2501.1"}, "arxiv"),
        ({"benchmark": "Dream Bench"}, "benchmark"),
        ({"source": ""}, "source"),
    ],
)
def test_wrong_row_is_refused_by_line(tmp_path, change, fact):
    path = write(tmp_path / "rows.csv", GOOD, GOOD | {"method": "N"} | change)
    with pytest.raises(UserError) as caught:
        check_published(path)
    assert caught.value.code == "invalid-table"
    assert "line 3" in str(caught.value) and fact in str(caught.value)


def test_row_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path / "rows.csv", GOOD, GOOD | {"dino": "0.71"})
    with pytest.raises(UserError) as caught:
        check_published(path)
    assert caught.value.code == "invalid-table" and "line 3" in str(caught.value)


def test_sentence_on_one_reference_comes_from_the_rows(tmp_path):
    one = {"references": "one", "convention": "kosmos-g", "dino": "0.91", "table": "Table 2"}
    rows = [GOOD, GOOD | one, GOOD | one | {"paper": "Q"}, GOOD | one | {"base_model": "SD"}]
    found = check_published(write(tmp_path / "rows.csv", *rows))
    assert find_reference_pairs(found) == [(found[0], found[1])]
    assert ".700" in explain_references(found) and ".910" in explain_references(found)
    assert explain_references(found[2:]) == ""
    shipped = explain_references(load_published())
    assert "PatchDPO" in shipped and ".727" in shipped and ".831" in shipped


def test_rows_are_chosen_by_name_and_column():
    rows = load_published()
    chosen = choose_published(rows, method="patchdpo", references="one")
    assert [row.dino for row in chosen] == [0.831]
    with pytest.raises(UserError) as caught:
        choose_published(rows, convention="kosmosg")
    assert caught.value.code == "unknown-name" and "kosmos-g" in str(caught.value)


def test_command_prints_table_json_and_csv():
    words = ("leaderboard", "published", "--method", "patchdpo")
    table = invoke(*words)
    assert ".831" in table.stdout and "patchdpo-single" in table.stdout
    rows = json.loads(invoke(*words, "--json").stdout)
    assert [row["clip-i"] for row in rows] == [0.838, 0.880]
    lines = invoke(*words, "--csv").stdout.splitlines()
    assert lines[0].split(",") == list(COLUMNS) and len(lines) == 3
    assert "dreambench" in refused_at_once("leaderboard", "published", "--benchmark", "dreambnch")
    every = json.loads(invoke("leaderboard", "published", "--benchmark", "all", "--json").stdout)
    assert len(every) == len(load_published())


READ = {
    "method": "Method (single image)", "base_model": "SD v1.5", "tuning": "tuning-free",
    "dino": "0.7", "clip_i": "0.8", "clip_t": "0.3", "other": "", "variant": "DreamBench",
    "paper": "Method: a paper", "arxiv": "2501.00001 (id recalled)", "table": "Table 1",
    "source": "s", "confidence": "primary",
}  # fmt: skip


def make(tmp_path, *rows):
    script = load_script()
    given = tmp_path / "read.csv"
    with given.open("w", newline="") as file:
        writer = csv.DictWriter(file, script.INPUT)
        writer.writeheader()
        writer.writerows(rows)
    script.main(given, tmp_path)
    with (tmp_path / "published-left-out.csv").open(newline="") as file:
        left_out = list(csv.DictReader(file))
    return check_published(tmp_path / "published.csv"), left_out


def test_script_keeps_or_names_every_row(tmp_path):
    kept, left_out = make(
        tmp_path,
        READ | {"dino": "0.7004", "paper": "Other", "variant": "SINGLE reference, 3000 images"},
        READ,
        READ | {"dino": ""},
        READ | {"clip_i": "", "clip_t": ""},
        READ | {"other": "TRANSCRIPTION ERROR: another's cells"},
        READ | {"method": "B", "tuning": "", "variant": "as above"},
        READ | {"method": "B", "variant": "TWO-subject: = 4500 groups", "dino": "0.5"},
    )
    assert len(kept) + len(left_out) == 7
    assert [(row["line"], row["reason"]) for row in left_out] == [
        ("2", "the numbers of line 3 again (Method: a paper, Table 1)"),
        ("4", "no DINO"),
        ("5", "no CLIP-I and no CLIP-T"),
        ("6", "marked as copied wrongly from another paper's table"),
    ]
    own = kept[0]
    assert (own.name, own.base_model, own.year) == ("Method", "Stable Diffusion 1.5", 2025)
    # A paper that quotes a row may say more of it than its own paper does.
    assert (own.convention, own.references, own.quoted_by) == ("kosmos-g", "one", "Other")
    assert "arXiv id from memory" in own.note
    # The track is the one that other rows of the method have.
    assert [(row.benchmark, row.track, row.n_images) for row in kept[1:]] == [
        ("dreambench", "tuning-free", None),
        ("dreambench-several-subjects", "tuning-free", 4500),
    ]


@pytest.mark.skipif(not FACTS.is_file(), reason="the table that was read from papers is not here")
def test_stored_files_are_what_the_script_makes(tmp_path):
    load_script().main(FACTS, tmp_path)
    for name in ("published.csv", "published-left-out.csv"):
        assert (tmp_path / name).read_bytes() == (REPOSITORY / "reports" / name).read_bytes()
