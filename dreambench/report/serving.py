"""Serves reports and their images to a browser on this machine, read-only.

Only what a report is made of goes out: files below `report/`, and `images/SUBJECT/PROMPT/K.png`, of
the folders that were named. No link is followed, no folder is listed, and only this machine is
answered. What is served is anybody's, so it may load nothing from elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dreambench.artifacts.manifest import has_manifest
from dreambench.errors import UserError
from dreambench.report.run_page import FILE_NAME
from dreambench.report.thumbnails import FOLDER as THUMBNAILS
from dreambench.storage.paths import check_inside, find_name_fault
from dreambench.storage.sums import FILE_NAME as SUMS

HOST = "127.0.0.1"
MAX_BYTES = 200_000_000
TYPES = {
    ".csv": "text/csv; charset=utf-8", ".html": "text/html; charset=utf-8",
    ".json": "application/json", ".md": "text/plain; charset=utf-8", ".pdf": "application/pdf",
    ".png": "image/png", ".svg": "image/svg+xml", ".tex": "text/plain; charset=utf-8",
    ".webp": "image/webp",
}  # fmt: skip
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'"
PAGE_POLICY = f"{POLICY}; script-src 'unsafe-inline'; img-src 'self' data:"
_IMAGE_NAME = re.compile(r"[0-9]{1,9}\.png")

logger = logging.getLogger(__name__)


class LocalServer(ThreadingHTTPServer):
    """A server that listens on this machine alone; `url` is where a browser begins."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], *, port: int) -> None:
        """Listen on a port; 0 is any free one.

        Raises:
            UserError: the port is taken.
        """
        try:
            super().__init__((HOST, port), handler)
        except OSError as error:
            raise UserError(
                f"port {port} of {HOST} cannot be used ({error.strerror})",
                hint="name another --port, or leave it out for a free one",
                code="port-in-use",
            ) from error

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def own_names(self) -> set[str]:
        """What a browser on this machine calls it; someone else's name may lead here."""
        return {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is none; anything else is logged."""
        logger.debug("while answering %s", client_address, exc_info=True)


class ReportServer(LocalServer):
    """A server for the reports and images of folders, by the last part of their paths."""

    def __init__(self, folders: Sequence[Path], *, port: int = 0) -> None:
        """Listen on a port of this machine alone; 0 is any free one.

        Raises:
            UserError: a folder has no report or two have one name, or the port is taken.
        """
        self.folders = _name_folders(folders)
        super().__init__(_Handler, port=port)

    @property
    def url(self) -> str:
        """The address of the first folder's report."""
        return f"http://{HOST}:{self.server_port}{self.start}"

    @property
    def start(self) -> str:
        """The path of the first folder's report."""
        return f"/{quote(next(iter(self.folders)), safe='')}/report/{FILE_NAME}"


def _name_folders(folders: Sequence[Path]) -> Mapping[str, Path]:
    named: dict[str, Path] = {}
    for folder in folders:
        if not has_manifest(folder):
            raise UserError(
                f"{folder} holds no run and no scores",
                hint="name a folder such as runs/mini/dreambooth",
                code="not-a-run",
            )
        # Further folders may have nothing but the images that the first one's report shows.
        if not named and not (folder / "report" / FILE_NAME).is_file():
            raise UserError(
                f"{folder} has no report/{FILE_NAME}",
                hint=f"first: dreambench report {folder}",
                code="no-report",
            )
        name = folder.resolve().name
        if name in named:
            raise UserError(
                f"{named[name]} and {folder} have the same name, '{name}'",
                hint="view one after the other",
                code="name-taken",
            )
        named[name] = folder.resolve()
    return named


def find_served(folders: Mapping[str, Path], path: str) -> Path | None:
    """Return the file that a path of an address stands for; None where nothing is served."""
    name, *parts = unquote(path, errors="replace").removeprefix("/").split("/")
    folder = folders.get(name)
    if folder is None or len(parts) < 2 or any(map(find_name_fault, parts)):
        return None
    is_image = parts[0] == "images" and len(parts) == 4 and _IMAGE_NAME.fullmatch(parts[-1])
    is_of_report = parts[0] == "report" and (Path(parts[-1]).suffix in TYPES or parts[-1] == SUMS)
    if not (is_image or is_of_report):
        return None
    try:
        found = check_inside(folder.joinpath(*parts), folder)
    except UserError:
        return None
    return found if found.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    protocol_version = "HTTP/1.1"
    server_version = "dreambench"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def _answer(self, *, has_body: bool) -> None:
        # Someone else's name that leads here would let their page read this one.
        if self.headers.get("Host") not in self.server.own_names:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = urlsplit(self.path).path
        if path == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", self.server.start)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        found = find_served(self.server.folders, path)
        if found is None or found.stat().st_size > MAX_BYTES:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = found.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES.get(found.suffix, "text/plain; charset=utf-8"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header(
            "Content-Security-Policy", PAGE_POLICY if found.suffix == ".html" else POLICY
        )
        is_thumbnail = found.parent.name == THUMBNAILS
        kept = "max-age=604800, immutable" if is_thumbnail else "no-cache"
        self.send_header("Cache-Control", kept)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)
