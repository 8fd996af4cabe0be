"""Single operations on lock files: created whole, removed only with the right token, their holder judged.

Nothing here waits or keeps state; ``locks`` builds a lock of it. No flock: some network file systems ignore
it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import socket
import uuid
from pathlib import Path
from typing import NamedTuple

BEAT_WIDTH = 12  # the counter has a fixed width and
BEAT_AT = len('{"beat": "')  # a fixed place, so that a heartbeat overwrites it in the open file

_NO_LINKS = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
)


class Holder(NamedTuple):
    """What a lock file says; ``token`` and ``beat`` are None in an empty one, whose writer died."""

    token: str | None = None
    beat: str | None = None
    host: str = "an unknown host"
    machine: str = ""
    pid: int = 0
    start: str | None = None
    what: str = ""

    @property
    def process(self) -> str:
        """The holder in words."""
        return f"process {self.pid} on {self.host}" if self.token else "another process"


def content(token: str, what: str) -> bytes:
    """The text of a lock file held by this process."""
    pid = os.getpid()
    fields = {"beat": "0" * BEAT_WIDTH, "token": token, "host": socket.gethostname(), "machine": _machine()}
    return json.dumps(fields | {"pid": pid, "start": _start_of(pid), "what": what}).encode()


def parse(raw: bytes) -> Holder:
    """The holder named by the text of a lock file; never raises."""
    try:
        fields = json.loads(raw)
        holder = Holder(**{**fields, "token": str(fields["token"]), "pid": int(fields["pid"])})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # OverflowError: an infinite pid
        return Holder()
    return holder if 0 < holder.pid < 2**31 else Holder()


def read(path: Path) -> Holder | None:
    """The holder of a lock, None when it is free."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:  # NFS: removed while being opened
            raise
        return None


def create(path: Path, text: bytes) -> bool:
    """Create a lock file that has its text from the first moment; False when it exists already."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
            return True
        except FileExistsError:
            return (
                temporary.stat().st_nlink == 2
            )  # NFS: the link was made, its answer lost, the request repeated
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        try:
            with path.open(
                "xb"
            ) as file:  # no hard links here: a death before the next line leaves an empty lock
                file.write(text)
            return True
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path, token: str | None) -> bool:
    """Remove a lock file if it carries ``token``; one that turns out to be another's is put back."""
    holder = read(path)
    if holder is None or holder.token != token:
        return False
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.gone")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    try:
        try:
            text = aside.read_bytes()
        except FileNotFoundError:  # somebody has cleared it away, so that its holder is dead
            return True
        if parse(text).token == token:
            return True
        create(path, text)
        return False
    finally:
        aside.unlink(missing_ok=True)


def is_gone(holder: Holder) -> bool:
    """True when the holder ran on this machine and no longer does, though its number may be used again."""
    if holder.token is None or holder.machine != _machine() or os.name != "posix":
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it lives and belongs to somebody else
    start = _start_of(holder.pid)
    return start is not None and start != holder.start


@functools.cache
def _machine() -> str:
    """Host, boot and pid namespace: equal for two processes that see each other's ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _start_of(pid: int) -> str | None:
    """When a process started, in ticks since boot; "dead" for a zombie; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "dead" if fields[0] in "ZX" else fields[19]
