"""Images that were steered by an encoder while they were made, which that encoder then likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTING = "steered_by"
"""The number of a recipe that names this encoder, in a method of the package or from outside."""


def describe_steering(settings: Mapping[str, Any] | None) -> list[str]:
    """Return a line for whoever reads a row's numbers; none where nothing steered."""
    name = (settings or {}).get(SETTING)
    if not isinstance(name, str) or not name:
        return []
    return [
        f"steered by the encoder {name}: metrics of that encoder (CLIP-T with it, as a rule) are "
        "inflated; score again with another, --encoder clip=..., to see how much"
    ]
