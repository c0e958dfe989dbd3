"""Downloads that resume where they stopped, and what the hub's cache already has.

Files of the hub are downloaded by `huggingface_hub`. Those behind other addresses are downloaded
here: `pooch` begins anew after each cut, neither it nor `huggingface_hub` sends If-Range, without
which the two halves of a file that changed meanwhile are joined, and neither limits the size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import requests
import urllib3
from filelock import FileLock

from dreambench.errors import UserError, disk_errors
from dreambench.progress import Progress
from dreambench.storage.files import digest, make_dir, read_json, write_json

N_ATTEMPTS = 4
TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 18


def find_cached(hub: str, files: Sequence[str], *, revision: str | None) -> list[Path]:
    """Return paths of a hub repository's files in the hub's cache; empty unless all are there."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  (slow import)

    found = [try_to_load_from_cache(hub, file, revision=revision) for file in files]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths if len(paths) == len(files) else []


def find_snapshot(
    folder: Path, files: Sequence[str], *, hub: str | None, revision: str | None
) -> Path | None:
    """Return the folder with all these files: `folder`, else the repository's in the hub's cache.

    None when neither has them; nothing is downloaded.
    """
    if all((folder / file).is_file() for file in files):
        return folder
    found = find_cached(hub, files, revision=revision) if hub is not None else []
    return found[0].parents[files[0].count("/")] if found else None


def download(url: str, folder: Path, *, progress: Progress, max_bytes: int) -> Path:
    """Download the file behind an http(s) address into `folder` and return its path.

    A download that was cut off resumes where it stopped, at once and in later calls, as far as the
    server can (Range with If-Range, RFC 9110); when the file there has changed, or the server
    cannot, it begins anew. Other folders and files are not touched.

    Raises:
        UserError: `download-failed` when the file cannot be had completely; `too-large` beyond
            `max_bytes`.
    """
    make_dir(folder)
    name = digest(url)
    whole, part, note = (folder / f"{name}.{suffix}" for suffix in ("file", "part", "json"))
    with FileLock(folder / f"{name}.lock"):
        if whole.exists():
            return whole
        problem = ""
        for _ in range(N_ATTEMPTS):
            before = _size_of(part)
            try:
                if _download_rest(url, part, note, progress=progress, max_bytes=max_bytes):
                    with disk_errors(folder):
                        part.replace(whole)
                        note.unlink(missing_ok=True)
                    return whole
                problem = "the connection was cut"
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                problem = _explain(error)
            if _size_of(part) <= before:
                break  # Nothing came: further attempts would not help now.
        n_bytes = _size_of(part)
    kept = f" after {n_bytes / 1e6:.1f} MB, which are kept" if n_bytes else ""
    raise UserError(
        f"cannot download {url}: {problem}{kept}",
        hint="run the same command again later",
        code="download-failed",
    )


def forget_download(url: str, folder: Path) -> None:
    """Remove what was downloaded from an address, e.g. because it turned out damaged."""
    for suffix in ("file", "part", "json"):
        (folder / f"{digest(url)}.{suffix}").unlink(missing_ok=True)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _download_rest(url: str, part: Path, note: Path, *, progress: Progress, max_bytes: int) -> bool:
    """Make one attempt and return whether the file is complete now."""
    start = _size_of(part)
    kept = read_json(note) if note.exists() else {}
    # A compressed transfer has no byte positions to resume from.
    headers = {"Accept-Encoding": "identity"}
    if start and kept.get("validator"):
        headers |= {"Range": f"bytes={start}-", "If-Range": kept["validator"]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)
            return False
        if answer.status_code >= 400:
            raise UserError(
                f"cannot download {url}: HTTP {answer.status_code} {answer.reason}",
                hint="check the address",
                code="download-failed",
            )
        resumes = answer.status_code == requests.codes.partial_content
        start = start if resumes else 0
        total = _total_bytes(answer, start)
        if max(total or 0, start) > max_bytes:
            raise _too_large(url, max_bytes)
        # A weak validator does not promise equal bytes, so nothing can resume from it.
        etag = answer.headers.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else None
        write_json(note, {"url": url, "validator": strong or answer.headers.get("Last-Modified")})
        n_bytes = start
        with disk_errors(part), part.open("ab" if resumes else "wb") as stream:
            # read1 gives what has come; iter_content would drop the last, broken chunk.
            while chunk := answer.raw.read1(_CHUNK_BYTES, decode_content=False):
                n_bytes += len(chunk)
                if n_bytes > max_bytes:
                    raise _too_large(url, max_bytes)
                stream.write(chunk)
                # One more than there is: only the last call says that it is complete.
                progress("download, kB", n_bytes // 1000, (total or n_bytes) // 1000 + 1)
    if total is not None and n_bytes < total:
        return False
    progress("download, kB", n_bytes // 1000, n_bytes // 1000)
    return True


def _total_bytes(answer: requests.Response, start: int) -> int | None:
    """Return the size of the complete file, as far as the server says it."""
    matched = re.match(r"bytes (\d+)-\d+/(\d+)$", answer.headers.get("Content-Range", ""))
    if matched:
        if int(matched[1]) != start:
            raise requests.RequestException("the server sent another part than was asked for")
        return int(matched[2])
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _too_large(url: str, max_bytes: int) -> UserError:
    return UserError(
        f"{url} is over {max_bytes / 1e9:g} GB", hint="check the address", code="too-large"
    )


def _explain(error: Exception) -> str:
    """Return a network error in few words."""
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no answer in {TIMEOUT_SECONDS} seconds"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "the connection was cut"
    return str(error)
