"""Commands on the cache: show what is there, bring it within a bound, clear it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from dreambench.cli.shared import cache_option, print_json, say, user_errors


@click.group()
def cache() -> None:
    """What encoders computed: show, prune, clear.

    Features and distances are shared by all runs. After each run the least recently used are
    deleted until the rest fits within DREAMBENCH_CACHE_MAX (default 2 GB).
    """


def _measure_folders(root: Path) -> dict[str, int]:
    """Return the bytes of what else is in the cache folder: class images, weights, and so on."""
    from dreambench.encoders.feature_cache import FOLDER  # noqa: PLC0415

    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name != FOLDER:
            files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
            found[folder.name] = sum(path.stat().st_size for path in files)
    return found


@cache.command()
@cache_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@user_errors
def show(cache: Path | None, as_json: bool) -> None:
    """Show what is there, by encoder and kind, with sizes."""
    from dreambench.encoders.feature_cache import FeatureCache, read_max_bytes  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    root, max_bytes = cache or cache_dir(), read_max_bytes()
    with FeatureCache(root) as opened:
        holdings, n_bytes, path = opened.describe(), opened.n_bytes, opened.path
    folders = _measure_folders(root)
    if as_json:
        content = {
            "path": str(path),
            "n_bytes": n_bytes,
            "max_bytes": max_bytes,
            "rows": [vars(holding) for holding in holdings],
            "folders": folders,
        }
        print_json(content)
        return
    say(f"{path}: {n_bytes / 1e6:,.1f} MB of at most {max_bytes / 1e6:,.0f} MB")
    for holding in holdings:
        used = datetime.fromtimestamp(holding.used, UTC).strftime("%Y-%m-%d")
        say(
            f"  {holding.kind:8} {holding.n_rows:9,} rows {holding.n_bytes / 1e6:9,.1f} MB  "
            f"used {used}  {holding.identity}"
        )
    if folders:
        say("Also in this folder, never pruned:")
    for name, size in folders.items():
        say(f"  {name:14} {size / 1e6:9,.1f} MB  {root / name}")


@cache.command()
@cache_option
@click.option("--max-size", help="E.g. 500 MB or 20 GB.  [default: DREAMBENCH_CACHE_MAX or 2 GB]")
@user_errors
def prune(cache: Path | None, max_size: str | None) -> None:
    """Delete the least recently used entries until the rest fits.

    Whatever a running job uses is kept, as are class images, weights and photos.
    """
    from dreambench.encoders.feature_cache import read_max_bytes  # noqa: PLC0415

    _prune(cache, read_max_bytes(max_size))


@cache.command()
@cache_option
@user_errors
def clear(cache: Path | None) -> None:
    """Delete all features except those that a running job uses.

    Features of other versions, damaged ones and partial downloads go too. Class images, weights and
    photos are kept.
    """
    from dreambench.storage.downloads import prune_downloads  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    n_bytes = prune_downloads((cache or cache_dir()) / "downloads", max_age_days=0)
    if n_bytes:
        say(f"{n_bytes / 1e6:,.1f} MB of downloads deleted")
    _prune(cache, 0, clear=True)


def _prune(cache: Path | None, max_bytes: int, *, clear: bool = False) -> None:
    from dreambench.encoders.feature_cache import FeatureCache, measure_file  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    root = cache or cache_dir()
    before = measure_file(root)
    with FeatureCache(root, clear=clear) as opened:
        opened.prune(max_bytes)
        freed = max(before - opened.n_bytes, 0)
        n_rows = sum(holding.n_rows for holding in opened.describe())
        say(f"{freed / 1e6:,.1f} MB freed; {n_rows:,} rows and {opened.n_bytes / 1e6:,.1f} MB left")
