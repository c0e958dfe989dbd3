"""Downloads that resume where they stopped, and what the hub's cache already has.

Files of the hub are downloaded by `huggingface_hub`. Those behind other addresses are downloaded
here: `pooch` begins anew after each cut, neither it nor `huggingface_hub` sends If-Range, without
which the two halves of a file that changed meanwhile are joined, and neither limits the size.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urljoin

import requests
import urllib3

from dreambench.errors import UserError, disk_errors
from dreambench.progress import Progress
from dreambench.storage.files import digest, make_dir, read_json, write_json
from dreambench.storage.locks import locked
from dreambench.storage.paths import check_inside

N_ATTEMPTS = 4
TIMEOUT_SECONDS = 30
MAX_REDIRECTS = 10
MAX_SECONDS = 6 * 3600
"""Most that one call may take."""
MIN_BYTES, PATIENCE_SECONDS = 60_000, 60
"""Fewest bytes that have to come in so many seconds: 1 kB a second."""
KEPT_DAYS = 14
"""How long the part of a download that nobody resumed is kept."""
_CHUNK_BYTES = 1 << 18
_SUFFIXES = ("file", "part", "json")
_OWN = re.compile(r"[0-9a-f]{16}\.(file|part|json)")


class _CutError(Exception):
    """The connection, or the server at its other end, gave less than the file."""


def find_cached(hub: str, files: Sequence[str], *, revision: str | None) -> list[Path]:
    """Return paths of a hub repository's files in the hub's cache; empty unless all are there."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  (slow import)

    found = [try_to_load_from_cache(hub, file, revision=revision) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths if len(paths) == len(files) else []


def hide_secrets(url: str) -> str:
    """Return an address for people to read: no user, no password, no values of its query."""
    if "://" not in url:
        return url
    # A password with a character that ends the host leaves a port that is not a number.
    pattern = r"(?<=://)([^/?#]*@|[^/?#]*:(?![0-9]*([/?#]|$)).*@)"
    bare, question, query = re.sub(pattern, "", url).partition("#")[0].partition("?")
    keys = [part.partition("=")[0] + "=..." for part in query.split("&")] if query else []
    return bare + question + "&".join(keys)


def download(url: str, folder: Path, *, progress: Progress, max_bytes: int) -> Path:
    """Download the file behind an http(s) address into `folder` and return its path.

    A download that was cut off resumes where it stopped, at once and in later calls, as far as the
    server can (Range with If-Range, RFC 9110); when the file there has changed, or the server
    cannot, it begins anew. One call takes at most MAX_SECONDS, and gives up on a server that sends
    less than MIN_BYTES in PATIENCE_SECONDS. Parts that are older than KEPT_DAYS are deleted; other
    folders and files are not touched.

    Raises:
        UserError: `download-failed` when the file cannot be had completely; `too-large` beyond
            `max_bytes`.
    """
    make_dir(folder)
    name = digest(url)
    prune_downloads(folder, max_age_days=KEPT_DAYS)
    whole, part, note = (folder / f"{name}.{suffix}" for suffix in _SUFFIXES)
    deadline = time.monotonic() + MAX_SECONDS
    for path in (whole, part, note):
        check_inside(path, folder)
    with disk_errors(folder), locked(folder / f"{name}.lock"):
        if whole.exists():
            return whole
        problem = ""
        for _ in range(N_ATTEMPTS):
            before = _size_of(part)
            try:
                _download_rest(
                    url, part, note, progress=progress, max_bytes=max_bytes, deadline=deadline
                )
                part.replace(whole)
                note.unlink(missing_ok=True)
                return whole
            except _CutError as error:
                problem = str(error)
            except UserError as error:
                if error.code == "too-large":
                    forget_download(url, folder)
                raise
            if _size_of(part) <= before or time.monotonic() > deadline:
                break  # Nothing came: further attempts would not help now.
        n_bytes = _size_of(part)
    kept = f" after {n_bytes / 1e6:.1f} MB, which are kept" if n_bytes else ""
    raise UserError(
        f"cannot download {hide_secrets(url)}: {problem}{kept}",
        hint="run the same command again later",
        code="download-failed",
    )


def forget_download(url: str, folder: Path) -> None:
    """Remove what was downloaded from an address, e.g. because it turned out damaged."""
    for suffix in _SUFFIXES:
        (folder / f"{digest(url)}.{suffix}").unlink(missing_ok=True)


def prune_downloads(folder: Path, *, max_age_days: float) -> int:
    """Delete what earlier calls left in a folder of downloads; return how many bytes.

    What a running call is downloading, and what is younger, stays.
    """
    n_bytes = 0
    since = time.time() - max_age_days * 86_400
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not _OWN.fullmatch(path.name) or path.is_symlink() or path.stat().st_mtime > since:
            continue
        try:
            with locked(path.with_suffix(".lock"), timeout=0):
                size = path.stat().st_size
                path.unlink()
                n_bytes += size
        except (UserError, FileNotFoundError):  # A running call has it, or deleted it just now.
            continue
    return n_bytes


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download_rest(
    url: str, part: Path, note: Path, *, progress: Progress, max_bytes: int, deadline: float
) -> None:
    """Make one attempt at the rest of a file.

    Raises:
        _CutError: it is not complete, and a further attempt may help.
        UserError: none would.
    """
    start = _size_of(part)
    kept = _read_note(note)
    # A compressed transfer has no byte positions to resume from.
    headers = {"Accept-Encoding": "identity"}
    if start and kept:
        headers |= {"Range": f"bytes={start}-", "If-Range": kept}
    with _open(url, headers) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            raise _CutError("the server has another file now")
        resumes = answer.status_code == requests.codes.partial_content and "Range" in headers
        if answer.status_code != requests.codes.ok and not resumes:
            raise _refuse(url, _name_status(answer.status_code))
        start = start if resumes else 0
        total = _total_bytes(answer, start)
        if max(total or 0, start) > max_bytes:
            raise _too_large(url, max_bytes)
        # A weak validator does not promise equal bytes, so nothing can resume from it.
        etag = answer.headers.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else None
        write_json(note, {"validator": strong or answer.headers.get("Last-Modified")})
        n_bytes = start
        with part.open("ab" if resumes else "wb") as stream:
            for chunk in _read_chunks(answer, deadline):
                n_bytes += len(chunk)
                if n_bytes > max_bytes:
                    raise _too_large(url, max_bytes)
                stream.write(chunk)
                # One more than there is: only the last call says that it is complete.
                progress("download, kB", n_bytes // 1000, (total or n_bytes) // 1000 + 1)
    if total is not None and n_bytes < total:
        raise _CutError("the connection was cut")
    progress("download, kB", n_bytes // 1000, n_bytes // 1000)


def _read_note(note: Path) -> str:
    """Return what says that the server still has the file that a part is of; "" for nothing."""
    try:
        content = read_json(note)
    except UserError:
        return ""
    found = content.get("validator") if isinstance(content, dict) else None
    return found if isinstance(found, str) and found.isprintable() else ""


class _Session(requests.Session):
    """Follows no redirects: `requests` reads their bodies, however long, also where it need not."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: there is none."""


def _open(url: str, headers: Mapping[str, str]) -> requests.Response:
    """Return the answer to a request, with its body unread, after all redirects."""
    started = time.monotonic()
    here = url
    for _ in range(MAX_REDIRECTS + 1):
        if not here.lower().startswith(("http://", "https://")):
            raise _refuse(url, "it redirects to an address that is not http or https")
        answer = _ask(here, headers)
        target = answer.headers.get("Location")
        if answer.status_code not in _REDIRECTS or target is None:
            return answer
        answer.close()
        try:
            here = urljoin(here, target)
        except ValueError as error:
            raise _refuse(url, "it redirects to an address that is not valid") from error
        if time.monotonic() - started > MAX_SECONDS:
            break
    raise _refuse(url, f"it redirects more than {MAX_REDIRECTS} times")


_REDIRECTS = (301, 302, 303, 307, 308)


def _ask(url: str, headers: Mapping[str, str]) -> requests.Response:
    """Make one request, in a thread that is left to itself when no whole answer comes in time.

    The timeouts of `requests` are of each read: a server that sends its head byte by byte would
    never run into one.
    """
    found: list[requests.Response | Exception] = []
    is_late = threading.Event()

    def ask() -> None:
        try:
            answer = _Session().get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as e:
            found.append(e)
            return
        found.append(answer)
        if is_late.is_set():
            answer.close()

    thread = threading.Thread(target=ask, name="download", daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT_SECONDS)
    if not found:
        is_late.set()
        raise _CutError(f"no answer in {2 * TIMEOUT_SECONDS} seconds")
    if isinstance(found[0], Exception):
        raise _explain(url, found[0]) from found[0]
    return found[0]


def _read_chunks(answer: requests.Response, deadline: float) -> Iterator[bytes]:
    """Yield what comes as it comes; _CutError when that is cut, too slow or takes too long."""
    since, n_bytes = time.monotonic(), 0
    while True:
        try:
            # read1 gives what has come; iter_content would drop the last, broken chunk.
            chunk = answer.raw.read1(_CHUNK_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            late = isinstance(error, urllib3.exceptions.TimeoutError)
            words = f"no data arrived for {TIMEOUT_SECONDS} seconds"
            raise _CutError(words if late else "the connection was cut") from error
        if not chunk:
            return
        yield chunk
        n_bytes += len(chunk)
        now = time.monotonic()
        if now > deadline:
            raise _CutError(f"it took over {MAX_SECONDS / 3600:g} hours")
        if now - since > PATIENCE_SECONDS:
            if n_bytes < MIN_BYTES:
                raise _CutError(f"slower than {MIN_BYTES / PATIENCE_SECONDS / 1000:g} kB a second")
            since, n_bytes = now, 0


def _total_bytes(answer: requests.Response, start: int) -> int | None:
    """Return the size of the complete file, as far as the server says it."""
    text = answer.headers.get("Content-Range", "")
    if matched := re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", text):
        if int(matched[1]) != start:
            raise _CutError("the server sent a different part from the one requested")
        return int(matched[2])
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


def _name_status(number: int) -> str:
    """Return a status as the standard names it; the server's own words for it may be anything."""
    try:
        return f"HTTP {number} {HTTPStatus(number).phrase}"
    except ValueError:
        return f"HTTP {number}"


def _too_large(url: str, max_bytes: int) -> UserError:
    return UserError(
        f"{hide_secrets(url)} is over {max_bytes / 1e9:g} GB, the most that is downloaded",
        hint="check the address",
        code="too-large",
    )


def _refuse(url: str, why: str) -> UserError:
    return UserError(
        f"cannot download {hide_secrets(url)}: {why}",
        hint="check the address",
        code="download-failed",
    )


def _explain(url: str, error: Exception) -> Exception:
    """Return what a failed request means, without its text: that holds the whole address."""
    if isinstance(error, requests.exceptions.SSLError):
        return _refuse(url, "its certificate is not valid")
    if isinstance(error, requests.exceptions.ProxyError):
        return _CutError("no connection to the proxy")
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return _CutError(f"no answer in {TIMEOUT_SECONDS} seconds")
    if isinstance(error, requests.ConnectionError):
        return _CutError("no connection")
    if isinstance(error, ValueError):  # Addresses that are not valid, of whatever kind.
        return _refuse(url, "the address, or one that it leads to, is not valid")
    return _CutError("the connection was cut")
