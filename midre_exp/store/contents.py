"""What files hold, whatever they are called: the SHA-256 of each, remembered in the store.

A file is read once; as long as its inode, size and times stay the same, a later look costs a ``stat``. The
memory is one SQLite file, ``.contents.sqlite``, in the root of the store: a help and never an authority,
for where it cannot be read or written, files are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import stat as stat_module
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from midre_exp.store.files import Stamp, is_settled
from midre_exp.store.progress import Progress
from midre_exp.store.store import Places, Store

DATABASE = ".contents.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS folders (id INTEGER PRIMARY KEY, path BLOB UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS files (folder INTEGER, name BLOB, stamp TEXT, sha256 TEXT,
    PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (kind TEXT, sha256 TEXT, note TEXT,
    PRIMARY KEY (kind, sha256)) WITHOUT ROWID;
"""
_WAIT = 30.0  # seconds for another process to finish writing
_BATCH = 4096  # files between two notes
_BAR_FROM = 2000  # files; fewer take a few seconds
_WORTH_A_STORE = 2.0  # seconds of reading from which a store that is not there yet is made for the memory
_BLOCK = 1 << 20

_log = logging.getLogger(__name__)
_complained: set[str] = set()
Known = tuple[str, str]  # stamp and SHA-256
#: For want of a database (no store was named, or it may only be read): what is known by folder and name.
_in_process: dict[str, dict[str, Known]] = {}


def content_hash(path: Path | str, store: Places | None = None) -> str | None:
    """The SHA-256 of one file in hexadecimal digits; None if it is no file that can be read."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100
    return content_hashes(folder, [name], store)[0]


def content_hashes(
    root: Path | str,
    names: Sequence[str],
    store: Places | None,
    *,
    title: str = "files",
    reread: bool = False,
) -> list[str | None]:
    """The SHA-256 of every file ``root/name`` in hexadecimal digits; None for what is no file that can be
    read. ``store``: its root (of several the first), None to remember only within this process. ``reread``
    believes no memory.
    """
    root = os.path.abspath(root)  # noqa: PTH100
    found: list[str | None] = [None] * len(names)
    by_folder = _by_folder(root, names)
    with _memory(store) as memory:
        unread = []
        for folder, rows in by_folder.items():
            known = {} if reread else memory.files(folder)
            for row in rows:
                path = f"{root}/{names[row]}"
                if (stamp := _stamp(path)) is None:
                    continue
                then, digest = known.get(_base(path), ("", ""))
                if then == _text(stamp):
                    found[row] = digest
                else:
                    unread.append((row, path, stamp))
        memory.take_over(by_folder)
        for (row, _, _), read in zip(unread, _read(unread, memory, title), strict=True):
            found[row] = read
    return found


def notes(kind: str, digests: Sequence[str], store: Places | None) -> dict[str, str]:
    """What was noted of these contents under ``kind`` (see ``note``), by SHA-256."""
    with _memory(store) as memory:
        return memory.notes(kind, digests)


def note(kind: str, by_digest: Mapping[str, str], store: Places | None) -> None:
    """Remember a text about each content."""
    with _memory(store) as memory:
        memory.note(kind, by_digest)


def _by_folder(root: str, names: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(f"{root}/{name}".rpartition("/")[0], []).append(row)
    return rows


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _stamp(path: str) -> Stamp | None:
    """None for what is no regular file: opening a pipe would wait for ever."""
    try:
        status = os.stat(path)  # noqa: PTH116  pathlib is slow for three million
    except (OSError, ValueError):  # ValueError: a list names what no file can be named
        return None
    if not stat_module.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _text(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


def _read(unread: Sequence[tuple[int, str, Stamp]], memory: _Memory, title: str) -> Iterator[str | None]:
    """The digest of each file, read in threads (hashing releases the interpreter lock) and remembered batch
    by batch, so that an interrupted look goes on where it stopped.
    """
    if not unread:
        return
    if len(unread) > _BAR_FROM:
        _log.info("%s: reading %d files once to know what they hold", title, len(unread))
    started = time.monotonic()
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        with Progress(f"hashing {title}", len(unread), bar=len(unread) > _BAR_FROM) as bar:
            for first in range(0, len(unread), _BATCH):
                batch = unread[first : first + _BATCH]
                digests = list(pool.map(_sha256, [path for _, path, _ in batch]))
                settled: dict[str, dict[str, Known]] = {}
                for (_, path, stamp), digest in zip(batch, digests, strict=True):
                    if digest is not None and _stamp(path) == stamp and is_settled(stamp):
                        folder, _, name = path.rpartition("/")
                        settled.setdefault(folder, {})[name] = _text(stamp), digest
                memory.remember(settled, make_store=time.monotonic() - started > _WORTH_A_STORE)
                bar.update(len(batch))
                yield from digests
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest


def _sha256(path: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  as above
            while block := file.read(_BLOCK):
                digest.update(block)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


class _Memory:
    """The database of a store for as long as one look takes; without a store, or where it cannot be used,
    what this process knows.
    """

    def __init__(self, store: Path | None):
        self._store = store
        self._connection: sqlite3.Connection | None = None

    def files(self, folder: str) -> dict[str, Known]:
        """(stamp, sha256) of what is known of the files in a folder, by name."""
        query = "SELECT name, stamp, sha256 FROM files JOIN folders ON folder = id WHERE path = ?"
        rows = self._ask(query, (os.fsencode(folder),))
        known = {os.fsdecode(name): (stamp, digest) for name, stamp, digest in rows}
        return known | _in_process.get(folder, {})

    def take_over(self, folders: Iterable[str]) -> None:
        """Write what this process knew before there was a store."""
        held = {folder: _in_process.pop(folder) for folder in folders if folder in _in_process}
        self.remember(held, make_store=False)

    def remember(self, by_folder: Mapping[str, Mapping[str, Known]], *, make_store: bool) -> None:
        """(stamp, sha256) of files by name, by folder."""

        def write(connection: sqlite3.Connection) -> None:
            for folder, entries in by_folder.items():
                place = os.fsencode(folder)
                connection.execute("INSERT OR IGNORE INTO folders (path) VALUES (?)", (place,))
                (number,) = connection.execute("SELECT id FROM folders WHERE path = ?", (place,)).fetchone()
                rows = [(number, os.fsencode(name), *known) for name, known in entries.items()]
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)

        if by_folder and not self._write(write, make_store):
            for folder, entries in by_folder.items():
                _in_process.setdefault(folder, {}).update(entries)

    def notes(self, kind: str, digests: Sequence[str]) -> dict[str, str]:
        """The notes of a kind by SHA-256."""
        found = {}
        for first in range(0, len(digests), 500):
            some = digests[first : first + 500]
            marks = ", ".join("?" * len(some))
            query = f"SELECT sha256, note FROM notes WHERE kind = ? AND sha256 IN ({marks})"
            found.update(dict(self._ask(query, (kind, *some))))
        return found

    def note(self, kind: str, by_digest: Mapping[str, str]) -> None:
        """Remember a text about each content."""
        rows = [(kind, digest, text) for digest, text in by_digest.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", rows)

        self._write(write, make_store=True)

    def close(self) -> None:
        """Let go of the database."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._store is None:
            return []
        file = self._store / DATABASE
        try:
            if self._connection is None:
                if not file.exists():
                    return []
                writable = os.access(file, os.W_OK) and os.access(self._store, os.W_OK)
                self._connect(f"{file.as_uri()}?mode={'rw' if writable else 'ro'}")
            return [] if self._connection is None else self._connection.execute(query, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            if "no such table" not in str(error):  # another process is just making them
                self._give_up(error)
            return []

    def _write(self, change: Callable[[sqlite3.Connection], None], make_store: bool) -> bool:
        """Whether a change was written, all of it or nothing."""
        if self._store is None or not (make_store or self._store.is_dir()):
            return False
        try:
            self._store.mkdir(parents=True, exist_ok=True)
            if not os.access(self._store, os.W_OK):
                return False
            if self._connection is None:
                self._connect(f"{(self._store / DATABASE).as_uri()}?mode=rwc")
            if self._connection is None:
                return False
            self._connection.executescript(_TABLES)
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                change(self._connection)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return False
        return True

    def _connect(self, uri: str) -> None:
        self._connection = sqlite3.connect(uri, uri=True, timeout=_WAIT, isolation_level=None)

    def _give_up(self, error: Exception) -> None:
        """Go on without; a file that is no database any more makes room for one."""
        self.close()
        file = (self._store or Path()) / DATABASE
        if type(error) is sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        if str(file) not in _complained:
            _complained.add(str(file))
            _log.warning("%s cannot be used (%s); files are read again for want of it", file, error)
        self._store = None


@contextlib.contextmanager
def _memory(store: Places | None) -> Iterator[_Memory]:
    memory = _Memory(None if store is None else Store(store).root)
    try:
        yield memory
    finally:
        memory.close()
