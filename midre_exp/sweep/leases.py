"""One GPU for each run on this machine: a run takes a lease before torch is loaded, and waits while all are
taken by other runs of this user.

A lease is a lock file in a folder of the user on this machine (store/lock.py): it ends with the run, and with
its process, however that dies. CUDA_VISIBLE_DEVICES then names the leased GPU alone, so that ``cuda`` is that
one for everything that is computed. A process that has started CUDA cannot change its GPU any more; its later
runs lease the same again.
"""

from __future__ import annotations

import os
import random
import re
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from midre_exp.errors import ConfigError, StoreError
from midre_exp.machine.gpus import VISIBLE, Gpu, show_gpus, visible_gpus
from midre_exp.store.lock import BuildLock
from midre_exp.store.lockfile import read
from midre_exp.store.progress import say

#: Where leases are kept in place of the user's folder on this machine (for tests).
FOLDER = "MIDRE_LEASES"

_POLL_SECONDS = 1.0
_masked: list[Gpu] = []  # all that this process can use: it started CUDA while it had leased these alone


@contextmanager
def leased(
    device: str, count: int = 1, *, run: str = "a run", tell: Callable[[str], None] = say
) -> Iterator[list[Gpu]]:
    """Within, this process has GPUs for a run: ``count`` of them for ``device`` ``auto`` or ``cuda``, waited
    for while all are in use. Yields them; none where there are none to lease, or for another device.

    ``cuda:N`` is the user's own choice: it is noted, so that others keep away, but waits for nobody. Raises
    ConfigError for more GPUs than there are, and for those this process cannot have any more. ``tell`` gets a
    line for whoever waits.
    """
    gpus = visible_gpus() if device in ("auto", "cuda") or device.startswith("cuda:") else []
    if not gpus or _is_placed(gpus, count):
        yield []
        return
    started = _cuda_has_started()
    if not started:
        _masked.clear()
    named = re.fullmatch(r"cuda:(\d+)", device)
    if named is not None:
        with _noted(gpus, int(named[1]), count, run, tell) as taken:
            yield taken
        return
    check_count(gpus, count)
    if started:  # on what the driver shows this process, in that order
        gpus = (_masked or gpus)[:count]
    before = os.environ.get(VISIBLE)
    locks = _take(gpus, count, run, tell)
    taken = [gpu for gpu in gpus if gpu.uuid in locks]
    try:
        if not started:
            show_gpus(",".join(gpu.visible_as for gpu in taken))
        yield taken
    finally:
        if not started and _cuda_has_started():
            _masked[:] = taken
        elif not started:
            show_gpus(before)
        for lock in locks.values():
            lock.release()


def check_count(gpus: Sequence[Gpu], count: int) -> None:
    """Raise ConfigError where one run cannot have ``count`` of these GPUs."""
    if _masked and count > len(_masked):
        raise ConfigError(
            f"runtime.devices={count}, but this process has started CUDA on {told(_masked)} for an earlier "
            "run; launch runs of different runtime.devices one by one"
        )
    if count > len(gpus):
        raise ConfigError(
            f"runtime.devices={count}, but there {'is' if len(gpus) == 1 else 'are'} {len(gpus)} "
            f"GPU{'s' * (len(gpus) != 1)} here; use runtime.devices={len(gpus)} or fewer"
        )
    if count > 1 and any(gpu.is_instance for gpu in gpus):
        raise ConfigError(
            f"runtime.devices={count}, but CUDA gives a process only one MIG instance; use runtime.devices=1"
        )


def told(gpus: Sequence[Gpu]) -> str:
    """GPUs in words; of a single one, how much of its memory was free."""
    text = " and ".join(map(str, gpus))
    if len(gpus) == 1 and gpus[0].free is not None and gpus[0].total is not None:
        text += f", {gpus[0].free / 2**30:.0f} of {gpus[0].total / 2**30:.0f} GiB free"
    return text


def _is_placed(gpus: Sequence[Gpu], count: int) -> bool:
    """Whether a cluster has given this job exactly the GPUs of the run: nobody else is to have them."""
    return "SLURM_JOB_ID" in os.environ and VISIBLE in os.environ and len(gpus) <= count


def _cuda_has_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _take(gpus: Sequence[Gpu], count: int, run: str, tell: Callable[[str], None]) -> dict[str, BuildLock]:
    """Locks on ``count`` of the GPUs, by their UUIDs: all of them or, for now, none, so that two runs that
    need several never wait for each other. What has most memory free goes first: others may compute as well.
    """
    locks = {gpu.uuid: _lock(gpu, run) for gpu in sorted(gpus, key=lambda gpu: -(gpu.free or 0))}
    announced = False
    while True:
        taken: dict[str, BuildLock] = {}
        try:
            for uuid, lock in locks.items():
                if len(taken) < count and lock.acquire(stop_waiting=lambda: True):
                    taken[uuid] = lock
            if len(taken) == count:
                return taken
            if not announced:
                tell(_waiting([lock for uuid, lock in locks.items() if uuid not in taken], count))
                announced = True
        except BaseException:
            _release(taken)
            raise
        _release(taken)
        locks |= {gpu.uuid: _lock(gpu, run) for gpu in gpus if gpu.uuid in taken}  # a lock is for one use
        time.sleep(_POLL_SECONDS * random.uniform(0.5, 1.0))


def _release(locks: Mapping[str, BuildLock]) -> None:
    for lock in locks.values():
        lock.release()


def _waiting(locks: Sequence[BuildLock], count: int) -> str:
    """What a run that waits is told: who has the GPUs."""
    holders = [holder for lock in locks if (holder := read(lock.path)) is not None]
    who = ", ".join(f"{holder.what} ({holder.process})" for holder in holders) or "another run"
    return f"waiting for {'a GPU' if count == 1 else f'{count} GPUs'} of this machine; in use: {who}"


@contextmanager
def _noted(
    gpus: Sequence[Gpu], first: int, count: int, run: str, tell: Callable[[str], None]
) -> Iterator[list[Gpu]]:
    """The GPUs from ``cuda:first`` on, leased where that is possible at once."""
    if _masked:
        raise ConfigError(
            f"runtime.device=cuda:{first} counts all GPUs, but this process was given {told(_masked)} alone "
            "for an earlier run; leave out runtime.device, or launch this run by itself"
        )
    wanted = list(gpus[first : first + count])
    locks = {gpu.uuid: _lock(gpu, run) for gpu in wanted}
    taken: dict[str, BuildLock] = {}
    try:
        for gpu in wanted:
            if locks[gpu.uuid].acquire(stop_waiting=lambda: True):
                taken[gpu.uuid] = locks[gpu.uuid]
            else:
                tell(f"{gpu} is shared with another run, as runtime.device=cuda:{first} asks")
        yield wanted
    finally:
        _release(taken)


def _lock(gpu: Gpu, run: str) -> BuildLock:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", gpu.uuid)
    return BuildLock(folder() / f"{name}.lock", f"{gpu} for {run}")


def folder() -> Path:
    """Where the leases of this user on this machine lie. Raises StoreError for a folder of somebody else."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    if os.name != "posix":
        return Path(tempfile.gettempdir(), "midre-exp-gpus")
    path = Path("/tmp", f"midre-exp-{os.getuid()}-gpus")  # not TMPDIR, which differs between jobs
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StoreError(f"{path} belongs to somebody else; remove it, or set {FOLDER} to a folder of yours")
    return path
