"""dreambench: how faithfully does a method put a given subject into new pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreambench.datasets.subjects import Subject
    from dreambench.scoring.external import score as score

__version__ = "0.1.0"


def load_subjects(
    dataset: str = "dreambooth", *, names: Sequence[str] | None = None, data_dir: Path | None = None
) -> list[Subject]:
    """The subjects of a dataset with the paths of their photos, each checked against its SHA-256.

    `dataset` is "dreambooth", "mini", or a folder with the two index files; `data_dir` is where the
    photos of "dreambooth" lie (default: DREAMBENCH_DATA, else the user's cache folder). Raises
    UserError that names what is missing or changed.
    """
    from dreambench.datasets import subjects  # noqa: PLC0415  (keeps the import of the package light)

    found = subjects.find_dataset(dataset, photos_dir=data_dir)
    return subjects.load_subjects(found, names=names)


def __getattr__(name: str) -> Any:
    """`score`, when it is first asked for: it imports torch and pandas."""
    if name == "score":
        from dreambench.scoring.external import score  # noqa: PLC0415

        return score
    raise AttributeError(f"module 'dreambench' has no attribute '{name}'")
