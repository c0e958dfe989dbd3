"""Serves questionnaires to browsers on this machine, and keeps the answers that they send.

Only the pages and their pictures go out; the plan, which says which method made what, does not. A
message is kept when it is no larger than answers are, comes from one of these pages, and answers
this study.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from dreambench.artifacts.study import MAX_ANSWERS_BYTES, read_study
from dreambench.errors import UserError
from dreambench.report.serving import LocalServer
from dreambench.storage.paths import check_inside
from dreambench.study.answers import AnswerStore
from dreambench.study.pages import IMAGES, PAGES

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'"
)
"""What the page's own policy narrows further."""
TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png", ".webp": "image/webp"}
_SERVED = re.compile(rf"/{PAGES}/([0-9]{{3,7}}\.html|{IMAGES}/[0-9a-f]{{16}}\.(png|webp))")
_OFF, _ON = b'data-sends="false"', b'data-sends="true"'

logger = logging.getLogger(__name__)


class StudyServer(LocalServer):
    """A server for the questionnaires of one study.

    Its address leads to the questionnaire that the fewest have answered.
    """

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        """Listen on a port of this machine alone; 0 is any free one.

        Raises:
            UserError: the folder has no study, the database cannot be used, or the port is taken.
        """
        self.folder = folder
        self.store = AnswerStore(folder, read_study(folder))
        super().__init__(_Handler, port=port)

    def find_next(self) -> str:
        """Return the path of the questionnaire that the fewest people have answered."""
        counts = self.store.count()
        return f"/{PAGES}/{min(counts, key=lambda number: (counts[number], number)):03}.html"

    def find_served(self, path: str) -> Path | None:
        """Return the file that a path of an address stands for; None where nothing is served."""
        if not _SERVED.fullmatch(path):
            return None
        try:
            found = check_inside(self.folder.joinpath(*path.split("/")[1:]), self.folder)
        except UserError:
            return None
        return found if found.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    protocol_version = "HTTP/1.1"
    server_version = "dreambench"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        if self._refuse_strangers():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._send(HTTPStatus.FOUND, b"", {"Location": self.server.find_next()})
            return
        found = self.server.find_served(path)
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is here")
            return
        content = found.read_bytes()
        if found.suffix == ".html":
            content = content.replace(_OFF, _ON, 1)
        self._send(
            HTTPStatus.OK, content,
            {"Content-Type": TYPES[found.suffix], "Content-Security-Policy": POLICY},
        )  # fmt: skip

    def do_POST(self) -> None:
        if self._refuse_strangers():
            return
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").split(";")[0].strip()
        if self.path != "/answers":
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is here")
        elif kind != "application/json":
            # A form of another page cannot send this type without asking first.
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "only JSON is taken")
        elif not re.fullmatch("[0-9]{1,9}", length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the message has no length")
        elif int(length) > MAX_ANSWERS_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the message is too large")
        else:
            self._keep(self.rfile.read(int(length)))

    def _keep(self, content: bytes) -> None:
        try:
            answers = self.server.store.add(content)
        except UserError as error:
            is_taken = error.code == "already-answered"
            self._refuse(HTTPStatus.CONFLICT if is_taken else HTTPStatus.BAD_REQUEST, str(error))
            return
        logger.info("questionnaire %s answered by %s", answers.questionnaire, answers.rater)
        self._send(HTTPStatus.OK, b'{"stored": true}\n', {"Content-Type": "application/json"})

    def _refuse_strangers(self) -> bool:
        """Refuse someone else's name that leads here, and a page from elsewhere."""
        own = self.server.own_names
        origin = self.headers.get("Origin")
        is_own = origin is None or origin in {f"http://{name}" for name in own}
        if self.headers.get("Host") in own and is_own:
            return False
        self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server answers this machine alone")
        return True

    def _refuse(self, status: HTTPStatus, problem: str) -> None:
        self.close_connection = True  # The unread rest of a message is not the next one.
        content = json.dumps({"problem": problem}).encode() + b"\n"
        self._send(status, content, {"Content-Type": "application/json", "Connection": "close"})

    def _send(self, status: HTTPStatus, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)
