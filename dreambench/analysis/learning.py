"""Whether a method learned its subjects: against class-only's images, which never saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreambench.analysis.comparison import ALPHA, Scored
from dreambench.analysis.stats import compute_sign_flip_p, smallest_p
from dreambench.config.protocol import PROPERTY
from dreambench.config.track import is_tuned

FLOOR = "class-only"
METRIC = "dino"


@dataclass(frozen=True)
class Learning:
    """Subjects that a trained run learned, did not learn, or has too few prompts to tell of."""

    method: str
    learned: Sequence[str]
    not_learned: Sequence[str]
    unknown: Sequence[str]


def judge_learning(runs: Sequence[Scored]) -> list[Learning]:
    """Return for each trained run what it learned; nothing without `class-only` among the runs.

    A subject counts as learned when its images are closer to the photos in DINO than those of
    class-only from the same seeds, by a sign-flip test over prompts at 5 % (property prompts left
    out, in which a right image loses likeness). Five prompts or fewer cannot show it.
    """
    floor = next((run for run in runs if run.name == FLOOR), None)
    if floor is None:
        return []
    keys = ["subject", "prompt_id", "k"]
    found = []
    for run in runs:
        if run is floor or not is_tuned(run.summary.track):
            continue
        values = []
        for one in (run, floor):
            rows = one.scores.frame
            chosen = rows[(rows["metric"] == METRIC) & (rows["family"] != PROPERTY)]
            values.append(chosen.set_index(keys)["value"])
        gaps = (values[0] - values[1]).dropna().groupby(["subject", "prompt_id"], sort=False).mean()
        verdicts: dict[str, list[str]] = {"learned": [], "not learned": [], "unknown": []}
        for subject, of_prompt in gaps.groupby("subject", sort=False):
            p = compute_sign_flip_p(of_prompt.to_numpy())
            verdict = "learned" if p <= ALPHA and of_prompt.mean() > 0 else "not learned"
            if not smallest_p(len(of_prompt)) <= ALPHA:
                verdict = "unknown"
            verdicts[verdict].append(str(subject))
        found.append(Learning(run.name, *verdicts.values()))
    return found
