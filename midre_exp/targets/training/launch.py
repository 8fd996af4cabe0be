"""Starts one process per device for a training by Lightning's ``ddp``, and ends them together.

Lightning would start its processes by running the command line again, which a sweep's job and a library call
do not have, so they are started here. The calling process holds the locks and the tracker, passes on what
rank 0 logs, and waits: whatever ends it, or one of the ranks, ends all. A rank leaves its result as a
checkpoint.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from tqdm import tqdm

from midre_exp.errors import ConfigError, UserError
from midre_exp.store.progress import log_to_stderr

Task = TypeVar("Task")
Metrics = tuple[dict[str, float], int | None]  # values by name, step

_TERMINATED = 128 + signal.SIGTERM  # the exit code of a process that was told to leave
#: Blocked in a rank from its start: the calling process answers them for all. SIGTERM may be meant for one
#: rank alone, which then ends by ``_end_on_sigterm``; Lightning would first tell the others, and might wait.
_BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class RankError(RuntimeError):
    """A rank ended without saying why; as the cause of another error, the traceback in the rank."""


def launch(
    train: Callable[[Task, int, Connection], None],
    task: Task,
    *,
    devices: int,
    backend: str,
    log: Callable[[dict[str, float], int | None], None],
) -> None:
    """Run ``train(task, rank, connection)`` in ``devices`` processes that form torch's default process group.

    ``train`` and ``task`` are pickled; ``log`` gets the ``Metrics`` that a rank sends by its connection.
    Raises the UserError of a rank, RankError or RuntimeError for any other failure, SystemExit(143) when a
    rank got SIGTERM, and ConfigError for a task that cannot be pickled.
    """
    try:
        payload = pickle.dumps((train, task))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"runtime.devices={devices} needs data and defenses that can be pickled for another process, and "
            f"one cannot ({error}); define its class in a module, or use runtime.devices=1"
        ) from error
    context = get_context("spawn")
    ranks: dict[Connection, BaseProcess] = {}
    with tempfile.TemporaryDirectory() as folder:
        group = (backend, devices, Path(folder, "rendezvous").as_uri())
        try:
            with _inherited_by_ranks():
                for rank in range(devices):
                    receiver, sender = context.Pipe(duplex=False)
                    arguments = (rank, group, torch.get_num_threads(), sender, payload)
                    process = context.Process(target=_run_rank, args=arguments, daemon=True)
                    process.start()
                    sender.close()
                    ranks[receiver] = process
            _wait(ranks, log)
        finally:
            _kill(ranks.values())


@contextmanager
def _inherited_by_ranks() -> Iterator[None]:
    """Processes started within inherit blocked signals, and that torch's C++ part keeps its advice."""
    resource_tracker.ensure_running()  # multiprocessing's own process: starting it later would unblock them
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    level = os.environ.get("TORCH_CPP_LOG_LEVEL")
    os.environ["TORCH_CPP_LOG_LEVEL"] = level or "ERROR"
    try:
        yield
    finally:
        if level is None:
            del os.environ["TORCH_CPP_LOG_LEVEL"]
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _kill(processes: Collection[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _wait(ranks: dict[Connection, BaseProcess], log: Callable[[dict[str, float], int | None], None]) -> None:
    """Pass on metrics until every rank is done, or raise what tells most of why one is not."""
    processes, connections = list(ranks.values()), list(ranks)
    errors: dict[int, BaseException] = {}
    exit_codes: list[int | None] = []  # by rank, when the first of them had failed
    while connections:
        for connection in wait(connections):
            assert isinstance(connection, Connection)
            process = ranks[connection]
            try:
                message = connection.recv()
            except EOFError:
                connections.remove(connection)
                process.join()
                if process.exitcode and not exit_codes:
                    exit_codes = [process.exitcode for process in processes]
                    _kill(processes)  # what they had sent before is still read
                continue
            if isinstance(message, BaseException):
                errors[processes.index(process)] = message
            else:
                log(*message)
    if exit_codes:
        raise _failure(exit_codes, errors)


def _failure(exit_codes: Sequence[int | None], errors: dict[int, BaseException]) -> BaseException:
    """What tells most of a failed training: a user's mistake, a signal, then any other error of a rank.

    Other ranks fail as well when one is lost, so the first to end is not always the cause.
    """
    for error in errors.values():
        if isinstance(error, UserError):
            return error
    for rank, code in enumerate(exit_codes):
        if code == _TERMINATED:
            return SystemExit(_TERMINATED)
        if code is not None and code < 0:
            hint = "; memory may have been short" if code == -signal.SIGKILL else ""
            killed = f"killed by {signal.Signals(-code).name}"
            return RankError(f"rank {rank} of a training on several devices ended ({killed}){hint}")
    for rank, code in enumerate(exit_codes):
        if code:
            ended = RankError(f"rank {rank} of a training on several devices ended (exit code {code})")
            return errors.get(rank, ended)
    raise AssertionError("no rank has failed")


def _run_rank(
    rank: int, group: tuple[str, int, str], threads: int, connection: Connection, payload: bytes
) -> None:
    """The whole of one process."""
    for watch in (_end_with_parent, _end_on_sigterm):
        threading.Thread(target=watch, daemon=True).start()
    log_to_stderr(logging.ERROR if rank else logging.WARNING)
    if rank:
        warnings.simplefilter("ignore")  # rank 0 says the same
    tqdm.set_lock(threading.RLock())  # its own would be a semaphore, left behind by a process that is killed
    torch.set_num_threads(threads)
    backend, devices, rendezvous = group
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # for Lightning, which then starts no others
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    try:
        train, task = pickle.loads(payload)
        dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=devices)
        train(task, rank, connection)
        dist.destroy_process_group()
    except BaseException as error:
        connection.send(_portable(error))
        os._exit(1)  # at once: to tear down the process group would be to wait for the others


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _end_on_sigterm() -> None:
    """End on SIGTERM even while torch waits for the other ranks."""
    signal.sigwait([signal.SIGTERM])
    os._exit(_TERMINATED)


def _loopback_interface() -> str:
    """The ranks share a machine, whose host name gloo would otherwise resolve."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")


def _portable(error: BaseException) -> BaseException:
    """A user's mistake as it is, any other error as a RuntimeError with its traceback as the cause."""
    if isinstance(error, UserError):
        return error
    return _FailureInRank(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


class _FailureInRank(RuntimeError):
    """An error of a rank; the traceback there is its cause."""

    def __init__(self, sentence: str, trace: str):
        super().__init__(sentence, trace)
        self.__cause__ = RankError(trace)

    def __str__(self) -> str:
        return str(self.args[0])
