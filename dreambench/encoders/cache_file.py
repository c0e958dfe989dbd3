"""The cache's file: its tables, and whether it is a whole database of them."""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path

from dreambench.encoders.cache_sessions import LOCK_SECONDS
from dreambench.errors import UserError

SCHEMA = """
CREATE TABLE encoders (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, encoder INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
    n_bytes INTEGER NOT NULL, checksum BLOB NOT NULL, used REAL NOT NULL,
    UNIQUE (encoder, kind, key)
);
CREATE TABLE contents (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE files (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, sha256 TEXT NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
"""
SCHEMA_NUMBER = 1
_CREATION = f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_NUMBER}; COMMIT;"
_NOT_OURS = "its tables are not those of a cache"


def _list_tables(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return name and definition of each table, by name."""
    return db.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
    ).fetchall()


@functools.cache
def _make_own_tables() -> list[tuple[str, str]]:
    db = open_in_memory()
    found = _list_tables(db)
    db.close()
    return found


def open_file(path: Path) -> sqlite3.Connection:
    """Open the cache's file, which is made where there is none.

    Raises:
        UserError: `other-schema` for the file of another version.
        sqlite3.DatabaseError: it is damaged (`is_damage`), or cannot be used.
    """
    db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level="IMMEDIATE")
    try:
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, SCHEMA_NUMBER):
            raise UserError(
                f"the cache {path} has schema {found}, and this version of dreambench "
                f"uses {SCHEMA_NUMBER}",
                hint="use the version that made it, name another folder with --cache, or "
                "delete its features: dreambench cache clear",
                code="other-schema",
            )
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = TRUNCATE")
        if found == 0 and not _list_tables(db):
            db.executescript(_CREATION)
        elif found == 0 or _list_tables(db) != _make_own_tables():
            raise sqlite3.DatabaseError(_NOT_OURS)
    except BaseException:
        db.close()
        raise
    return db


def open_in_memory() -> sqlite3.Connection:
    """Return an empty cache that has no file."""
    db = sqlite3.connect(":memory:", isolation_level="IMMEDIATE")
    db.executescript(_CREATION)
    return db


def is_damage(error: Exception) -> bool:
    """Return whether the file is not a whole database; false for a full disk or a busy file."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return str(error) == _NOT_OURS
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or (
        code == sqlite3.SQLITE_IOERR_SHORT_READ
    )
