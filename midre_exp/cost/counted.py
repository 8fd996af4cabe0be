"""What counting found out about a stage, in plain numbers: written as JSON, read without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Operator(NamedTuple):
    """Calls of operators that are alike: what one of them does, and how often that is done in the stage."""

    kind: str  #: conv, grouped (convolutions of few channels each), matmul, other
    flops: float
    bytes: float  #: read and written
    kernels: int  #: launched
    times: float


@dataclass(frozen=True)
class Phase:
    """One part of a stage, such as its training or its selection."""

    name: str
    operators: tuple[Operator, ...]
    fixed: float  #: bytes of memory, whatever the chunk
    per_item: float = 0.0  #: bytes of memory for every reconstruction of a chunk
    group: int = 1  #: reconstructions that are never separated
    items: int = 1  #: reconstructions that there are to make
    counted: int = 1  #: how many at once the operators are for

    @property
    def flops(self) -> float:
        """Of all calls."""
        return sum(one.flops * one.times for one in self.operators)

    @property
    def bytes(self) -> float:
        """Of all calls, read and written."""
        return sum(one.bytes * one.times for one in self.operators)

    @property
    def kernels(self) -> float:
        """Of all calls."""
        return sum(one.kernels * one.times for one in self.operators)

    def chunk(self, wanted: int, free: float | None) -> int:
        """How many reconstructions are made at once where ``wanted`` are allowed and ``free`` bytes are
        there (None: enough): at least a group.
        """
        room = wanted if free is None or not self.per_item else int((free - self.fixed) / self.per_item)
        return max(1, min(wanted, room, self.items) // self.group) * self.group

    def memory(self, chunk: int) -> float:
        """Bytes at the peak, with ``chunk`` reconstructions at once."""
        return self.fixed + self.per_item * min(chunk, self.items)


@dataclass(frozen=True)
class Counted:
    """A stage: its phases, and bytes of what it leaves on disk."""

    phases: tuple[Phase, ...]
    disk: float = 0.0

    @property
    def flops(self) -> float:
        """Of the whole stage."""
        return sum(phase.flops for phase in self.phases)

    def memory(self, chunk: int, free: float | None = None) -> float:
        """Bytes at the peak of the hungriest phase, with at most ``chunk`` reconstructions at once."""
        return max((phase.memory(phase.chunk(chunk, free)) for phase in self.phases), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        phases = [
            {**vars(phase), "operators": [list(one) for one in phase.operators]} for phase in self.phases
        ]
        return {"phases": phases, "disk": self.disk}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Counted:
        """What ``as_json`` gave. Raises KeyError, TypeError or ValueError for anything else."""
        return Counted(
            tuple(
                Phase(**{**phase, "operators": tuple(Operator(*one) for one in phase["operators"])})
                for phase in found["phases"]
            ),
            float(found["disk"]),
        )


def gathered(operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """The same with calls that are alike as one."""
    found: dict[tuple[str, float, float, int], float] = {}
    for one in operators:
        found[one[:4]] = found.get(one[:4], 0.0) + one.times
    return tuple(Operator(*key, times) for key, times in found.items())
