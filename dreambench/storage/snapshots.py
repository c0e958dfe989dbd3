"""Weights of one model in one folder: the package's, a user's, or the hub's cache. No torch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dreambench.errors import UserError, raise_if_disk
from dreambench.progress import Progress, no_progress
from dreambench.storage.downloads import find_cached
from dreambench.storage.files import digest, sha256_file
from dreambench.storage.formats import find_weights_damage
from dreambench.storage.shipped import PACKAGE_DIR, cache_dir


def weights_root() -> Path:
    """Return the folder for weights from users: `DREAMBENCH_WEIGHTS`, or in the cache."""
    named = os.environ.get("DREAMBENCH_WEIGHTS")
    return Path(named) if named else cache_dir() / "weights"


class Weights(ABC):
    """Weights with a name, which lie on this machine, or are to be had first."""

    kind: ClassVar[str] = "model"
    """What errors call it."""
    name: str
    n_download_bytes: int
    """What a download takes; 0 where that is not known."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where they come from, in words."""

    @property
    @abstractmethod
    def how_to_get(self) -> str:
        """What a user does about weights that are missing."""

    @abstractmethod
    def find_local(self) -> Path | None:
        """Return the file or folder; None if it is nowhere. Nothing is downloaded."""

    @abstractmethod
    def identity(self) -> str:
        """Return what tells them from others.

        Raises:
            UserError: it takes the files, and they are not on this machine.
        """

    @abstractmethod
    def download(self, progress: Progress) -> None:
        """Download them, where anybody has them.

        Raises:
            UserError: they cannot be downloaded (`refuse`), or are not the published ones.
        """

    def find_weights(self) -> Path:
        """Return `find_local`.

        Raises:
            UserError: they are not on this machine; says how to get them.
        """
        found = self.find_local()
        if found is None:
            raise self.refuse()
        return found

    def find_missing(self) -> dict[str, int]:
        """Return what is to be downloaded, with its bytes (0: unknown); empty where it is here."""
        if self.find_local() is not None:
            return {}
        return {f"{self.name}: {self.source}": self.n_download_bytes}

    def ensure_weights(self, progress: Progress = no_progress) -> None:
        """Download them where they are not on this machine.

        Raises:
            UserError: they cannot be downloaded, or are not the published ones.
        """
        if self.find_local() is None:
            self.download(progress)
        self.find_weights()

    @contextmanager
    def reaching_hub(self) -> Iterator[None]:
        """Say in one line that the hub cannot be reached, where it cannot.

        Raises:
            UserError: the hub, or this machine's disk, refused the body of the statement.
        """
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415  (slow import)

        try:
            yield
        except (OSError, HfHubHTTPError) as error:
            raise_if_disk(error)
            raise self.refuse("the hub cannot be reached") from error

    def refuse(self, why: str = "") -> UserError:
        """Return the error for weights that are not on this machine; `why` they cannot be had."""
        reason = f", and they cannot be downloaded ({why})" if why else ""
        return UserError(
            f"{self.kind} '{self.name}' has no weights on this machine{reason}",
            hint=self.how_to_get,
            code="missing-weights",
        )


@dataclass(frozen=True, kw_only=True)
class Snapshot(Weights):
    """Files of a hub's repository at a revision, in the folders that they have there.

    They are looked for in `local_dir`, then in the hub's cache; without a hub, there alone. Those
    that the package has are in its folder `shipped` alone.

    Raises:
        ValueError: there are no files.
    """

    name: str
    files: tuple[str, ...]
    shipped: str | None = None
    hub: str | None = None
    revision: str | None = None
    licence: str = ""
    n_download_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.files or isinstance(self.files, str):
            raise ValueError("the files of a snapshot are a tuple of one or more paths")

    @property
    def local_dir(self) -> Path:
        """Folder for the files from a user."""
        return weights_root() / self.name

    @property
    def source(self) -> str:
        """Where the files come from, in words."""
        if self.shipped is not None:
            return "shipped with the package"
        names = ", ".join(self.files)
        return names if self.hub is None else f"{names} of {self.hub} at {self.revision}"

    @property
    def how_to_get(self) -> str:
        """Which files to download and where to put them."""
        if self.shipped is not None:
            return "install dreambench again"
        licence = f" (licence {self.licence})" if self.licence else ""
        folders = ", folders and all," if any("/" in file for file in self.files) else ""
        if self.hub is None:
            return f"put {self.source}{licence} into {self.local_dir}"
        return f"download {self.source}{licence} and put them{folders} into {self.local_dir}"

    def find_local(self) -> Path | None:
        """Return the folder with all files; None if nowhere. Nothing is downloaded."""
        folder = self.local_dir
        if self.shipped is not None:
            folder = PACKAGE_DIR / "mini" / "weights" / self.shipped
        if all((folder / file).is_file() for file in self.files):
            return folder
        if self.hub is None:
            return None
        found = find_cached(self.hub, self.files, revision=self.revision)
        return found[0].parents[self.files[0].count("/")] if found else None

    def download(self, progress: Progress) -> None:
        """Download the files, if a hub has them.

        Raises:
            UserError: the hub cannot be reached.
        """
        if self.hub is None:
            return
        from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow import)

        with self.reaching_hub():
            snapshot_download(self.hub, revision=self.revision, allow_patterns=list(self.files))

    def identity(self) -> str:
        """Return the digest of a folder's files; hub and revision, where no user supplied them.

        Raises:
            UserError: there is no hub that has them, and they are not on this machine.
        """
        if self.hub is not None and self.find_local() != self.local_dir:
            return f"{self.hub}@{self.revision}"
        found = self.find_weights()
        return f"folder@{digest({file: sha256_file(found / file) for file in self.files})}"

    @contextmanager
    def loading(self) -> Iterator[Path]:
        """Give the folder of the files, and say in one line why they cannot be had or loaded.

        Raises:
            UserError: files cannot be had, or are damaged; or the body of the statement fails.
        """
        self.ensure_weights()
        folder = self.find_weights()
        for file in self.files:
            path = folder / file
            if path.suffix != ".safetensors":
                continue
            if (damage := find_weights_damage(path)) is not None:
                raise UserError(f"{path} {damage[0]}", hint=damage[1], code="unreadable-file")
        try:
            yield folder
        except UserError:
            raise
        # Of files that are not valid, libraries make any kind of exception.
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"{self.kind} '{self.name}' cannot be loaded from {folder}: {reason}",
                hint=self.how_to_get,
                code="wrong-weights",
            ) from error
