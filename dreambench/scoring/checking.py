"""Opens the files of a folder once and sorts out what cannot be scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dreambench.artifacts.plan import ImageUnit
from dreambench.encoders.feature_cache import FeatureCache
from dreambench.errors import DiskError
from dreambench.progress import Progress
from dreambench.scoring.placing import Placed
from dreambench.scoring.problems import Problem, reason_of
from dreambench.storage.files import sha256_file
from dreambench.storage.images import ImageError, PixelBudget, is_lossy, load_image

N_WORKERS = 4
LOOK = "look v2|8-bit RGB"
KEPT = ("size", "is_black", "is_plain", "is_lossy", "pixels_sha256")
"""What of a look is kept, in the cache, under this identity."""


@dataclass(frozen=True)
class Checked:
    """The files that can be scored, each opened once, with the digests of their bytes."""

    files: Mapping[ImageUnit, Path]
    sha256: Mapping[ImageUnit, str]
    problems: Sequence[Problem]
    n_lossy: int
    min_side_px: int


@dataclass(frozen=True)
class _Look:
    """What opening a file shows; `fault` is empty for an image that can be scored."""

    fault: str = ""
    size: tuple[int, int] = (0, 0)
    is_black: bool = False
    is_plain: bool = False
    is_lossy: bool = False
    sha256: str = ""
    pixels_sha256: str = ""


def _look_at_all(
    paths: Sequence[Path], cache: FeatureCache, pool: ThreadPoolExecutor
) -> list[_Look]:
    """What each file shows; content that was whole when it was seen before is not decoded again."""
    hashes = list(pool.map(_hash, paths))
    rows = cache.read(LOOK, "look", [name for name in hashes if name])
    known = {}
    for sha256, row in rows.items():
        shown = json.loads(row.tobytes())
        known[sha256] = _Look(**shown | {"size": tuple(shown["size"])}, sha256=sha256)
    budget = PixelBudget()
    looks = list(pool.map(lambda path, name: known.get(name) or _look(path, budget), paths, hashes))
    fresh = {}
    for look in looks:
        if not look.fault and look.sha256 not in known:
            shown = {key: value for key, value in asdict(look).items() if key in KEPT}
            fresh[look.sha256] = np.frombuffer(json.dumps(shown).encode(), np.uint8)
    if fresh:
        cache.write(LOOK, "look", fresh)
    return looks


def _hash(path: Path) -> str:
    """Empty for what cannot be read, whose fault `_look` names."""
    try:
        return sha256_file(path) if path.is_file() else ""
    except DiskError:
        return ""


def _look(path: Path, budget: PixelBudget) -> _Look:
    try:
        with budget.hold(path):
            image = load_image(path)
            return _Look(
                size=image.size,
                is_black=image.getbbox() is None,
                is_plain=image.getcolors(1) is not None,
                is_lossy=is_lossy(path),
                sha256=sha256_file(path),
                pixels_sha256=hashlib.sha256(
                    repr(image.size).encode() + image.tobytes()
                ).hexdigest(),
            )
    except ImageError as error:
        return _Look(fault=error.reason)
    except DiskError as error:
        return _Look(fault=error.problem)
    except OSError as error:
        return _Look(fault=reason_of(error))


def check_images(
    placed: Placed, *, min_side_px: int, cache_dir: Path, progress: Progress
) -> Checked:
    """Opens every file once and sorts out what cannot be scored.

    That is what cannot be read and what has a side below `min_side_px`. Images that are black all
    over and those that are there twice are what a method gave: they are listed and stay.
    """
    files: dict[ImageUnit, Path] = {}
    sha256: dict[ImageUnit, str] = {}
    problems: list[Problem] = []
    seen: dict[str, ImageUnit] = {}
    n_lossy = 0
    units = list(placed.files)
    step = 16 * N_WORKERS
    with FeatureCache(cache_dir) as cache, ThreadPoolExecutor(N_WORKERS) as pool:
        for start in range(0, len(units), step):
            progress("images checked", start, len(units))
            group = units[start : start + step]
            looks = _look_at_all([placed.files[unit] for unit in group], cache, pool)
            for unit, look in zip(group, looks, strict=True):
                name = placed.names[unit]
                if look.fault:
                    problems.append(Problem("unreadable", name, detail=look.fault))
                    continue
                if min(look.size) < min_side_px:
                    size = f"{look.size[0]} x {look.size[1]} px"
                    detail = f"{size}, below {min_side_px}"
                    problems.append(Problem("too small", name, detail=detail))
                    continue
                if look.is_plain:
                    problems.append(Problem("black" if look.is_black else "of one colour", name))
                first = seen.setdefault(look.pixels_sha256, unit)
                if first != unit:
                    same = "bytes" if sha256[first] == look.sha256 else "pixels"
                    detail = f"the {same} of {placed.names[first]}"
                    problems.append(Problem("duplicated", name, detail=detail))
                files[unit], sha256[unit] = placed.files[unit], look.sha256
                n_lossy += look.is_lossy
    progress("images checked", len(units), len(units))
    return Checked(files, sha256, problems, n_lossy, min_side_px)
