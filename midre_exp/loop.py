"""The optimisation loop of one chunk of an attack: counts steps, draws the bar, keeps the state of a killed
run, shows how it goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import AnyVictim
from midre_exp.weights import checkpoint

#: How often a loop of known length hands a number to the tracker.
_POINTS = 50


class Loop:
    """``for step in loop(steps, state)``: the numbers from 0 to ``steps - 1``, or from where an interrupted
    attempt had got to.

    ``state`` is a dict of tensors that the body replaces or changes in place and that is all it carries from
    one step to the next. It is written every ``runtime.checkpoint_every`` steps, with the number of queries
    so far, and restored before the first step.

    ``start`` [n, ...]: what ``Attack.initialise`` chose for the items of this chunk, if anything. ``common``:
    one stream that all items of the attack share, whatever their chunk, for draws that belong to a step and
    not to an item. ``first_item``: the number of this chunk's first.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        runtime: Runtime,
        victim: AnyVictim,
        *,
        start: Tensor | None = None,
        common: ItemRNG | None = None,
        first_item: int = 0,
    ):
        self.path, self.title, self.runtime, self.victim = path, title, runtime, victim
        self.queries = victim.queries
        self.start = start
        self._ending = f" from item {first_item}" if first_item else ""  # a curve for each chunk
        self._before, self._step, self._is_shown = 0, 0, False
        self._shown: list[tuple[int, dict[str, Tensor]]] = []
        self.common = common or ItemRNG(0, "attack", "common", items=torch.zeros(1, dtype=torch.long))

    def __call__(
        self,
        steps: int | None,
        state: dict[str, Tensor],
        until: Callable[[dict[str, Tensor]], bool] | None = None,
    ) -> Iterator[int]:
        """Iterate. Loops that follow each other in one ``invert`` keep files of their own.

        ``steps`` None: without end. ``until`` is asked before every step and ends the loop early; breaking
        out would lose the state.
        """
        path, self.path = self.path, self.path.with_name(f"{self.path.name}+")
        saved, done = checkpoint.load(path), 0
        if saved is not None:
            done = saved["done"]
            state.update({name: value.to(self.runtime.device) for name, value in saved["state"].items()})
            self.victim.queries = self.queries + saved["queries"]
        ended, finished = until(state) if until else False, done
        numbers = itertools.count(done) if steps is None else range(done, steps)
        every = max(1, (steps or self.runtime.checkpoint_every) // _POINTS)
        for step in self.runtime.bar(() if ended else numbers, self.title, total=steps, done=done):
            self._step, self._is_shown = self._before + step, step % every == 0
            yield step
            finished = step + 1
            ended = until(state) if until else False
            if finished % self.runtime.checkpoint_every == 0 or finished == steps or ended:
                spent = self.victim.queries - self.queries
                kept = {name: value.detach().cpu() for name, value in state.items()}
                checkpoint.save(path, {"done": finished, "queries": spent, "state": kept})
                self._hand_on()
            if ended:
                break
        self._before += finished
        self._hand_on()

    def show(self, **values: Tensor) -> None:
        """Numbers of this step for whoever watches, [n] each: their means go to the tracker, about fifty
        times in a loop.

        They stay on the device until the next checkpoint, so no step waits for them.
        """
        if self._is_shown:
            self._shown.append((self._step, {name: value.detach().mean() for name, value in values.items()}))

    def _hand_on(self) -> None:
        for step, values in self._shown:
            told = {f"{name}{self._ending}": float(value) for name, value in values.items()}
            self.runtime.tracker.log(told, step)
        self._shown.clear()
