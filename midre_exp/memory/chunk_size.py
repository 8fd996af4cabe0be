"""How many items of an attack go together: as the config says, planned by what a few of them take, halved
where more did not fit. What was found is kept in the work folder for the next attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from midre_exp.errors import OutOfMemory
from midre_exp.memory.batches import Counts, Shortage
from midre_exp.memory.footprint import planned
from midre_exp.runtime import Runtime, free_memory
from midre_exp.weights import checkpoint

_FITTED = "fitted.pt"
#: So much more memory than when a size was remembered, and it is found anew.
_MORE = 1.25


@dataclass(frozen=True)
class Divisible:
    """What is divided into chunks: ``count`` items of which only whole groups of ``group_size`` are computed
    together, and of which ``items_per_row`` share a row of what is optimised; ``name``: whose they are.
    """

    name: str
    count: int
    group_size: int
    items_per_row: int


class ChunkSize:
    """``items``: how many items a chunk has at most, whole groups."""

    def __init__(self, work: Path, all_of: Divisible, runtime: Runtime, device_name: str):
        self._file, self._all, self._runtime, self._device_name = work / _FITTED, all_of, runtime, device_name
        groups = max(1, runtime.chunk * all_of.items_per_row // all_of.group_size)
        self._most = self.items = groups * all_of.group_size
        self._free = free_memory(runtime.device) or 0
        known = self._known()
        self._is_planned = runtime.is_planned and known is None and all_of.count > all_of.group_size
        if known is not None and (known["was_halved"] or runtime.is_planned):
            self.items = min(self._most, known["items"])

    def plan(self, first_step: Callable[[int], None], victim: Counts) -> None:
        """Plan ``items``, unless the config or an earlier attempt said it, by the first step of a few groups,
        which ``first_step`` takes and throws away; its questions to ``victim`` do not count.
        """
        if not self._is_planned:
            return
        groups = -(-min(self._most, self._all.count) // self._all.group_size)
        fit = planned(first_step, groups, self._runtime.device, victim=victim)
        self.items = self._most if fit == groups else min(self._most, fit * self._all.group_size)
        self._keep(was_halved=False)
        if self.items < min(self._most, self._all.count):
            self._runtime.say(f"{self.items} reconstructions at once, by what a few take of the free memory")

    @property
    def runtime(self) -> Runtime:
        """For what follows: rendering and scoring take no more at once than what is optimised together."""
        optimised = self.items // self._all.items_per_row
        return replace(self._runtime, chunk=max(1, min(self._runtime.chunk, optimised)))

    def halve(self, tried: int, shortage: Shortage) -> None:
        """``tried`` items were too many. Raises OutOfMemory when they cannot be divided."""
        groups = -(-tried // self._all.group_size)
        if groups < 2:
            raise OutOfMemory(
                f"{self._all.name}: {tried} item(s), which cannot be divided further: "
                f"{too_little(self._runtime.device, shortage)}"
            )
        self.items = groups // 2 * self._all.group_size
        self._keep(was_halved=True)
        self._runtime.say(f"out of memory with {tried} items at once: going on with half of them")

    def _known(self) -> dict[str, int] | None:
        """What an earlier attempt found, if it was on this device with about as much free memory."""
        saved = checkpoint.load(self._file)
        if saved is None or saved["device"] != self._device_name:
            return None
        return saved if saved["free"] / _MORE <= self._free <= saved["free"] * _MORE else None

    def _keep(self, *, was_halved: bool) -> None:
        found = {"items": self.items, "was_halved": was_halved}
        checkpoint.save(self._file, {**found, "device": self._device_name, "free": self._free})


def too_little(device: torch.device, shortage: Shortage) -> str:
    """What to say, and what to do, when as little as possible does not fit."""
    is_cpu = device.type == "cpu"
    place = "memory of this machine" if is_cpu else f"memory of {device}"
    elsewhere = "" if is_cpu else " or runtime.device=cpu"
    return (
        f"not enough {place} ({shortage.reason}); end other programs on it, or use a device with more "
        f"memory{elsewhere}"
    )
