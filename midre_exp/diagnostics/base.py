"""What a diagnostic is shown and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet, to_float
from midre_exp.memory.batches import AtOnce, in_batches
from midre_exp.metrics.base import Unavailable
from midre_exp.seeding import generator
from midre_exp.store.progress import say
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import answers

#: Which images are looked at is drawn by this, not by the seed of a run: all arms are shown the same.
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained target as a white box, in the form that is attacked, without what is only deployed before it.

    ``model``: in eval mode on ``device``, its weights frozen, in single precision. ``train``: the images that
    it was trained on as they are stored, neither augmented nor changed by a defense. ``steady``: what gives,
    of a target that answers at random, a network that is its mean, as who knows the defense has it.
    """

    model: Classifier
    train: ImageSet
    test: ImageSet
    device: torch.device
    steady: Callable[[], Classifier] | None = None
    at_once: AtOnce = field(default_factory=lambda: AtOnce(256))  # images; fewer once memory is short
    _known: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, part: str) -> Tensor:
        """Of all clean images of a part, ``train`` or ``test``: float64 [n, k] on the CPU. Raises
        DivergedError unless they are finite.
        """
        if part not in self._known:
            self._known[part] = answers(self.model, self.part(part), self.device).double()
        return self._known[part]

    def part(self, name: str) -> ImageSet:
        """``train`` or ``test``."""
        return {"train": self.train, "test": self.test}[name]

    def shuffled(self, part: str) -> Tensor:
        """The rows of a part in an order that is the same for every target of the same data."""
        return torch.randperm(len(self.part(part)), generator=generator(_SEED, "diagnostics", part))

    def shown(self, part: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images float [n, 3, h, w] in [0, 1] and labels [n] of some rows, on the device."""
        chosen = self.part(part)
        return to_float(chosen.images[rows].to(self.device)), chosen.labels[rows].to(self.device)

    def over(self, rows: Tensor, look: Callable[[Tensor], Tensor], what: str) -> Tensor:
        """What ``look`` makes of some rows at a time [n, ...], on the CPU."""
        parts = in_batches(lambda part: look(rows[part]).cpu(), len(rows), self.at_once, what=what)
        return torch.cat(list(parts))


class Finding(NamedTuple):
    """What a diagnostic found."""

    told: dict[str, Any]  # for the record: plain values, numbers with ``images`` behind them
    numbers: dict[str, float]  # the chief ones under names of their own, for tables
    alarms: list[str] = []  # sentences: what puts them in doubt; never written


class Work(NamedTuple):
    """How much a diagnostic asks of a target, for estimates, in images."""

    looks: float  # answers alone
    gradients: float = 0.0  # answers, and gradients with respect to the image


class Diagnostic(Protocol):
    """Built by ``_target_`` from ``conf/diagnostics`` and called once per target."""

    def __call__(self, subject: Subject) -> Finding:
        """Raises Unavailable where it cannot be computed; the reason is stored in place of a number."""
        ...

    def work(self, train: int, test: int) -> Work:
        """At most, with so many images to train and to test on."""
        ...


class Findings(NamedTuple):
    """What all of them found."""

    told: dict[str, Any]  # by the name of the diagnostic
    numbers: dict[str, float]
    missing: dict[str, str]  # why one has no number
    alarms: list[str]


def diagnose(subject: Subject, diagnostics: Mapping[str, Diagnostic]) -> Findings:
    """All ``diagnostics`` of a target."""
    found = Findings({}, {}, {}, [])
    for name, diagnostic in diagnostics.items():
        say(f"diagnostics: {name}")
        try:
            finding = diagnostic(subject)
        except Unavailable as reason:
            found.missing[name] = str(reason)
            continue
        found.told[name] = finding.told
        found.numbers.update(finding.numbers)
        found.alarms.extend(f"{name}: {sentence}" for sentence in finding.alarms)
        lost = [key for key, value in finding.numbers.items() if not math.isfinite(value)]
        if lost:
            raise AssertionError(f"{name} gave {', '.join(lost)} that are no finite numbers")
    return found
