"""Files that are whole or absent: atomic writing, JSON, checksums, one sentence for a disk's troubles.

Everything the project keeps (artifacts, records, checkpoints) is written through here; nothing here knows
what it is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat as stat_module
import time
import uuid
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError

#: What a full disk or a used-up quota, and a place that may not be written, look like to a program.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

#: A file changed less than this ago may change again without a new time stamp (FAT ticks every 2 s).
SETTLE_SECONDS = 2.0

Stamp = tuple[int, int, int, int]
_known: dict[str, tuple[Stamp, str]] = {}  # path -> (stamp, sha256) of files hashed by this process


def explain(error: OSError, path: Path, doing: str = "write") -> StoreError:
    """The sentence for an OSError, to be raised ``from`` it: which path, what is the matter, what to do."""
    remedy = "choose another folder (paths.* of the config)"
    if error.errno in FULL:
        return StoreError(
            f"cannot {doing} {path}: the disk or quota is full{_free(path)}; free space or {remedy}"
        )
    if error.errno in FORBIDDEN and doing == "read":
        return StoreError(
            f"cannot read {path}: its permissions do not let you; ask its owner to change them or {remedy}"
        )
    if error.errno in FORBIDDEN:
        return StoreError(
            f"cannot {doing} {path}: this place is read-only for you; change its permissions or {remedy}"
        )
    reason = error.strerror or str(error)
    return StoreError(f"cannot {doing} {path}: {reason[:1].lower()}{reason[1:]}; mend this path or {remedy}")


def _free(path: Path) -> str:
    """How much room is left at the nearest existing folder, as a parenthesis."""
    with contextlib.suppress(OSError):
        place = next(folder for folder in path.absolute().parents if folder.exists())
        return f" ({shutil.disk_usage(place).free / 2**20:.0f} MiB left)"
    return ""


def make_folder(path: Path) -> None:
    """Create a folder and its parents; StoreError when that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path, "create") from error


def write_atomic(path: Path, data: bytes | memoryview | str) -> None:
    """Write a file so that readers see the old content or the new, also after a power cut.

    Text becomes UTF-8. Parents are created. A failure leaves neither a temporary file nor a changed one, and
    is a StoreError that names path and remedy.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, path) from error
        raise


def remove_file(path: Path) -> None:
    """Delete a file that may be absent; StoreError when it cannot be deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explain(error, path, "remove") from error


def is_special(path: Path) -> bool:
    """True for a pipe, socket or device: opening or reading one may never end. OSErrors count as False, for
    opening to tell.
    """
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat_module.S_ISREG(kind) or stat_module.S_ISDIR(kind))


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def dump_json(value: Any) -> str:
    """JSON text with sorted keys, one value a line: equal values give equal bytes. Raises ValueError for NaN
    and infinities, which JSON does not have.
    """
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """``dump_json`` written atomically; errors as in ``write_atomic``."""
    write_atomic(path, dump_json(value))


def read_json(path: Path) -> Any:
    """The value in a JSON file. StoreError when it is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise explain(error, path, "read") from error
    except (ValueError, RecursionError) as error:  # ValueError: broken JSON and broken UTF-8 alike
        raise StoreError(f"{path} is not JSON ({error}); delete the file and run again") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits. OSErrors propagate and name the file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:  # reading, unlike opening, does not say of which file
        error.filename = error.filename or str(path)
        raise
    return digest.hexdigest()


def stamp(path: Path) -> Stamp:
    """(inode, size, mtime, ctime): differs after any change to a settled file. OSErrors propagate."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(stamp: Stamp) -> bool:
    """True when the file is old enough for its stamp to show any later change."""
    return time.time_ns() - max(stamp[2:]) > SETTLE_SECONDS * 1e9


def known_sha256(path: Path) -> str:
    """As ``sha256``, but settled files are read once a process, and again when their stamp changes."""
    before = stamp(path)
    known = _known.get(str(path))
    if known is not None and known[0] == before:
        return known[1]
    digest = sha256(path)
    if is_settled(before):
        _known[str(path)] = (before, digest)
    return digest
