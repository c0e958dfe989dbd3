"""Opens a pull request with a record on a dataset repository of the Hugging Face Hub.

Nothing is sent but the record's own files, and only when someone asks for it. The token is the one
that `huggingface_hub` finds: HF_TOKEN, or that of `hf auth login`.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dreambench.errors import UserError
from dreambench.text import make_printable

RECORDS = "records"
"""The folder of a repository that holds records."""
PUSH_SECONDS = 600.0
"""How long a pull request may take to open; a record is at most 22 MB."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""A repository's name on the Hub, OWNER/NAME."""
_GITHUB = re.compile(
    r"(?:https?://)?(?:www\.)?github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", re.ASCII
)
_HTTP_CLIENTS = ("httpcore", "httpx", "httpx2", "requests", "urllib3")
"""One of these is beneath huggingface_hub, by its version; it lets their errors through."""
_REASONS = {
    400: "the Hub does not accept it",
    401: "the Hub does not know the token, or a repository of this name",
    403: "the token may not open pull requests there",
    404: "the Hub has no dataset repository of this name that the token may see",
    409: "the repository was changed at the same moment",
    413: "the Hub finds it too large",
    429: "the Hub accepts no more requests for now",
}


@dataclass(frozen=True)
class Push:
    """What goes to which repository: files by name, and the record's path among records."""

    repository: str
    path: PurePosixPath
    files: Mapping[str, bytes]

    @property
    def target(self) -> PurePosixPath:
        """The folder in the repository."""
        return PurePosixPath(RECORDS) / self.path


def check_repository(name: str) -> None:
    """Check the name of a repository, before anything is made for it.

    Raises:
        UserError: `invalid-value` for what is not OWNER/NAME; how to do it by hand for GitHub.
    """
    if found := _GITHUB.fullmatch(name):
        raise UserError(
            f"--push: {found[1]} is on GitHub, and --push opens pull requests on the Hub",
            hint=f"leave --push out, fork {found[1]} there, and copy the record's folder to "
            f"{RECORDS}/PROTOCOL/METHOD/DIGEST on a branch of the fork (docs: "
            "how-to/submit-a-record)",
            code="invalid-value",
        )
    if not NAME.fullmatch(name):
        raise UserError(
            f"--push: '{name}' is not the name of a dataset repository on the Hub",
            hint="it is OWNER/NAME, of letters, digits, '.', '_' and '-'",
            code="invalid-value",
        )


def explain_by_hand(push: Push, folder: Path) -> str:
    """Return how to open the pull request without `--push`; `folder` is where the record lies."""
    words = shlex.join([
        "hf", "upload", push.repository, str(folder), push.target.as_posix(), "--repo-type",
        "dataset", "--create-pr",
    ])  # fmt: skip
    return (
        f"the record stays in {folder}; to try again: {words}; or by hand: git clone the "
        f"repository, copy the folder to {push.target.as_posix()}, push it to a fork and open a "
        "pull request there (docs: how-to/submit-a-record)"
    )


def open_pull_request(push: Push, folder: Path, *, seconds: float = PUSH_SECONDS) -> str | None:
    """Open a pull request and return its address; None where the repository has all of it already.

    `folder` is where the record lies, for what is said when it fails.

    Raises:
        UserError: `upload-failed`, with the reason and how to do it by hand.
    """
    found: list[str | None] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            found.append(_commit(push))
        except Exception as error:
            errors.append(error)

    # The library waits for a silent server for ever.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _fail(
            push, folder,
            f"no answer in {seconds:g} seconds; look in the repository's pull requests to see "
            "whether one was opened",
        )  # fmt: skip
    if errors:
        reason = _explain(errors[0])
        if reason is None:
            raise errors[0]
        raise _fail(push, folder, reason) from errors[0]
    return found[0]


def _commit(push: Push) -> str | None:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token  # noqa: PLC0415  (slow import)
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415

    if get_token() is None:
        raise PermissionError("there is no Hub token: run hf auth login, or set HF_TOKEN")
    disable_progress_bars()
    # One commit: a pull request is there with the whole record, or not at all.
    info = HfApi(library_name="dreambench").create_commit(
        push.repository,
        [
            CommitOperationAdd((push.target / name).as_posix(), content)
            for name, content in push.files.items()
        ],
        commit_message=f"Add {push.path.as_posix()}",
        repo_type="dataset",
        create_pr=True,
    )
    return None if info.pr_url is None else str(info.pr_url)


def _fail(push: Push, folder: Path, reason: str) -> UserError:
    return UserError(
        f"no pull request was opened on {push.repository}: {reason}",
        hint=explain_by_hand(push, folder),
        code="upload-failed",
    )


def _explain(error: Exception) -> str | None:
    """Return why it failed, in words without a token; None for a bug."""
    from huggingface_hub import get_token  # noqa: PLC0415  (slow import)
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled  # noqa: PLC0415

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which allows no network"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = _REASONS.get(status, "the Hub reports an error; try again later")
        # A server may send back what it was sent.
        said = (error.server_message or "").replace(get_token() or "\0", "TOKEN")
        said = make_printable(" ".join(said.split()))[:200]
        return f"{reason} (HTTP {status}{f': {said}' if said else ''})"
    if isinstance(error, PermissionError) and error.errno is None:
        return str(error)
    if type(error).__module__.partition(".")[0] in _HTTP_CLIENTS or isinstance(error, OSError):
        return f"the Hub cannot be reached ({type(error).__name__}); check the network"
    if isinstance(error, ValueError | KeyError | TypeError):
        return f"the Hub's answer cannot be read ({type(error).__name__})"
    return None
