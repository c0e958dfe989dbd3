"""Verdicts on cases: what a command printed and how it ended, and tables of many cases."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from faults.server import Done

KINDS = {
    "lost": "a finished product is gone, or the same command again does not make it",
    "silently wrong": "another result than the right one, without a word",
    "traceback": "a traceback, or an exit code that means a bug",
    "outside": "something written or changed outside of the given folder, or code executed",
    "limits": "over the limit of time or memory",
    "exit": "an exit code or output that is not that of a refusal",
    "repeated": "finished work was done again",
    "leftover": "a file that an undisturbed run does not leave",
    "escape": "a control character of the input reached the terminal",
}
"""Kinds of failures."""

Fault = tuple[str, str]
"""A kind and what was seen."""

_TRACEBACK = "Traceback (most recent call last)"
_FAILED_UNIT = re.compile(r"^dreambench: .*(failed:|not tried)")
MAX_REFUSAL_BYTES = 20_000


@dataclass(frozen=True)
class Verdict:
    """One case: of which group, which it was, and what was wrong with it; empty when all was right.

    `outcome` says which of the right ends it was: "read" or "refused", where it was either.
    """

    group: str
    name: str
    faults: tuple[Fault, ...]
    outcome: str = ""


def find_in_output(done: Done, *, may_fail: bool = True) -> list[Fault]:
    """Return what is wrong with the end and the output of a command.

    It may end with 0, or with 2 and one line that says why; with 1 where units of a run failed.
    """
    lines = done.stderr.splitlines()
    own = [line for line in lines if line.startswith(("dreambench:", "Error:"))]
    units = [line for line in own if _FAILED_UNIT.match(line)]
    last = lines[-1][:200] if lines else ""
    if done.timed_out:
        return [("limits", f"not done after {done.seconds:.0f} s")]
    if "MemoryError" in done.stderr or "out of memory" in done.stderr:
        return [("limits", f"out of memory: {last}")]
    if _TRACEBACK in done.stderr or _TRACEBACK in done.stdout:
        return [("traceback", last)]
    if not may_fail and done.status != 0:
        return [("lost", f"ends with {done.status}: {last}")]
    if done.status not in (0, 1, 2):
        return [("traceback", f"ends with {done.status}: {last}")]
    faults: list[Fault] = []
    if done.status == 1 and not units:
        faults.append(("exit", f"1 without a failed unit: {last}"))
    if done.status == 2 and len(own) - len(units) != 1:
        faults.append(("exit", f"2 with {len(own) - len(units)} lines that say why: {last}"))
    if done.status == 2 and len(done.stderr) > MAX_REFUSAL_BYTES:
        faults.append(("exit", f"a refusal of {len(done.stderr)} characters"))
    if found := find_controls(done.stdout + done.stderr):
        faults.append(("escape", f"{found!r} on the terminal"))
    return faults


def find_controls(text: str) -> str:
    """Return characters that a terminal obeys and that no output of ours has.

    Joiners are for `tests/unit/test_text.py`: between some letters they belong.
    """
    found = {
        c for c in text
        if (unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t\r\u200c\u200d")
    }  # fmt: skip
    return "".join(sorted(found))


@dataclass(frozen=True)
class Row:
    """Counts of a group: cases, those without a fault, and cases by kind of fault."""

    group: str
    n_tried: int
    n_survived: int
    n_refused: int
    kinds: Counter[str]


def count_verdicts(verdicts: Iterable[Verdict]) -> list[Row]:
    """Return a row a group, in the order in which they came."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.group, []).append(verdict)
    return [
        Row(
            group, len(found), sum(not v.faults for v in found),
            sum(v.outcome == "refused" for v in found),
            Counter(kind for v in found for kind in {kind for kind, _ in v.faults}),
        )
        for group, found in groups.items()
    ]  # fmt: skip
