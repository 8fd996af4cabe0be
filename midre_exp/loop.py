"""The optimisation loop of one chunk of an attack: counts steps, draws the progress bar, saves the state of a
killed run, logs its curves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.errors import DivergedError
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Victim
from midre_exp.weights import checkpoint
from midre_exp.weights.checkpointer import Checkpointer, State, snapshot, wait_for_writes
from midre_exp.weights.finite import few, not_numbers

#: Of an attack whose numbers stopped being finite.
REMEDY = "lower attack.lr (of RLB-MI attack.agent.lr) or the weights of its losses"
#: How many values a loop of known length logs of each curve, and every how many steps another does.
_POINTS, _EVERY = 50, 4


class Loop:
    """``for step in loop(steps, state)``: the numbers from 0 to ``steps - 1``, or from where an interrupted
    attempt had got to.

    ``state`` is a dict of tensors that the body replaces or changes in place and that is all it carries from
    one step to the next. It is saved every ``runtime.checkpoint_seconds``, with the number of queries so far,
    and restored before the first step. How a loop ended is saved only by the loop that follows it: after the
    last one the results are. The rows of its tensors are the chunk's items (or what several items of a group
    share), so that an attempt with smaller chunks continues with its part; items that do not all spend the
    same number of queries count theirs so far in a tensor ``queries``.
    """

    start: Tensor | None  #: [n, ...], what ``Attack.initialise`` chose for the items of this chunk, if any
    shared_rng: ItemRNG  #: one stream for all items whatever their chunk, for draws that belong to a step
    runtime: Runtime
    victim: Victim

    def __init__(
        self,
        path: Path,
        title: str,
        runtime: Runtime,
        victim: Victim,
        *,
        start: Tensor | None = None,
        shared_rng: ItemRNG | None = None,
        first_item: int = 0,
    ):
        """``path``: where the state is saved; ``title``: of the progress bar; ``first_item``: the number of
        this chunk's first item, which names its curves.
        """
        self.path, self.title, self.runtime, self.victim = path, title, runtime, victim
        self.queries = victim.queries
        self.start = start
        self.shared_rng = shared_rng or ItemRNG(0, "attack", "common", items=torch.zeros(1, dtype=torch.long))
        self._suffix = f" from item {first_item}" if first_item else ""
        self._previous_steps, self._step, self._is_logged = 0, 0, False
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []
        self._newest: dict[str, Tensor] = {}
        self._ends: list[tuple[Path, State]] = []  # of earlier loops, not saved yet

    def __call__(
        self,
        steps: int | None,
        state: dict[str, Tensor],
        until: Callable[[dict[str, Tensor]], bool] | None = None,
        saved_after: Collection[int] | None = None,
    ) -> Iterator[int]:
        """Iterate. Loops that follow each other in one ``invert`` save files of their own.

        ``steps`` None: without end. ``until`` is called before every step and ends the loop early; breaking
        out would lose the state. ``saved_after``: the numbers of steps after which alone ``state`` is whole;
        None: any.
        """
        checkpoints = Checkpointer(self.path, self.runtime.checkpoint_seconds, self.runtime.clock)
        self.path = self.path.with_name(f"{self.path.name}+")
        done = self._restore(checkpoints, state)
        ended, finished = until(state) if until else False, done
        numbers = itertools.count(done) if steps is None else range(done, steps)
        every = _EVERY if steps is None else max(1, steps // _POINTS)
        with checkpoints:
            for step in self.runtime.bar(() if ended else numbers, self.title, steps, done, self._values):
                self._step, self._is_logged = self._previous_steps + step, step % every == 0
                yield step
                finished = step + 1
                ended = until(state) if until else False
                if ended:
                    break
                is_whole = saved_after is None or finished in saved_after
                if is_whole and finished != steps and checkpoints.due():
                    checkpoints.save(self._kept(finished, state), self._ends)
                    self._ends.clear()
                    self._log()
        if finished > done:
            self._ends.append((checkpoints.path, snapshot(self._kept(finished, state))))
        self._previous_steps += finished
        self._log()

    def save_ends(self) -> None:
        """Save how the loops ended that no other followed: for what comes after them, which failed."""
        wait_for_writes()
        for path, state in self._ends:
            checkpoint.save(path, state)
        self._ends.clear()

    def show(self, **values: Tensor) -> None:
        """Curves of this step, [n] each: their means go to the tracker, about fifty times in a loop.

        They stay on the device until the next checkpoint, so no step waits for them.
        """
        self._newest = {name: value.detach() for name, value in values.items()}
        if self._is_logged:
            means = {name: value.detach().mean() for name, value in values.items()}
            self._waiting.append((self._step, means))

    def _values(self) -> dict[str, float]:
        """The means of what was shown last, read off the device."""
        return {name: float(value.float().mean()) for name, value in self._newest.items()}

    def _restore(self, checkpoints: Checkpointer, state: dict[str, Tensor]) -> int:
        """How many steps an interrupted attempt had done; puts its ``state`` and query count back."""
        saved = checkpoints.load()
        if saved is None:
            return 0
        state.update({name: value.to(self.runtime.device) for name, value in saved["state"].items()})
        self.victim.queries = self.queries + saved["queries"]
        done: int = saved["done"]
        return done

    def _kept(self, done: int, state: dict[str, Tensor]) -> State:
        """What is kept of a loop after ``done`` steps. Raises DivergedError where the state or an answer of
        the victim is no number: what has diverged is not continued from.
        """
        self.victim.check_answers()
        if broken := not_numbers(state):  # an infinity may be a start, as of the lowest loss so far
            raise DivergedError(f"{self.title} diverged before step {done} ({few(broken)} NaN)", REMEDY)
        return {"done": done, "queries": self.victim.queries - self.queries, "state": state}

    def _log(self) -> None:
        for step, values in self._waiting:
            means = {f"{name}{self._suffix}": float(value) for name, value in values.items()}
            if broken := [f"{name} {mean}" for name, mean in means.items() if not math.isfinite(mean)]:
                raise DivergedError(f"{self.title} diverged in step {step} ({few(broken)})", REMEDY)
            self.runtime.tracker.log(means, step)
        self._waiting.clear()


class TrialOver(Exception):
    """The first step of a trial is done."""


class Trial(Loop):
    """A loop that ends everything behind its first step and saves nothing: to see what a step takes."""

    def __call__(
        self,
        steps: int | None,
        state: dict[str, Tensor],
        until: Callable[[dict[str, Tensor]], bool] | None = None,
        saved_after: Collection[int] | None = None,
    ) -> Iterator[int]:
        """Iterate once. Raises TrialOver."""
        if until is None or not until(state):
            yield 0
        raise TrialOver
