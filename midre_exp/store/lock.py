"""One builder at a time on any file system: a lock file with a heartbeat, and takeover of a builder that
died.

A lock exists while its file does. Its holder rewrites a counter in it; whoever waits judges the holder by
what it sees itself, never by comparing clocks. Should two processes hold one lock all the same (a holder
frozen for longer than ``stale_seconds`` wakes up), the store stays right: publishing is one atomic rename and
the first wins.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from midre_exp.errors import StoreError
from midre_exp.store import lockfile as lockfiles
from midre_exp.store.files import explain, make_folder
from midre_exp.store.lockfile import BEAT_AT, BEAT_WIDTH, Holder

_log = logging.getLogger(__name__)

#: An empty lock (its writer died), or a takeover that lasts this long, is abandoned.
EMPTY_SECONDS = 10.0


class LockedError(Exception):
    """Somebody else is building what is needed, and the caller has better things to do than to wait."""


class BuildLock:
    """A lock on one piece of work, for one use: ``acquire``, then ``release`` in a ``finally``.

    ``describe`` names the work for those who wait. ``beat_seconds`` is the pause between heartbeats; a holder
    that another process has watched for ``stale_seconds`` without a beat is dead, as is one whose process has
    gone from this machine.
    """

    def __init__(
        self, path: Path, describe: str, *, beat_seconds: float = 5.0, stale_seconds: float = 60.0
    ) -> None:
        self.path = path
        self.describe = describe
        self.beat_seconds = beat_seconds
        self.stale_seconds = stale_seconds
        self._token = uuid.uuid4().hex
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._holders = _Watch(stale_seconds)  # kept: who asks again and again has watched all the time
        self._takeovers = _Watch(EMPTY_SECONDS)

    def acquire(
        self,
        *,
        stop_waiting: Callable[[], bool] = lambda: False,
        wait_message: Callable[[str], None] = _log.warning,
        wait: bool = True,
    ) -> bool:
        """Take the lock, waiting while a living process holds it; False once ``stop_waiting()`` is true.

        The first time it has to wait, ``wait_message`` gets one sentence that names the holder; without
        ``wait`` that is a LockedError instead. StoreError when the lock's folder cannot be written.
        """
        self._pid = os.getpid()
        make_folder(self.path.parent)
        announced = False
        pause = 0.05
        try:
            while True:
                holder = lockfiles.read(self.path)
                if holder is None:
                    taken = lockfiles.create(self.path, self._content())
                else:
                    taken = self._holders.sees_dead(holder) and self._take_over(holder)
                if taken:
                    name = f"heartbeat of {self.describe}"
                    threading.Thread(target=self._beat, name=name, daemon=True).start()
                    return True
                if stop_waiting():
                    return False
                if holder is not None and not wait:
                    raise LockedError(f"{self.describe} is being built by {holder.process}")
                if holder is not None and not announced:
                    wait_message(f"{self.describe} is being built by {holder.process}; waiting for it")
                    announced = True
                time.sleep(pause)
                pause = min(1.0, pause * 1.5)
        except BaseException as error:
            self.release()
            if isinstance(error, OSError):
                raise explain(error, self.path, "lock") from error
            raise

    def release(self) -> None:
        """Give the lock back; does nothing in a forked child or when the lock is not ours (any more)."""
        if os.getpid() != self._pid:
            return
        self._stop.set()
        with contextlib.suppress(OSError):  # a lock that cannot be removed goes stale and is taken over
            lockfiles.remove(self.path, self._token)

    def is_held(self) -> bool:
        """True while the lock file carries our token; one that cannot be read just now proves no loss."""
        try:
            holder = lockfiles.read(self.path)
        except OSError:
            return not self._lost.is_set()
        return holder is not None and holder.token == self._token

    @property
    def was_lost(self) -> bool:
        """True once the heartbeat has found the lock gone or in other hands."""
        return self._lost.is_set()

    def _content(self) -> bytes:
        return lockfiles.content(self._token, self.describe)

    def _beat(self) -> None:
        misses = 0
        beat = 0
        while not self._rest():
            beat += 1
            try:
                # Overwriting 12 bytes in place needs no disk space, and if the lock is renamed away under us
                # the write goes to the renamed file: a heartbeat can never overwrite somebody else's lock.
                with self.path.open("r+b") as file:
                    if lockfiles.parse(file.read()).token != self._token:
                        break
                    file.seek(BEAT_AT)
                    file.write(b"%0*d" % (BEAT_WIDTH, beat))
                    file.flush()
                    os.fsync(file.fileno())
                misses = 0
            except FileNotFoundError:
                misses += 1
                if misses == 2:  # once may be a process that is about to put our lock back
                    break
            except OSError as error:
                _log.debug("heartbeat of %s failed: %s", self.path, error)  # a hiccup; the next beat tells
        else:
            return
        if not self._stop.is_set():
            self._lost.set()

    def _rest(self) -> bool:
        """Pause for one beat; True once the lock is given back. Python 3.10 waits for an Event by the wall
        clock, which may jump.
        """
        until = time.monotonic() + self.beat_seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
        return self._stop.is_set()

    def _take_over(self, dead: Holder) -> bool:
        """Replace a dead holder's lock by ours; False when another process was faster.

        Only one process may try at a time (guard file), so that nobody removes the lock a faster one has just
        created.
        """
        guard = self.path.with_name(f"{self.path.name}.takeover")
        if not lockfiles.create(guard, self._content()):
            other = lockfiles.read(guard)
            if other is not None and self._takeovers.sees_dead(other):
                lockfiles.remove(guard, other.token)
            return False
        try:
            now = lockfiles.read(self.path)
            if now is not None:
                revived = (now.token, now.beat) != (dead.token, dead.beat)
                if revived or not lockfiles.remove(self.path, dead.token):
                    return False
            if not lockfiles.create(self.path, self._content()):
                return False
            _log.info("%s: taking over from %s, which has died", self.describe, dead.process)
            return True
        finally:
            lockfiles.remove(guard, self._token)


def dies_as_fork(owner: int, number: int) -> bool:
    """Whether this process is no ``owner`` of a handler but a forked worker that inherited it, which then
    simply dies of the signal.
    """
    if os.getpid() == owner:
        return False
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return True


def end_with_parent(busy: Callable[[], bool], *, grace: float = 10.0) -> None:
    """End this process soon after the one that started it has died, however that happened: work that is going
    on is told by SIGTERM, so that it gives its locks back, and has ``grace`` seconds for that.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        if busy():
            os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + grace
        while busy() and time.monotonic() < until:
            time.sleep(0.05)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="watch over the parent", daemon=True).start()


def release_dead(folder: Path) -> None:
    """Remove the locks in a folder whose holders have died on this machine. Other machines would have to wait
    for them to go stale.
    """
    for path in folder.glob("*.lock"):
        with contextlib.suppress(OSError, StoreError):  # what cannot be removed goes stale
            holder = lockfiles.read(path)
            if holder is not None and lockfiles.is_gone(holder):
                lock = BuildLock(path, holder.what)
                if lock.acquire(stop_waiting=lambda: True):
                    lock.release()
    clear_aside(folder)


def clear_aside(folder: Path) -> None:
    """Remove what processes of this machine that were killed while they took a lock or gave it back have left
    beside it. Of other machines, ``gc`` does.
    """
    for path in folder.glob("*.lock.*"):
        with contextlib.suppress(OSError):  # harmless where it lies
            holder = lockfiles.read(path)
            if holder is None or not lockfiles.is_gone(holder):
                continue
            if path.suffix == ".takeover":  # a name that others use
                lockfiles.remove(path, holder.token)
            else:
                path.unlink(missing_ok=True)


class _Watch:
    """Judges a holder by the time *this* process has watched it without seeing a beat.

    Between two looks at most two seconds count: a watcher that was itself frozen must not think the holder
    was.
    """

    def __init__(self, stale_seconds: float) -> None:
        self._stale_seconds = stale_seconds
        self._last: tuple[str | None, str | None] | None = None
        self._looked = 0.0
        self._watched = 0.0

    def sees_dead(self, holder: Holder) -> bool:
        now = time.monotonic()
        if (holder.token, holder.beat) != self._last:
            self._last = (holder.token, holder.beat)
            self._watched = 0.0
        else:
            self._watched += min(now - self._looked, 2.0)
        self._looked = now
        limit = self._stale_seconds if holder.token else min(self._stale_seconds, EMPTY_SECONDS)
        return self._watched >= limit or lockfiles.is_gone(holder)


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """While inside, SIGTERM raises SystemExit(143) in the main thread, so that locks are released.

    A handler that somebody else has installed stays; so does everything in other threads, where Python allows
    no handlers.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def leave(signum: int, frame: FrameType | None) -> None:
        if not dies_as_fork(owner, signum):
            raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
