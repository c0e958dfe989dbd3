"""Forged records: what was tried, which check sees it by name, and what none can see.

    python benchmarks/forgeries.py --records records --images runs/mini/dreambooth \\
        --out reports/benchmarks

`--records` is a folder of true records of mini, of `--method`, class-only and copy-reference
(`dreambench submit`); `--images` has the images of the first, with which what a record cannot show
of itself is tried again. The exit code is 1 where a forgery was not seen as it should be.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from forged_records import (
    BOARD_FORGERIES,
    FORGERIES,
    Forged,
    Forgery,
    copy_record,
    find_line,
    find_worst,
    list_outcomes,
)

from dreambench.analysis.checking import FAILED, FLAGGED
from dreambench.leaderboard.checks import check_paths
from dreambench.leaderboard.rescoring import RescoreOptions, rescore
from dreambench.machine.environment import describe_session
from dreambench.storage.files import make_dir, write_bytes, write_json

UNSEEN = {
    "the best of many draws": "Images of other seeds than the plan's, kept where they score best. "
    "The seeds in the cells are the plan's, and nothing in an image tells. A re-run gives others.",
    "another recipe than the one it says": "More steps, other data, another method. A re-run gives "
    "other images; how far other numbers may lie is shown beside the replicates' spread.",
    "what only people know": "Who evaluated, which paper, which licence, on which machine. Nothing "
    "is computed from it.",
}
"""By what is done: why no check of a record or its images can see it."""
N_LETTERS = 110


@dataclass(frozen=True)
class Tried:
    """One forgery: what should see it and what did."""

    name: str
    wanted: str
    seen_by: Sequence[str]
    outcome: str
    line: str
    seconds: float
    right: bool


def try_record(forgery: Forgery, folder: Path, work: Path, images: Path | None) -> Tried:
    """Forge a copy of a record, and check it; its images as well where they are to see it."""
    one = copy_record(folder, work / "records")
    forgery.forge(one)  # type: ignore[operator]
    started = time.monotonic()
    (checked,) = check_paths([one.folder])
    found = list(checked.found)
    if forgery.sees == "--images" and images is not None and checked.opened is not None:
        again, _ = rescore(checked.opened, RescoreOptions(images=images, device="cpu"))
        found += again
    seconds = time.monotonic() - started
    outcomes = list_outcomes(found)
    seen = [name for name, outcome in outcomes.items() if outcome in (FAILED, FLAGGED)]
    if forgery.check:
        right = outcomes.get(forgery.check) == forgery.outcome
        line = find_line(found, forgery.check).replace(f"{one.folder}/", "")
        return Tried(forgery.name, forgery.check, seen, forgery.outcome, line, seconds, right)
    was_tried = forgery.sees == "--images" and images is not None
    right = bool(seen) == was_tried
    line = find_line(found, seen[0]) if seen else ""
    return Tried(
        forgery.name, forgery.sees, seen, FAILED if seen else "not seen", line, seconds, right
    )


def try_board(forgery: Forgery, board: Path, method: str, work: Path) -> Tried:
    """Forge a copy of a folder of records, and check it against what it was."""
    records = Path(shutil.copytree(board, work / "records"))
    (folder,) = records.glob(f"*/{method}/*")
    forgery.forge(records, Forged(folder))  # type: ignore[operator]
    started = time.monotonic()
    checked = check_paths([records], board=board)
    seconds = time.monotonic() - started
    outcome = find_worst(checked, forgery.check)
    lines = [find_line(one.found, forgery.check).replace(f"{work}/", "") for one in checked
             if list_outcomes(one.found).get(forgery.check) == outcome]  # fmt: skip
    return Tried(
        forgery.name, forgery.check, [forgery.check], outcome, next(iter(lines), ""), seconds,
        outcome == forgery.outcome,
    )  # fmt: skip


def make_rows(tried: Sequence[Tried]) -> list[str]:
    """Return a table of forgeries that were tried."""
    rows = ["| what was done | seen by | outcome | what it says |", "|:--|:--|:--|:--|"]
    for one in tried:
        line = one.line.encode("unicode_escape").decode().replace("|", "/").replace("`", "'")
        short = line if len(line) <= N_LETTERS else f"{line[:N_LETTERS]}..."
        seen = one.wanted if one.right else f"**not as it should be** ({one.wanted})"
        said = f"`{short}`" if short else "-"
        rows.append(f"| {one.name} | {seen} | {one.outcome} | {said} |")
    return rows


def make_page(
    records: Sequence[Tried], boards: Sequence[Tried], *, command: str, has_images: bool
) -> str:
    """Return the page."""
    alone = [one for one in records if not one.wanted.startswith(("--images", "dreambench rerun"))]
    by_images = [one for one in records if one.wanted == "--images"]
    by_rerun = [one for one in records if one.wanted == "dreambench rerun"]
    every = [*alone, *boards]
    n_right = sum(one.right for one in every)
    session = describe_session("cpu")
    slowest = max(one.seconds for one in every)
    lines = [
        "# Forged records", "",
        f"Made by `{command}` ([forgeries.json](forgeries.json)). Each is a true record of mini, "
        "changed as someone would who wants a better row, or wants to do harm; means, digests and "
        "SHA-256 are made to fit as far as the forgery needs it. What is *flagged* is shown to "
        "whoever decides, and fails nothing. The same forgeries are tests "
        "(`tests/integration/test_leaderboard_check.py`).", "",
        f"{n_right} of {len(every)} are seen by the check that is for them, without an image, in "
        f"{slowest:.1f} s at most.", "",
        "## In a record", "", *make_rows(alone), "",
        "## On a board, checked with `--against`", "", *make_rows(boards), "",
        "## What needs the images", "",
        "A record that agrees with itself and was not made of its images: `leaderboard check "
        "--images` scores them again.", "",
        *(make_rows(by_images) if has_images else ["Not tried here: no images were named."]), "",
        "## What needs a re-run", "",
        "Neither record nor images show it. `dreambench rerun` gives other images "
        "(`tests/integration/test_leaderboard_again.py`).", "",
        *make_rows(by_rerun), "",
        "## What cannot be seen in a record or its images at all", "",
        *(f"- **{name}.** {why}" for name, why in UNSEEN.items()), "",
        f"{session.code}; Python {session.python}.",
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--records", type=Path, required=True, help="folder of true records")
    parser.add_argument("--method", default="dreambooth", help="the record that is forged")
    parser.add_argument("--images", type=Path, help="folder or archive of its images")
    parser.add_argument("--out", type=Path, help="folder of the page")
    return parser.parse_args()


def main() -> None:
    """Try every forgery, print the page, and write it with --out."""
    args = parse()
    (folder,) = args.records.glob(f"*/{args.method}/*")
    truth = check_paths([args.records])
    if not all(one.passed for one in truth):
        sys.exit("the records themselves do not pass")
    records, boards = [], []
    with tempfile.TemporaryDirectory() as name:
        for index, forgery in enumerate(FORGERIES):
            records.append(try_record(forgery, folder, Path(name) / str(index), args.images))
        for index, forgery in enumerate(BOARD_FORGERIES):
            work = make_dir(Path(name) / f"board-{index}")
            boards.append(try_board(forgery, args.records, args.method, work))
    words = ["python", "benchmarks/forgeries.py", *sys.argv[1:]]
    page = make_page(records, boards, command=" ".join(words), has_images=args.images is not None)
    print(page)
    if args.out:
        out = make_dir(args.out)
        write_bytes(out / "forgeries.md", page.encode())
        content = {"records": records, "boards": boards}
        write_json(
            out / "forgeries.json",
            {key: [asdict(one) for one in tried] for key, tried in content.items()},
        )
    if not all(one.right for one in [*records, *boards]):
        sys.exit(1)


if __name__ == "__main__":
    main()
