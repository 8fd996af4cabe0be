"""Few rounds of every loop, counted as often as they would be done, and what a program cannot do with tensors
that have no content.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import adam, sgd
from torch.utils._pytree import tree_map_only

from midre_exp.cost.count import Counter, number_of
from midre_exp.cost.counted import Operator
from midre_exp.loop import Loop
from midre_exp.memory import batches
from midre_exp.runtime import Runtime
from midre_exp.weights import checkpoint

T = TypeVar("T")

FEW = 2  #: rounds of a loop that are run
_SEARCHED = 100  #: rounds of a search that ends when it has found all


@dataclass(frozen=True)
class SampledRuntime(Runtime):
    """Runs few rounds from the middle of every loop and counts them as all."""

    counter: Counter = field(default_factory=Counter)
    few: int = FEW
    #: Periods of a loop in which some rounds do more: those that are alike are run once.
    rhythms: tuple[int, ...] = ()

    def bar(
        self, steps: Iterable[T], title: str, total: int | None = None, done: int = 0, values: Any = None
    ) -> Iterator[T]:
        """Some of the steps."""
        rounds: Sequence[Any] = steps if isinstance(steps, range) else list(steps)
        for number, stands_for in self._chosen(len(rounds)):
            with self.counter.repeated(stands_for):
                yield rounds[number]

    def _chosen(self, rounds: int) -> list[tuple[int, float]]:
        """Which rounds are run, and for how many each stands."""
        period = max(self.few, math.lcm(*self.rhythms))
        if rounds < period:
            return [(number, 1.0) for number in range(rounds)]
        first = (rounds - period) // 2 // period * period
        if not any(rhythm > 1 for rhythm in self.rhythms):
            return [(first + number, rounds / period) for number in range(period)]
        alike: dict[object, list[int]] = {}
        for number in range(period):
            strikes = tuple((number % each == 0, (number + 1) % each == 0) for each in self.rhythms)
            alike.setdefault(strikes, []).append(first + number)
        return [(numbers[0], len(numbers) * rounds / period) for numbers in alike.values()]


class SampledLoop(Loop):
    """The loop of an attack, sampled, which saves and logs nothing."""

    endless: int = 1  #: rounds of a loop that says no number
    _known: dict[object, tuple[Operator, ...]]

    def __call__(
        self,
        steps: int | None,
        state: dict[str, Tensor],
        until: Callable[[dict[str, Tensor]], bool] | None = None,
        saved_after: Collection[int] | None = None,
    ) -> Iterator[int]:
        """Some of the steps, of each part of a loop that is saved between its parts alone; none of a loop
        like one before, which costs the same.
        """
        assert isinstance(self.runtime, SampledRuntime)
        counter, self._known = self.runtime.counter, getattr(self, "_known", {})
        rounds = self.endless if steps is None else min(steps, _SEARCHED) if until else steps
        kind = rounds, until is None, tuple((name, value.shape) for name, value in state.items())
        if kind in self._known:
            counter.again(self._known[kind])
            return
        if until is not None:
            until(state)  # which may prepare what the steps use
        begin = counter.mark()
        for first, end in itertools.pairwise(sorted({0, rounds, *(saved_after or ())})):
            once = int(bool(saved_after))  # the last of a part, whose end is more work than a step
            yield from self.runtime.bar(range(first, end - once), self.title)
            yield from range(end - once, end)
        self._known[kind] = counter.since(begin)


@contextmanager
def without_content(counter: Counter) -> Iterator[None]:
    """Within, programs get by with tensors that have no content: checkpoints, moves between devices and lists
    of numbers are done without it, all is float32, fused optimisers take such tensors as a GPU's, of equal
    batches one is done and counted as all.
    """
    sampled, own_batches = partial(_in_batches, counter), batches.in_batches
    places: list[tuple[Any, str, Any]] = [
        (checkpoint, "save", lambda *_, **__: None),
        (checkpoint, "load", lambda *_, **__: None),
        (torch.nn.Module, "to", lambda module, *_, **__: module),
        (torch.nn.Module, "cpu", lambda module: module),
        (torch.Tensor, "__deepcopy__", lambda tensor, _: tensor.detach().clone()),
        (torch.Tensor, "tolist", _listed),
        (torch, "is_autocast_enabled", lambda *_: False),
        (torch, "autocast", lambda *_, **__: nullcontext()),
        *((place, "_device_dtype_check_for_fused", lambda *_, **__: None) for place in (adam, sgd)),
        *((place, "in_batches", sampled) for place in _users_of_batches(own_batches)),
    ]
    before = [getattr(place, name) for place, name, _ in places]
    try:
        for place, name, instead in places:
            setattr(place, name, instead)
        yield
    finally:
        for (place, name, _), own in zip(places, before, strict=True):
            setattr(place, name, own)
        for module in _users_of_batches(sampled):  # imported meanwhile
            vars(module)["in_batches"] = own_batches


def _users_of_batches(function: object) -> list[ModuleType]:
    """The modules that work in batches by this function, each of which knows it by itself."""
    return [module for module in list(sys.modules.values()) if vars(module).get("in_batches") is function]


def _in_batches(
    counter: Counter, function: Callable[[slice], T], rows: int, at_once: int | batches.AtOnce, **_: Any
) -> Iterator[T]:
    """``in_batches``, of which the first batch and what is left are done."""
    size = max(1, min(rows, at_once if isinstance(at_once, int) else at_once.rows))
    whole, rest = divmod(rows, size)
    for times, part in ((whole, slice(0, size)), (int(rest > 0), slice(rows - rest, rows))):
        if times:
            with counter.repeated(times):
                made = function(part)
            yield from (tree_map_only(Tensor, torch.empty_like, made) for _ in range(times - 1))
            yield made


def _listed(tensor: Tensor) -> Any:
    """A list of that shape."""
    found: Any = number_of(tensor)
    for length in reversed(tensor.shape):
        found = [found] * length
    return found
