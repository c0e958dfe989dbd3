"""The values of the page with numbers from papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreambench.leaderboard.published import UNKNOWN, PublishedRow, explain_references
from dreambench.leaderboard.tables import cut
from dreambench.metrics.conventions import CONVENTIONS, Convention
from dreambench.report.formatting import format_number

REFERENCES = {"all": "all photos", "one": "one photo", UNKNOWN: UNKNOWN}


def make_published_values(rows: Sequence[PublishedRow]) -> dict[str, Any]:
    """Return the values of the page of rows of papers."""
    used = dict.fromkeys(row.convention for row in rows if row.convention in CONVENTIONS)
    return {
        "page": "published",
        "rows": [_describe(row) for row in rows],
        "n_papers": len({row.paper for row in rows}),
        "n_unknown": sum(row.convention == UNKNOWN for row in rows),
        "sentence": explain_references(rows),
        "conventions": [(name, _explain(CONVENTIONS[name])) for name in used],
    }


def _describe(row: PublishedRow) -> dict[str, Any]:
    return {
        "name": cut(row.name), "base_model": cut(row.base_model), "track": row.track,
        "scores": [format_number(value) for value in (row.dino, row.clip_i, row.clip_t)],
        "references": REFERENCES[row.references], "convention": row.convention,
        "benchmark": row.benchmark, "paper": cut(row.paper), "arxiv": row.arxiv,
        "table": cut(row.table), "year": row.year, "confidence": cut(row.confidence),
    }  # fmt: skip


def _explain(convention: Convention) -> str:
    photos = {
        "all": "all photos of a subject", "first": "the first photo of a subject",
        "listed": "one listed photo of a subject",
    }[convention.references]  # fmt: skip
    encoders = f"DINO {convention.dino or 'not scored'}, CLIP {convention.clip}"
    text = "CLIPScore" if convention.clip_t == "clipscore" else "cosine"
    return (
        f"{convention.title}: against {photos}; {encoders}, CLIP-T as {text} ({convention.source})"
    )
