"""What is wrong with the images of a run or a folder: kinds of problems, counted and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dreambench.artifacts.manifest import ProblemGroup
from dreambench.errors import UserError

Kind = Literal[
    "missing", "extra", "outside", "unreadable", "too small", "unknown", "black", "of one colour",
    "duplicated",
]  # fmt: skip
STOPPING: frozenset[Kind] = frozenset({"missing", "extra", "unreadable", "too small"})
"""What makes a set another than the protocol's. The others are listed and do not stop a score:
what leads outside and what has no place is not read; what is black, of one colour or there twice
is scored as it is."""
N_NAMES = 20
"""So many problems of a kind are named; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the protocol has it; `name` is a path inside the folder."""

    kind: Kind
    name: str
    n_images: int = 1
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


class ImageSetError(UserError):
    """The error for a folder that is not the protocol's set; `problems` has them all."""

    problems: Sequence[Problem] = ()


def reason_of(error: OSError) -> str:
    """Why the system did not let a file be read, without its path."""
    return f"cannot be read ({error.strerror})"


def count_problems(problems: Sequence[Problem]) -> dict[str, int]:
    """How many images each kind of problem has, in the order of `Kind`."""
    counts = {kind: sum(p.n_images for p in problems if p.kind == kind) for kind in get_args(Kind)}
    return {kind: n_images for kind, n_images in counts.items() if n_images}


def group_problems(problems: Sequence[Problem]) -> dict[str, ProblemGroup]:
    """Return each kind of problem with its count and its first names."""
    return {
        kind: ProblemGroup(
            n_images=n_images, names=[str(p) for p in problems if p.kind == kind][:N_NAMES]
        )
        for kind, n_images in count_problems(problems).items()
    }


def list_problems(problems: Sequence[Problem], *, n_names: int = N_NAMES) -> list[str]:
    """A line for each kind with its count, and under it the first names."""
    lines = []
    for kind, n_images in count_problems(problems).items():
        members = [str(problem) for problem in problems if problem.kind == kind]
        lines.append(f"{n_images} {kind}:")
        lines += [f"- {member}" for member in members[:n_names]]
        if len(members) > n_names:
            lines.append(f"- and {len(members) - n_names} more")
    return lines
