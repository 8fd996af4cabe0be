"""When the state of a long loop is saved, and by whom: every few minutes, by a thread of its own.

The loop waits only until its state is copied to main memory. There is one writing thread in a process; what
it has not finished when the process is killed leaves the checkpoint before.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from midre_exp.store.files import remove_file
from midre_exp.weights import checkpoint

_LOG = logging.getLogger(__name__)

#: Between two checkpoints lie at least this many times what the last one cost: 1 % of the time of a loop
#: goes into checkpoints, however large they are.
_TIMES_COST = 100
#: Of all checkpoints of a process; it ends, with what it is writing, before the process does.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

State = dict[str, Any]


class Checkpointer:
    """The file ``path`` of one loop: ``if it.due(): it.save(state)`` after a step, within ``with it:``.

    A checkpoint is due ``seconds`` after the last, by ``clock``, and later where it cost much or is still
    being written; with 0 after every step, which then waits for it. A write that fails is raised by the next
    ``save``, or at the end of the block.
    """

    def __init__(self, path: Path, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.path, self.seconds = path, seconds
        self._clock = clock
        self._last, self._cost = clock(), 0.0
        self._writing: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
            return
        try:
            self.wait()
        except Exception as second:  # the first error tells more
            _LOG.warning("the last checkpoint was not written (%s)", second)

    def load(self) -> State | None:
        """As ``checkpoint.load``, without what a killed process had half written."""
        for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            remove_file(left)
        return checkpoint.load(self.path)

    def due(self) -> bool:
        """Whether this is the moment for a checkpoint."""
        if not self.seconds:
            return True
        if self._writing is not None and not self._writing.done():
            return False
        return self._clock() - self._last >= max(self.seconds, _TIMES_COST * self._cost)

    def save(self, state: State, earlier: Sequence[tuple[Path, State]] = ()) -> None:
        """Copy ``state``, which may change from now on, and have it written, after the states of ``earlier``
        loops, which may not.
        """
        self.wait()
        begun = self._clock()
        copied = _copy(state, "", self._buffers)
        self._last = self._clock()
        self._cost = self._last - begun
        self._writing = _THREAD.submit(self._write, copied, tuple(earlier))
        if not self.seconds:
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises what the last write failed with."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, state: State, earlier: Sequence[tuple[Path, State]]) -> None:
        begun = time.thread_time()
        for path, its_state in earlier:
            checkpoint.save(path, its_state)
        checkpoint.save(self.path, state)
        self._cost += time.thread_time() - begun  # not that of waiting for the disk, which stops nobody


def wait_for_writes() -> None:
    """Until no checkpoint of this process is being written; whether that went well is told by those who
    asked for them.
    """
    _THREAD.submit(int).result()


def snapshot(state: State) -> State:
    """A copy of a state in main memory that shares nothing with it."""
    copied: State = _copy(state, "", {})
    return copied


def _copy(value: Any, where: str, buffers: dict[str, Tensor]) -> Any:
    """``value`` with its tensors copied to main memory: into ``buffers``, by their places, where they fit."""
    if isinstance(value, Tensor):
        return _copy_tensor(value.detach(), where, buffers)
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):
        copied = kind({key: _copy(item, f"{where}/{key!r}", buffers) for key, item in value.items()})
        if hasattr(value, "_metadata"):  # of a state dict: the versions of its modules
            vars(copied)["_metadata"] = value._metadata
        return copied
    if kind in (list, tuple):
        return kind(_copy(item, f"{where}/{index}", buffers) for index, item in enumerate(value))
    return value


def _copy_tensor(value: Tensor, where: str, buffers: dict[str, Tensor]) -> Tensor:
    known = buffers.get(where)
    if known is None or (known.shape, known.dtype) != (value.shape, value.dtype):
        known = buffers[where] = torch.empty_like(value, device="cpu", requires_grad=False)
    return known.copy_(value)
