"""From records to a static site: a page a board and a page a record (`leaderboard render`).

Nothing in it depends on when or where it was made, and no name of a file comes from a record but
its digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambench import __version__
from dreambench.errors import UserError, disk_errors, name_some
from dreambench.leaderboard.board import Board, Entry, load_entries, make_boards
from dreambench.leaderboard.board_page import make_board_values, make_rankings_data
from dreambench.leaderboard.published import (
    COLUMNS,
    PublishedRow,
    explain_references,
    load_published,
)
from dreambench.leaderboard.published_page import make_published_values
from dreambench.leaderboard.row_page import make_row_values
from dreambench.leaderboard.tables import (
    make_board_data,
    make_board_table,
    make_long_table,
    make_pairs_table,
)
from dreambench.report.csv import render_csv
from dreambench.report.html.pages import read_static, render_page
from dreambench.storage.csv_files import format_csv
from dreambench.storage.files import make_dir, render_json, sha256_file
from dreambench.storage.images import encode_generated_webp, load_image
from dreambench.storage.paths import check_inside
from dreambench.storage.sums import FILE_NAME as SUMS_NAME
from dreambench.storage.sums import read_sums, write_products

FOLDER = Path(__file__).parent
TEMPLATES, STATIC = FOLDER / "templates", FOLDER / "static"
FIRST = "index"
MAX_STRIP_PX = (1056, 792)
STRIP_QUALITY = 85


def render_site(records_dir: Path, out_dir: Path) -> list[Path]:
    """Write the site of all records in a folder, and return its files.

    What an earlier rendering wrote and this one does not is removed; nothing else is touched.

    Raises:
        UserError: there are no records, or one cannot be shown (`board.load_entries`); or a file
            that dreambench did not write stands where one of the site would.
    """
    contents = make_site(make_boards(load_entries(records_dir)), load_published())
    make_dir(out_dir)
    old = read_sums(out_dir)
    foreign = [
        name
        for name in contents
        if name not in old and check_inside(out_dir / name, out_dir).exists()
    ]
    if foreign:
        raise UserError(
            f"{out_dir} holds files that are not of a site of dreambench: {name_some(foreign)}",
            hint="name another folder with --out, or move them away",
            code="foreign-files",
        )
    stale = sorted(set(old) - set(contents))
    write_products(out_dir / ".staging", "site", out_dir, contents, dropped=stale)
    for name in stale:
        path = check_inside(out_dir / name, out_dir)
        # One that was changed since belongs to whoever changed it.
        if path.is_file() and sha256_file(path) == old[name]:
            with disk_errors(path):
                path.unlink()
    return [out_dir / name for name in [*contents, SUMS_NAME]]


def make_site(boards: Sequence[Board], published: Sequence[PublishedRow]) -> dict[str, bytes]:
    """Return the files of a site by their paths in it."""
    stems = [FIRST, *(f"boards/{board.key}" for board in boards[1:])]
    files = _make_published(published)
    sentence = explain_references(published)
    for board, stem in zip(boards, stems, strict=True):
        others = [
            (other, f"{other_stem}.html")
            for other, other_stem in zip(boards, stems, strict=True)
            if other is not board
        ]
        values = make_board_values(board, others)
        values |= {"stem": stem.rpartition("/")[2], "sentence": sentence}
        data = {"rankings": make_rankings_data(board)}
        files[f"{stem}.html"] = _render("board.html", stem, values, data=data)
        files[f"{stem}.csv"] = render_csv(make_board_table(board)).encode()
        files[f"{stem}-pairs.csv"] = render_csv(make_pairs_table(board)).encode()
        files[f"{stem}.json"] = render_json(make_board_data(board))
        for entry in [*board.entries, *board.apart]:
            files |= _make_row(entry, board, f"{stem}.html")
    return files


def _make_published(rows: Sequence[PublishedRow]) -> dict[str, bytes]:
    stem, found = "published", [row.model_dump(mode="json", by_alias=True) for row in rows]
    return {
        f"{stem}.html": _render(f"{stem}.html", stem, make_published_values(rows)),
        f"{stem}.csv": format_csv(COLUMNS, found).encode(),
        f"{stem}.json": render_json(found),
    }


def _make_row(entry: Entry, board: Board, board_file: str) -> dict[str, bytes]:
    stem = f"rows/{entry.digest}"
    values = make_row_values(entry, board) | {"board_file": board_file, "thumbnails": None}
    files = {}
    if entry.thumbnails_path is not None:
        strip, size = make_strip(entry, entry.thumbnails_path)
        files[f"{stem}.webp"] = strip
        values["thumbnails"] = {
            "file": f"{entry.digest}.webp", "width": size[0], "height": size[1],
        }  # fmt: skip
    files[f"{stem}.html"] = _render("row.html", stem, values)
    files[f"{stem}.csv"] = render_csv(make_long_table(entry)).encode()
    files[f"{stem}.json"] = render_json(entry.record.model_dump(mode="json"))
    return files


def _render(
    template: str, stem: str, values: Mapping[str, Any], *, data: Mapping[str, Any] | None = None
) -> bytes:
    shared = {"root": "../" * stem.count("/"), "version": __version__}
    page = render_page(
        template,
        shared | dict(values),
        data=data,
        scripts=[read_static(STATIC / "board.js")] if data else [],
        styles=[read_static(STATIC / "board.css")],
        folders=[TEMPLATES],
    )
    return page.encode()


def make_strip(entry: Entry, path: Path) -> tuple[bytes, tuple[int, int]]:
    """Return thumbnails encoded anew, so that nothing but pixels of the record's file is passed on.

    Raises:
        ImageError: the file is not an image that `load_image` takes.
    """
    image = load_image(path)
    image.thumbnail(MAX_STRIP_PX)
    record = entry.record
    note = {
        "method": record.method.name, "protocol": record.protocol.name, "record": entry.digest,
    }  # fmt: skip
    return encode_generated_webp(image, note, quality=STRIP_QUALITY), image.size
