"""`dreambench view`."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dreambench.cli.shared import say, user_errors

if TYPE_CHECKING:
    from dreambench.report.serving import LocalServer


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="Port.  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@user_errors
def view(runs: tuple[Path, ...], port: int | None, no_browser: bool) -> None:
    """Open the report of a run in a browser, with its images.

    RUNS are folders of runs, or of `score`; the report of the first opens. The methods alongside
    are shown as thumbnails; name their folders too to see their images in full. Only this machine
    can read them, until Ctrl-C ends it.
    """
    from dreambench.report.serving import ReportServer  # noqa: PLC0415  (imports pandas)

    with ReportServer(runs, port=port or 0) as server:
        serve_until_stopped(server, no_browser=no_browser)


def serve_until_stopped(server: LocalServer, *, no_browser: bool) -> None:
    """Print a server's address, open it in a browser, and serve until Ctrl-C."""
    say(server.url)
    sys.stdout.flush()
    say("Ctrl-C ends it.", err=True)
    if not no_browser and not _open_browser(server.url):
        say("No browser was found: open this address yourself.", err=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("", err=True)


def _open_browser(url: str) -> bool:
    """Open a browser with windows; one that fills the terminal would take Ctrl-C with it."""
    has_windows = sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return has_windows and webbrowser.open(url)
