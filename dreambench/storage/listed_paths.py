"""Paths of files as tables list them: written on any system, meant relative to one folder."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path


def read_listed_path(text: str, folder: Path) -> str:
    """Return a path that a table has as one relative to `folder`, with slashes.

    A backslash is a slash, and an absolute path that lies in the folder is taken for the relative
    one. Nothing is looked up but `folder` itself; links are not followed.

    Raises:
        ValueError: it is empty, leads out of the folder, or belongs to another computer; the words
            say which.
    """
    if not text or "\0" in text:
        raise ValueError("is not the path of a file")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        raise ValueError(
            "is a path of a Windows computer: write it relative to the folder of the table"
        )
    path = text.replace("\\", "/")
    if path.startswith("/"):
        for root in (str(folder.absolute()), os.path.realpath(folder)):
            if posixpath.normpath(path).startswith(root.rstrip("/") + "/"):
                path = os.path.relpath(path, root)
                break
    path = posixpath.normpath(path)
    if path.startswith("/") or path in (".", "..") or path.startswith("../"):
        raise ValueError("leads out of the folder: put the file there, and write where it is in it")
    return path
