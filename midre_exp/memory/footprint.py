"""How much memory work takes, measured by doing a little of it, and how many rows of it fit."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from midre_exp.memory.batches import Counts, Shortage, attempt
from midre_exp.runtime import free_memory

#: Of the free memory what is planned with; on a CPU kernels take more than the tensors that are counted, and
#: there is nobody to say that memory is short.
_SHARE = {"cuda": 0.85, "cpu": 0.5}


def peak_of(work: Callable[[], object], device: torch.device, victim: Counts | None = None) -> int | None:
    """The most bytes that ``work`` holds at a time on top of what is there before; its queries do not count.
    None where it does not fit or the device does not tell. On a CPU the tensors are counted, not the process.
    """
    queries = 0 if victim is None else victim.queries
    with _without_compiling():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            done = attempt(work, victim)
            peak = int(torch.cuda.max_memory_allocated(device)) - before
        elif device.type == "cpu":
            with LiveTensors() as live:
                done = attempt(work, victim)
            peak = live.peak
        else:
            return None
    if victim is not None:
        victim.queries = queries
    return None if isinstance(done, Shortage) else peak


def _without_compiling() -> AbstractContextManager[object]:
    """Nothing is compiled for a size that is never used again. Only loaded where something was compiled."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def rows_that_fit(peaks: Mapping[int, int], free: int, device: torch.device, most: int) -> int:
    """How many rows, at most ``most``, take the planned share of ``free`` bytes, by the bytes that some
    numbers of rows took: all of ``most``, or a power of two, so that a little more or less free memory does
    not give another number.
    """
    few, many = min(peaks), max(peaks)
    each = (peaks[many] - peaks[few]) / (many - few) if many > few else peaks[many] / many
    if each <= 0:
        return most
    constant = max(0.0, peaks[many] - each * many)
    fit = int((_SHARE[device.type] * free - constant) / each)
    return most if fit >= most else 1 << (max(1, fit).bit_length() - 1)


def planned(
    work: Callable[[int], object],
    most: int,
    device: torch.device,
    *,
    sizes: Sequence[int] = (1, 4),
    victim: Counts | None = None,
) -> int:
    """How many rows of ``work``, at most ``most``, fit at once into the memory that is free; found by doing
    it with few rows, whose results are thrown away: the first of ``sizes``, then those that will fit.
    """
    free = free_memory(device)
    if most <= 1 or free is None or device.type not in _SHARE:
        return most
    peaks: dict[int, int] = {}
    for rows in sizes:
        if rows > most or (peaks and rows > rows_that_fit(peaks, free, device, most)):
            break
        peak = peak_of(lambda rows=rows: work(rows), device, victim)  # type: ignore[misc]
        if peak is None:
            return 1
        peaks[rows] = peak
    return rows_that_fit(peaks, free, device, most) if peaks else most


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within and still there, and their ``peak``."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, for seconds, to keep it from what is not compiled

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):  # views of what was there before are nothing new
                self._known.setdefault(tensor.untyped_storage(), True)
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = True
                size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._lost, size)
        return made

    def _lost(self, size: int) -> None:
        self.now -= size
