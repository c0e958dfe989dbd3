"""Coverage of the intervals of a user study, on simulated raters (no people).

    python benchmarks/user_study.py --out reports/benchmarks

Studies of several sizes, with images and raters that differ more or less: the share of studies
whose 95 % intervals contain the true share of single answers and of majorities; and how often the
sign test finds a bias towards one side, rightly or wrongly.
"""

import argparse
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from simulated_raters import (  # noqa: E402
    World,
    find_held,
    find_majority_truth,
    find_truth,
    make_plan,
    simulate,
)

from dreambench.storage.files import write_bytes, write_json  # noqa: E402
from dreambench.study.analysis import find_side, resample  # noqa: E402
from dreambench.study.plan import ASKS  # noqa: E402
from dreambench.study.votes import make_votes  # noqa: E402

METHODS = {"a": 0.6, "b": -0.6}
SIZES = {
    "the paper's: 24 x 25 x 3": (24, 25, 3),
    "12 x 10 x 3": (12, 10, 3),
    "crossed: 4 x 25 x 6": (4, 25, 6),
}
SPREADS = {
    "alike": (0.0, 0.0),
    "images differ": (1.0, 0.0),
    "raters differ": (0.0, 0.7),
    "both": (1.0, 0.7),
}
SIDES = (0.0, 0.3)


def measure(size, spread, side, n_studies):
    """Shares of studies whose intervals contain the true values, and of those that find a side."""
    n_sheets, n_questions, raters = size
    world = World(METHODS, image_spread=spread[0], rater_spread=spread[1], side=side)
    study = make_plan(
        tuple(METHODS), n_sheets=n_sheets, n_questions=n_questions, raters_each=raters, n_checks=0
    )
    truths = {
        "answers": find_truth(world, *METHODS)[0],
        "majority": find_majority_truth(world, *METHODS, raters=raters)[0],
    }
    seeds = range(n_studies)
    found = find_held(study, world, truths, seeds=seeds)
    sides = [
        find_side(asks, *resample(votes, asks, seed=0)[::2]).p
        for votes in (make_votes(study, simulate(study, world, seed=seed)) for seed in seeds)
        for asks in ASKS
    ]
    return {**found, "side_found": float(np.mean(np.array(sides) < 0.05))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=200)
    options = parser.parse_args()
    started, rows = time.monotonic(), []
    for size_name, size in SIZES.items():
        for spread_name, spread in SPREADS.items():
            for side in SIDES:
                found = measure(size, spread, side, options.studies)
                rows.append({"size": size_name, "spread": spread_name, "side": side, **found})
                print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "user-study.json", {"n_studies": options.studies, "rows": rows})
    write_bytes(options.out / "user-study.md", render(rows, options.studies).encode())
    print(f"{time.monotonic() - started:.0f} s")


def render(rows, n_studies):
    """The page of the results."""
    text = (
        f"Made by `benchmarks/user_study.py`: {n_studies} simulated studies a row, both questions "
        "in each. **No person took part**: raters are drawn from Davidson's model with known "
        "strengths. A size is questionnaires x comparisons in each x raters of each. The intervals "
        "should contain the true value in 95 % of cases; the sign test should find a side where "
        "there is one (*side* .3), and in at most 5 % of cases where there is none."
    )
    columns = (
        "size", "images and raters", "side", "single answers covered", "majorities covered",
        "width", "side found",
    )  # fmt: skip
    lines = [
        "# Coverage of the intervals of a user study", "", *textwrap.wrap(text, 100),
        "", f"| {' | '.join(columns)} |", "|:--|:--|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    lines += [
        f"| {row['size']} | {row['spread']} | {row['side']:.1f} | {row['answers']:.3f} | "
        f"{row['majority']:.3f} | {row['width']:.3f} | {row['side_found']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
