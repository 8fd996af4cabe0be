"""The processes of a training on several devices: one for each, started, heard and ended by the process that
wants the training done.

That process computes nothing meanwhile. It holds the locks and the tracker and waits; whatever ends it, or
one of the others, ends all. The others find each other over the loopback address, live no longer than it
does, and hand their result over as files.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from tqdm import tqdm

from midre_exp.errors import ConfigError, UserError
from midre_exp.runtime import Runtime

_STORE: Any = dist.TCPStore  # type: ignore[attr-defined]  # torch does not name it as exported

_ADDRESS = "127.0.0.1"
_PATIENCE = timedelta(hours=1)  # of a process for the others, e.g. while one reads images for the first time
_LAST_WORDS = 2.0  # seconds the others get to tell why, when one has failed: the first to end may be no more than a witness
#: Signals that are blocked in a process from its start: the waiting process answers them for all. SIGTERM may
#: be meant for one, which then ends by ``_leave``; Lightning's own way is to tell the others, who may be
#: waiting for this one.
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Rank:
    """One of ``count`` processes that train together: its number ``index`` from 0, and how it speaks to the
    process that waits.
    """

    index: int
    count: int
    tell: Callable[[Any], None]


class Ranks(LightningEnvironment):
    """Tells Lightning that its processes are there already and which one this is, whatever cluster variables
    say.
    """

    def __init__(self, rank: Rank):
        super().__init__()
        self.rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """Lightning is not to start any."""
        return True

    def local_rank(self) -> int:
        """Number of this process."""
        return self.rank.index

    def node_rank(self) -> int:
        """All are on this machine."""
        return 0


class RankError(RuntimeError):
    """A process of a training ended without saying why; as the cause of another error, where that came from."""


def spread(work: Callable[..., None], task: Any, runtime: Runtime, hear: Callable[[Any], None]) -> None:
    """Run ``work(rank, task)`` in ``runtime.devices`` processes that are joined in torch's default process
    group, until all are done.

    ``hear`` gets whatever one of them ``tell``s. ``work`` and ``task`` are pickled. The error of a process is
    raised here; RankError when one vanishes, and SystemExit(143) when it got SIGTERM. Raises ConfigError for
    a task that cannot be pickled.
    """
    count = runtime.devices
    try:
        parcel = pickle.dumps((work, task))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"runtime.devices={count} needs data and defenses that another process can be handed, and one cannot ({error}); "
            "define its class in a module, or use runtime.devices=1"
        ) from error
    context = multiprocessing.get_context("spawn")
    port, store = _meeting_point()
    processes: list[BaseProcess] = []
    ears: list[Connection] = []
    try:
        with _inherited():
            for index in range(count):
                ear, mouth = context.Pipe(duplex=False)
                arguments = (index, count, port, runtime.device.type, torch.get_num_threads(), mouth, parcel)
                process: BaseProcess = context.Process(
                    target=_live, args=arguments, name=f"rank {index}", daemon=True
                )
                process.start()
                mouth.close()
                processes.append(process)
                ears.append(ear)
        _attend(processes, ears, hear)
        for process in processes:
            process.join(_LAST_WORDS)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
        del store  # lived here, so that no process had to outlive the others


def _meeting_point() -> tuple[int, Any]:
    """A store for the addresses of all, on a port that is free and stays ours."""
    listener = socket.socket()
    listener.bind((_ADDRESS, 0))
    listener.listen()
    port = listener.getsockname()[1]
    store = _STORE(_ADDRESS, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    return port, store


@contextmanager
def _inherited() -> Iterator[None]:
    """What a process takes over from its parent at its start: signals that stay blocked, and that torch's C++
    part keeps its advice.
    """
    resource_tracker.ensure_running()  # multiprocessing's own process; to start it later would unblock signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    level = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = level or "ERROR"
    try:
        yield
    finally:
        if level is None:
            del os.environ["TORCH_CPP_LOG_LEVEL"]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attend(
    processes: Sequence[BaseProcess], ears: Sequence[Connection], hear: Callable[[Any], None]
) -> None:
    """Listen to all until all are done, or raise what tells most of why one is not."""
    listening = dict(zip(ears, processes, strict=True))
    failures: list[BaseException] = []
    deadline: float | None = None
    while listening and (deadline is None or time.monotonic() < deadline):
        ready = wait(listening, None if deadline is None else _LAST_WORDS)
        for ear in [ear for ear in listening if ear in ready]:
            try:
                kind, content = ear.recv()
            except EOFError:  # closed by its end, not by its will
                failures.append(_why_it_ended(listening.pop(ear)))
                continue
            if kind == "told":
                hear(content)
                continue
            listening.pop(ear)
            if kind == "failed":
                error, trace = content
                error.__cause__ = RankError(trace)
                failures.append(error)
        if failures and deadline is None:
            deadline = time.monotonic() + _LAST_WORDS
    if failures:
        telling = (UserError, SystemExit, RankError)
        raise next((error for kind in telling for error in failures if isinstance(error, kind)), failures[0])


def _why_it_ended(process: BaseProcess) -> BaseException:
    process.join(_LAST_WORDS)
    code = process.exitcode
    if code == 128 + signal.SIGTERM:
        return SystemExit(128 + signal.SIGTERM)
    how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    remedy = "; memory may have been short" if code == -signal.SIGKILL else ""
    return RankError(f"{process.name} of a training on several devices ended ({how}){remedy}")


def _live(
    index: int, count: int, port: int, device: str, threads: int, mouth: Connection, parcel: bytes
) -> None:
    """The life of one process."""
    for watch in (_die_with_parent, _leave):
        threading.Thread(target=watch, name=watch.__name__, daemon=True).start()
    logging.basicConfig(
        level=logging.ERROR if index else logging.WARNING, format="%(levelname)s: %(message)s"
    )
    if index:
        warnings.simplefilter("ignore")  # one voice is enough
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore, left behind by a process that is killed
    try:
        torch.set_num_threads(threads)
        os.environ["GLOO_SOCKET_IFNAME"] = _loopback()
        store = _STORE(_ADDRESS, port, is_master=False, timeout=_PATIENCE)
        work, task = pickle.loads(parcel)
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=store,
            rank=index,
            world_size=count,
            timeout=_PATIENCE,
        )
        work(Rank(index, count, lambda content: mouth.send(("told", content))), task)
        dist.barrier()  # nobody leaves while another still needs it
    except BaseException as error:
        mouth.send(("failed", _portable(error)))
        os._exit(1)  # without waiting for others, who wait for this one
    dist.destroy_process_group()
    mouth.send(("done", None))


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _leave() -> None:
    """End on SIGTERM, even while torch waits for the others."""
    signal.sigwait([signal.SIGTERM])
    os._exit(128 + signal.SIGTERM)


def _loopback() -> str:
    """The name of the loopback interface: gloo would take the one the host's name stands for."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")


def _portable(error: BaseException) -> tuple[BaseException, str]:
    """The error, or one that says the same where it cannot be sent, and its traceback."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        same = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the class does when pickled
        same = None
    if type(same) is not type(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, trace
