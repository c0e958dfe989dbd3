"""A site of records: what shares a board, what is ranked, and that it is only ever ours."""

import csv
import io
import json
import re

import pytest
from board_records import make_record
from conftest import REPOSITORY, invoke, refused, tree
from PIL import Image

from dreambench.artifacts.record import FILE_NAME, BaseModelPart, Remeasurement, read_record
from dreambench.leaderboard import citing
from dreambench.leaderboard.board import load_entries, make_boards
from dreambench.leaderboard.published import load_published
from dreambench.leaderboard.site import make_site, render_site
from dreambench.storage.files import sha256_bytes
from dreambench.storage.sums import find_changed, read_sums

QUALITY = {"good": 0.8, "fair": 0.6, "fair-too": 0.6, "poor": 0.2}


@pytest.fixture
def records(tmp_path):
    """Records of four methods, two of which differ by chance alone."""
    for name, quality in QUALITY.items():
        make_record(tmp_path / "records", name, quality)
    return tmp_path / "records"


def boards_of(records):
    return make_boards(load_entries(records))


def ranks_of(board, metric="joint"):
    names = {entry.digest: entry.record.method.name for entry in board.entries}
    return {names[digest]: rank for digest, rank in board.rankings[metric].ranks.items()}


def test_methods_are_ranked_in_each_metric(records):
    (board,) = boards_of(records)
    assert list(board.infos) == ["joint", "clip-t", "dino", "clip-i", "pixel-match"]
    assert ranks_of(board) == {"good": 1, "fair": 2, "fair-too": 2, "poor": 4}
    assert ranks_of(board, "pixel-match") == {"good": 4, "fair": 2, "fair-too": 2, "poor": 1}
    assert [entry.record.method.name for entry in board.sort("joint")][::3] == ["good", "poor"]


def test_partial_and_withdrawn_records_are_listed_and_never_ranked(records):
    make_record(records, "half", 0.99, missing=[("s0", "beach", 0)])
    make_record(records, "gone", 0.99, status="withdrawn", withdrawn="a photo was trained on")
    (board,) = boards_of(records)
    assert set(ranks_of(board)) == set(QUALITY)
    why = {entry.record.method.name: entry.why_apart for entry in board.apart}
    assert why == {
        "half": "partial: 23 of 24 images", "gone": "withdrawn: a photo was trained on"
    }  # fmt: skip
    page = make_site([board], [])["index.html"].decode()
    apart = page[page.index('id="apart"') :]
    assert "a photo was trained on" in apart and "23 of 24 images" in apart
    assert "a photo was trained on" not in page[: page.index('id="apart"')]


def test_other_signatures_photos_and_protocols_have_boards_of_their_own(records):
    make_record(records, "old", 0.7, version="2")
    make_record(records, "new-photos", 0.7, data="d1")
    first, *others = boards_of(records)
    assert set(ranks_of(first)) == set(QUALITY)
    assert sorted(tuple(ranks_of(board)) for board in others) == [("new-photos",), ("old",)]
    site = make_site([first, *others], [])
    pages = [f"boards/{board.key}.html" for board in others]
    assert set(pages) <= set(site)
    index = site["index.html"].decode()
    assert all(f'href="{page}"' in index for page in pages)
    assert "other photos" in index and "other encoders or versions of" in index
    assert 'href="../index.html"' in site[pages[0]].decode()


def test_a_record_without_some_metrics_joins_those_that_have_them(records):
    make_record(records, "paper-only", 0.9, metrics=("dino", "clip-i", "clip-t"))
    (board,) = boards_of(records)
    assert ranks_of(board, "dino")["paper-only"] == 1 and "paper-only" not in ranks_of(board)
    assert board.sort("joint")[-1].record.method.name == "paper-only"


def test_references_are_shown_below_and_have_no_rank(records):
    make_record(records, "real-images", 0.99, track="oracle")
    make_record(records, "copy-reference", 0.98)
    (board,) = boards_of(records)
    site = make_site([board], [])
    methods = [entry.record.method.name for entry in board.sort("dino")]
    assert methods[-2:] == ["real-images", "copy-reference"]
    assert set(ranks_of(board, "dino")) == {"good", "fair", "fair-too", "poor"}
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(site["index.csv"].decode()))}
    assert rows["real-images"]["dino rank"] == "" and float(rows["real-images"]["dino"]) > 0.9
    (oracle,) = [entry for entry in board.entries if entry.record.method.name == "real-images"]
    page = site[f"rows/{oracle.digest}.html"].decode()
    assert "A reference, which has no rank" in page and "Compared in" not in page


def test_a_subject_of_which_no_image_was_made_has_no_number(records):
    missing = [("s1", prompt, index) for prompt in ("beach", "red") for index in (0, 1)]
    folder = make_record(records, "lost", 0.9, missing=missing)
    (board,) = boards_of(records)
    (lost,) = [entry for entry in board.apart if entry.record.method.name == "lost"]
    dino = lost.record.metrics["dino"]
    assert set(dino.by_subject) == {"s0", "s2", "s3", "s4", "s5"} and dino.whole.n_subjects == 5
    page = make_site([board], [])[f"rows/{folder.name}.html"].decode()
    shown = page[page.index("<main") : page.index("</main>")]
    assert "s1" in shown and "nan" not in shown.lower()


def test_one_record_is_first_and_no_number_is_made_up(tmp_path):
    make_record(tmp_path / "records", "alone", 0.5, metrics=("clip-t",))
    boards = boards_of(tmp_path / "records")
    assert ranks_of(boards[0], "clip-t") == {"alone": 1}
    page = make_site(boards, [])["index.html"].decode()
    assert "There is one method, and nothing to compare it with." in page
    shown = page[page.index("<main") : page.index("</main>")]
    assert "nan" not in shown.lower() and "None" not in shown


def test_a_site_is_the_same_bytes_again(records, tmp_path):
    render_site(records, tmp_path / "one")
    render_site(records, tmp_path / "two")
    first, second = tree(tmp_path / "one"), tree(tmp_path / "two")
    assert first == second and len(first) == 4 * 4 + 4 + 3 + 1
    assert find_changed(tmp_path / "one") == []
    render_site(records, tmp_path / "one")
    assert tree(tmp_path / "one") == first


def test_files_beside_pages_hold_the_same_numbers(records):
    (board,) = boards_of(records)
    site = make_site([board], [])
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(site["index.csv"].decode()))}
    data = json.loads(site["index.json"])
    for entry in board.entries:
        row, mean = rows[entry.record.method.name], entry.mean("dino")
        assert float(row["dino"]) == mean
        assert data["records"][entry.digest]["means"]["dino"]["mean"] == mean
        assert int(row["joint rank"]) == data["ranks"]["joint"][entry.digest]
        of_row = site[f"rows/{entry.digest}.csv"].decode()
        found = [r for r in csv.DictReader(io.StringIO(of_row)) if r["metric"] == "dino"]
        parts = {part: sum(r["part"] == part for r in found) for part in ("subject", "prompt")}
        assert parts == {"subject": 6, "prompt": 2}
        assert json.loads(site[f"rows/{entry.digest}.json"]) == entry.record.model_dump(mode="json")
    pairs = list(csv.DictReader(io.StringIO(site["index-pairs.csv"].decode())))
    assert len(pairs) == 6 * len(board.infos)
    assert {p["better"] for p in pairs if p["metric"] == "joint"} == {
        "good",
        "fair",
        "fair-too",
        "",
    }


def test_stale_files_go_and_what_is_not_ours_stays(records, tmp_path):
    out = tmp_path / "site"
    render_site(records, out)
    (record,) = (records / "tiny" / "poor").iterdir()
    (out / "CNAME").write_text("example.org\n")
    changed = out / "rows" / f"{record.name}.csv"
    changed.write_text("mine\n")
    for path in record.iterdir():
        path.unlink()
    record.rmdir()
    render_site(records, out)
    assert not (out / "rows" / f"{record.name}.html").exists()
    assert changed.read_text() == "mine\n" and (out / "CNAME").exists()
    assert set(read_sums(out)) == set(tree(out)) - {"SHA256SUMS", "CNAME", f"rows/{changed.name}"}


def test_a_file_that_is_not_of_a_site_is_not_overwritten(records, tmp_path):
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("mine")
    line = refused("leaderboard", "render", "--records", records, "--out", out)
    assert "index.html" in line and tree(out) == {"index.html": b"mine"}


def test_a_link_out_of_the_site_is_not_followed(records, tmp_path):
    out, outside = tmp_path / "site", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "rows").symlink_to(outside)
    assert "link" in refused("leaderboard", "render", "--records", records, "--out", out)
    assert not any(outside.iterdir())


def change(folder, **fields):
    content = json.loads((folder / FILE_NAME).read_text())
    for key, value in fields.items():
        *parents, last = key.split("__")
        place = content
        for name in parents:
            place = place[name.replace("_", "-") if name not in place else name]
        place[last] = value
    (folder / FILE_NAME).write_text(json.dumps(content))


FORGED = {
    "mean": ({"metrics__dino__whole__mean": 0.9}, "means: dino"),
    "subject": ({"metrics__dino__by_subject__s0": 0.9}, "subjects: dino"),
    "digest": ({"digest": "0" * 16}, "path: it lies in"),
    "protocol": ({"protocol__title": "mine"}, "protocol: its protocol has the digest"),
    "method": ({"method__name": "other"}, "path: it lies in"),
    "file": ({"files__cells.parquet": "0" * 64}, "cells.parquet has another SHA-256"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_record_that_is_not_what_submit_wrote_is_refused(records, tmp_path, kind):
    fields, words = FORGED[kind]
    (folder,) = (records / "tiny" / "good").iterdir()
    change(folder, **fields)
    line = refused("leaderboard", "render", "--records", records, "--out", tmp_path / "site")
    assert words in line and "leaderboard check" in line
    assert not (tmp_path / "site").exists()


def test_thumbnails_are_encoded_anew(records, tmp_path):
    (folder,) = (records / "tiny" / "good").iterdir()
    strip = (folder / "thumbnails.webp").read_bytes()
    note = b"XMP \x08\x00\x00\x00<script>"
    grown = strip + note
    grown = grown[:4] + (len(grown) - 8).to_bytes(4, "little") + grown[8:]
    (folder / "thumbnails.webp").write_bytes(grown)
    change(folder, **{"files__thumbnails.webp": sha256_bytes(grown)})
    render_site(records, tmp_path / "site")
    made = tmp_path / "site" / "rows" / f"{folder.name}.webp"
    assert b"<script>" not in made.read_bytes()
    with Image.open(made) as image:
        assert image.size == (120, 60)


@pytest.mark.parametrize("content", [b"<svg onload=alert(1)>", b"RIFF\0\0\0\0WEBP"])
def test_thumbnails_that_are_no_image_are_refused(records, tmp_path, content):
    (folder,) = (records / "tiny" / "good").iterdir()
    (folder / "thumbnails.webp").write_bytes(content)
    change(folder, **{"files__thumbnails.webp": sha256_bytes(content)})
    line = refused("leaderboard", "render", "--records", records, "--out", tmp_path / "site")
    assert "thumbnails.webp" in line and not (tmp_path / "site").exists()


def test_a_row_says_what_it_is_made_of_and_how_to_check_and_cite_it(records):
    folder = make_record(
        records, "asked", 0.7, source="A. & B., arXiv 2601.00001", licence="mit",
        base_model=BaseModelPart(name="sdxl", identity="sdxl@1", licence="openrail"),
        paper_url="https://example.org/a_paper", images_url="https://example.org/images.zip",
    )  # fmt: skip
    (board,) = boards_of(records)
    page = make_site([board], [])[f"rows/{folder.name}.html"].decode()
    for words in (
        "The method asked", "sdxl@1", "openrail", "n_steps", "2026-01-01", "24 of 24",
        f"dreambench leaderboard check records/tiny/asked/{folder.name} --images IMAGES",
        f"dreambench rerun records/tiny/asked/{folder.name}", "a {subject} on the beach",
        "recontextualization", "floor (class-only)", "faithful bound",
        f"@misc{{asked-{folder.name},", r"howpublished = {A. \&amp; B., arXiv 2601.00001}",
        'href="https://example.org/a_paper" rel="nofollow noopener ugc"',
    ):  # fmt: skip
        assert words in page, words


def test_who_measured_again_is_said(records):
    (folder,) = (records / "tiny" / "good").iterdir()
    again = Remeasurement(
        session=read_record(folder).sessions[0], n_images=24, largest_difference=0.0004, means={}
    )
    change(folder, status="re-scored", re_scored=again.model_dump(mode="json"))
    (board,) = boards_of(records)
    site = make_site([board], [])
    assert "largest difference 0.0004" in site[f"rows/{folder.name}.html"].decode()
    index = site["index.html"].decode()
    assert '<span data-facet="Status">re-scored</span>' in index


def test_numbers_of_papers_are_apart_and_the_sentence_is_of_the_data(records):
    rows = load_published()
    site = make_site(boards_of(records), rows)
    index, page = site["index.html"].decode(), site["published.html"].decode()
    assert "PatchDPO has DINO .727" in index and ".831" in index
    assert rows[0].method not in re.sub(r"(?s).*<tbody>(.*?)</tbody>.*", r"\1", index)
    assert page.count("<tr>") == len(rows) + 1
    assert len(json.loads(site["published.json"])) == len(rows)
    fewer = [row for row in rows if row.references != "one"]
    assert ".831" not in make_site(boards_of(records), fewer)["index.html"].decode()


def test_citation_is_that_of_the_repository():
    said = (REPOSITORY / "CITATION.cff").read_text()
    assert f'title: "{citing.SOFTWARE["title"]}"' in said
    assert f'title: "{citing.PAPER["title"]}"' in said
    assert citing.SOFTWARE["author"].strip("{}") in said and "arXiv:2208.12242" in said
    for name in citing.PAPER["author"].split(" and "):
        family, given = name.split(", ")
        assert f"{{family-names: {family}, given-names: {given}}}" in said


def test_bibtex_of_a_strangers_text_stays_in_its_field(records):
    title = "} @misc{x, \\input{/etc/passwd} % $ # _ \n\u202e"
    folder = make_record(records, "odd", 0.5, title=title, source=title)
    text = citing.make_bibtex(read_record(folder))
    depth = 0
    for mark in text:
        depth += (mark == "{") - (mark == "}")
        assert depth >= 0
    assert depth == 0 and text.count("@misc{") == 1 and "\u202e" not in text
    assert re.findall(r"(?m)^@(\w+)", text) == ["misc", "software", "inproceedings"]


def test_command_says_what_it_wrote(records, tmp_path):
    done = invoke("leaderboard", "render", "--records", records, "--out", tmp_path / "site")
    assert "index.html" in done.stdout
    done = invoke(
        "leaderboard", "render", "--records", records, "--out", tmp_path / "site", "--json"
    )
    found = json.loads(done.stdout)
    assert {p.rpartition("site/")[2] for p in found["files"]} == set(tree(tmp_path / "site"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "submit" in refused("leaderboard", "render", "--records", empty, "--out", tmp_path / "x")
