"""What a model of mini reaches beside what was asked of it, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreambench.storage.files import make_dir, write_bytes, write_json


@dataclass(frozen=True)
class Figure:
    """One figure; `renders` is what real renders reach, since no image can show more."""

    what: str
    value: float
    asked: float
    renders: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether it is as high as was asked."""
        return self.value >= self.asked


def write_figures(
    figures: Sequence[Figure], out_dir: Path, name: str, *, title: str, command: str,
    notes: Sequence[str] = (), **more: Any,
) -> str:  # fmt: skip
    """Write `name`.json, with `more`, and `name`.md; return the page."""
    make_dir(out_dir)
    write_json(out_dir / f"{name}.json", {"figures": [_to_json(one) for one in figures], **more})
    has_limit = any(one.renders is not None for one in figures)
    head, line = "| figure | value | asked | met |", "|:--|--:|--:|:--|"
    rows = [
        f"| {one.what} | {one.value:.3f} | {one.asked:.2f} | {'yes' if one.is_met else 'no'} |"
        + (f" {one.renders:.3f} |" if one.renders is not None else "")
        for one in figures
    ]
    if has_limit:
        head, line = f"{head} real renders |", f"{line}--:|"
    lines = [f"# {title}", "", f"Made by `{command}`.", "", head, line, *rows, "", *notes]
    page = "\n".join([*lines, ""] if notes else lines)
    write_bytes(out_dir / f"{name}.md", page.encode())
    return page


def _to_json(figure: Figure) -> Mapping[str, Any]:
    found = {**asdict(figure), "met": figure.is_met}
    if figure.renders is None:
        del found["renders"]
    return found
