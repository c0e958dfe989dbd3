"""Where shipped data lies, and where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PACKAGE_DIR = Path(__file__).resolve().parents[1]


def shipped_path(*parts: str) -> Path:
    """Return a path in the top-level data folders: in an installed wheel, or in the checkout."""
    inside = PACKAGE_DIR / "_data"
    root = inside if inside.is_dir() else PACKAGE_DIR.parent
    return root.joinpath(*parts)


def cache_dir() -> Path:
    """Return the folder for what can be made again: DREAMBENCH_CACHE, or the user's cache."""
    named = named_folder("DREAMBENCH_CACHE")
    return named if named else Path(platformdirs.user_cache_dir("dreambench"))


def named_folder(variable: str) -> Path | None:
    """Return the folder that an environment variable names, if any; `~` is the user's own."""
    text = os.environ.get(variable, "").strip()
    return expand_home(Path(text)) if text else None


def expand_home(path: Path) -> Path:
    """Return a path with `~` and `~NAME` as the home that it is, where there is such a home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
