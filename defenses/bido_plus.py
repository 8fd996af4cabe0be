"""BiDO+: BiDO that also learns what other people look like, so that it knows whom it does not know (TPAMI
2025).

It repairs how badly BiDO tells unknown people from known ones; against inversion it adds nothing of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from defenses.base import Batch, Classify, Informed, Trained, TrainingProgress
from defenses.parts.dependence import DependenceLosses
from defenses.parts.options import check_choice
from midre_exp.data.base import ImageSet, to_float
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.plan.ranges import Count, NonNegative, Positive, Probability
from midre_exp.seeding import moved
from midre_exp.store.progress import say
from midre_exp.targets.base import Classifier, Output

STRATEGIES = ("confidence", "energy")
_RELEASED = {"confidence": 1e-3, "energy": 0.1}  # weight of the term by strategy
_RECALL = 0.95  # of known people, at which the share of unknown ones is told that pass for known


def entropies(logits: Tensor) -> Tensor:
    """Entropy of the softmax of each row of ``logits`` [n, k] in nats, [n]."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def energies(logits: Tensor) -> Tensor:
    """Minus the log of the summed exponentials of each row of ``logits`` [n, k], [n]: low where known."""
    return -logits.logsumexp(1)


def energy_hinges(known: Tensor, unknown: Tensor, margins: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squares by which energies of known images [n] lie above their margin, and those of unknown ones
    [m] below theirs, added.
    """
    above, below = (known - margins[0]).relu(), (margins[1] - unknown).relu()
    return above.square().mean() + below.square().mean()


def separation(known: Tensor, unknown: Tensor) -> tuple[float, float]:
    """How well scores tell known images [n] from unknown ones [m], known ones being higher: the area under
    the ROC curve, and the share of unknown ones at least as high as the score that 95 % of the known ones
    reach.
    """
    known, unknown = known.double(), unknown.double().sort().values
    below = torch.searchsorted(unknown, known)
    ties = torch.searchsorted(unknown, known, right=True) - below
    area = (below + ties / 2).mean() / len(unknown)
    threshold = known.sort().values[len(known) - math.ceil(_RECALL * len(known))]
    return float(area), float((unknown >= threshold).double().mean())


class Margins(nn.Module):
    """Mean energies of known and unknown images over an epoch, without its last batch: those of the batches
    before the latest, as released.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in ("known", "unknown"):
            self.register_buffer(name, torch.zeros(()))  # the margin
            self.register_buffer(f"{name}_sum", torch.zeros(()))
            self.register_buffer(f"{name}_count", torch.zeros(()))

    def add(self, **found: Tensor) -> None:
        """The energies of one batch, by name."""
        for name, energy in found.items():
            total, count = self.get_buffer(f"{name}_sum"), self.get_buffer(f"{name}_count")
            self.get_buffer(name).copy_(total / count.clamp(min=1))
            total.add_(energy.detach().sum())
            count.add_(len(energy))

    def both(self) -> tuple[Tensor, Tensor]:
        """The margin of known images, and of unknown ones."""
        return self.get_buffer("known"), self.get_buffer("unknown")


@dataclass(kw_only=True, eq=False)
class BiDOPlus(DependenceLosses):
    """BiDO's loss - w sum_o H(f(o)) over outliers o, images of other people (``confidence``), or + w [mean
    relu(E(x) - m_in)^2 + mean relu(m_out - E(o))^2] with E = -logsumexp (``energy``); options of ``BiDO``.

    BiDO+ (TPAMI 2025). Outliers have a pass of their own, so that no batch norm mixes them with private
    images in the training mode, and run through no augmentation.
    """

    name: ClassVar[str] = "bido_plus"
    conflicts: ClassVar[Mapping[str, str]] = {
        "TrapMID": "bido_plus compares the images of batches it chooses, and half of each forward would be "
        "triggered"
    }

    strategy: str  # confidence: outliers get unsure answers | energy: and private images low energy
    outlier_weight: NonNegative  # w; 0 is BiDO, and no outlier is passed
    outliers: Positive  # of a step, as a share of the images of its batch
    start: Probability  # share of the epochs after which the term begins
    other_people: Count | None  # outliers show the first so many other people; null: all but the tested ones
    tested: Probability  # share of the other people, the last, who are shown after training alone

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(f"{self.name}.strategy", self.strategy, STRATEGIES)
        self._people: ImageSet | None = None
        self._rows = torch.empty(0, dtype=torch.int64)
        self._margins: Margins | None = None

    @property
    def label(self) -> str:
        kind = "" if self.strategy == "confidence" else " energy"
        return f"BiDO+{kind} [{self.lambda_x:g}, {self.lambda_y:g}]"

    def check_execution(self, *, numerics: Numerics, devices: int) -> None:
        if devices > 1 and self.outlier_weight:
            raise ConfigError(
                f"defense.{self.name} passes outliers on one device and runtime.devices={devices}; use "
                " runtime.devices=1"
            )

    def on_other_people(self, people: ImageSet, *, seed: int) -> None:
        known = people.labels.cpu().unique()
        wanted = self.other_people if self.other_people is not None else len(known) - self._tested(len(known))
        if not 1 <= wanted <= len(known) - self._tested(len(known)):
            raise ConfigError(
                f"defense.{self.name}.other_people={self.other_people} and tested={self.tested:g} need more "
                f"than the {len(known)} other people there are; lower them"
            )
        self._people, self._rows = people, _rows_of(people, known[:wanted])
        if self.strategy == "energy" and self.outlier_weight == _RELEASED["confidence"]:
            say(
                f"defense.{self.name}.strategy=energy has outlier_weight={self.outlier_weight:g}, which is "
                f"released for confidence; for energy it is {_RELEASED['energy']:g}"
            )

    def _tested(self, people: int) -> int:
        return max(1, round(self.tested * people)) if self.tested else 0

    def state(self, model: Classifier) -> nn.Module | None:
        """The margins of energies, which one epoch measures."""
        self._margins = Margins() if self.strategy == "energy" and self.outlier_weight else None
        return self._margins

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """BiDO's terms and, from ``start`` on, ``outliers``."""
        terms = dict(super().extra_losses(output, batch, progress, classify=classify, generator=generator))
        first, by_energy = math.ceil(round(self.start * progress.epochs, 9)), self.strategy == "energy"
        if not self.outlier_weight or progress.epoch < first - by_energy:
            return terms
        outliers = self._drawn(len(batch.labels), generator, batch.images.device)
        if not by_energy:
            terms["outliers"] = -self.outlier_weight * entropies(classify(outliers).logits).sum()
            return terms
        margins = self._margins
        assert margins is not None  # made before the first step
        if progress.epoch < first:
            with torch.no_grad():
                unknown = energies(classify(outliers).logits)
            margins.add(known=energies(output.logits), unknown=unknown)
        else:
            known, unknown = energies(output.logits), energies(classify(outliers).logits)
            terms["outliers"] = self.outlier_weight * energy_hinges(known, unknown, margins.both())
        return terms

    def _drawn(self, images: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """Random outliers for a batch of ``images``, float [m, 3, h, w] in [0, 1] on ``device``."""
        if self._people is None:
            raise ConfigError(f"defense.{self.name} needs images of other people, and has none (data.others)")
        count = max(2, round(self.outliers * images))
        rows = self._rows[torch.randperm(len(self._rows), generator=generator)[:count]]
        store = self._people.images
        shown = store[moved(rows, store.device)]
        return to_float(shown if shown.device == device else moved(shown, device))

    def summary(self, trained: Trained) -> Mapping[str, Any]:
        """How well the network tells private test images from those of people it never saw: by its largest
        probability and by its energy. Percent.
        """
        if self._people is None or not self.tested:
            return {}
        labels = self._people.labels.cpu()
        known = labels.unique()
        people = known[len(known) - self._tested(len(known)) :]
        rows = _rows_of(self._people, people)
        images = self._people.images[rows.to(self._people.images.device)]
        unknown = trained.answers(ImageSet(images, labels[rows], self._people.classes))
        private = trained.answers(trained.test)
        found: dict[str, Any] = {"tested_people": len(people), "tested_images": len(rows)}
        for name, score in (
            ("probability", lambda logits: logits.softmax(1).amax(1)),
            ("energy", lambda logits: -energies(logits)),
        ):
            area, passed = separation(score(private.double()), score(unknown.double()))
            found[name] = {"auroc": 100 * area, "fpr95": 100 * passed}
        return found

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="as of BiDO, and that answers to other people are unsure does not hide gradients either"
        )


def _rows_of(people: ImageSet, some: Tensor) -> Tensor:
    """The rows of the images of some people, int64 on the CPU."""
    return torch.isin(people.labels.cpu(), some).nonzero().flatten()
