"""Which number of steps? Runs of one recipe that differ in nothing else, side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.analysis.learning import FLOOR
from dreambench.storage.files import digest

STEPS = "n_steps"
"""The setting that a checkpoint is a value of."""
METRICS = ("dino-held-out", "dino", "clip-t", "pres")
"""Subject fidelity, by held-out photos where there are any; prompt fidelity; the prior."""
COLUMNS = ["method", "n_steps", "metric", "mean", "low", "high"]


def group_steps(runs: Sequence[Scored]) -> dict[str, dict[int, Scored]]:
    """Return the runs of each recipe that were made with several numbers of steps, in their order.

    By the recipe's name; the untrained class, where it is among the runs, is step 0 of each.
    """
    groups: dict[str, dict[int, Scored]] = {}
    names: dict[str, str] = {}
    for run in runs:
        settings = dict(run.summary.settings or {})
        if (steps := settings.pop(STEPS, None)) is None:
            continue
        name = re.sub(rf"\+{STEPS}=[0-9]+", "", run.summary.method)
        key = digest([settings, run.summary.track, run.summary.method_code, name])
        names.setdefault(key, name)
        groups.setdefault(key, {}).setdefault(int(steps), run)
    floor = next((run for run in runs if run.name == FLOOR), None)
    start = {} if floor is None else {0: floor}
    return {
        names[key]: start | {step: group[step] for step in sorted(group)}
        for key, group in groups.items()
        if len(group) > 1
    }


def estimate_steps(runs: Sequence[Scored]) -> pd.DataFrame:
    """Return one row (COLUMNS) for each method, number of steps and metric.

    Of the two of DINO it is the one with held-out photos, where that was measured.
    """
    rows: list[list[object]] = []
    for name, group in group_steps(runs).items():
        known = [
            metric
            for metric in METRICS
            if all(metric in run.summary.metrics for run in group.values())
        ]
        if METRICS[0] in known:
            known.remove("dino")
        for step, run in group.items():
            for metric in known:
                whole = run.summary.metrics[metric].whole
                rows.append([name, step, metric, whole.mean, whole.low, whole.high])
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.astype({"mean": float, "low": float, "high": float})
