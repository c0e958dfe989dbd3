"""What the pages of both trials have: tables by metric, and what their numbers depend on."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dreambench.machine.environment import describe_session
from dreambench.mini.validation.trial import title_of
from dreambench.mini.world.renderer import RENDERER_VERSION
from dreambench.report.model import Block, Bullets, Cell, Heading, Paragraph, Table


def make_table(name: str, frame: pd.DataFrame) -> Table:
    """Return a frame by metric as a table; NaN is shown as nothing."""
    rows: list[dict[str, Cell]] = [
        {"metric": title_of(str(metric)), **{str(k): float(v) for k, v in row.items()}}
        for metric, row in frame.iterrows()
    ]
    return Table.from_rows(name, rows)


def describe_origin(signatures: Sequence[str]) -> list[Block]:
    """Return the end of a page: signatures of its metrics, renderer, code and packages."""
    session = describe_session("cpu")
    packages = ", ".join(f"{name} {version}" for name, version in session.packages.items())
    return [
        Heading("What these numbers depend on"),
        Bullets(signatures, is_code=True),
        Paragraph(
            f"Pictures by the small world's renderer, version {RENDERER_VERSION}; "
            f"{session.code}; Python {session.python}, {packages}."
        ),
    ]
