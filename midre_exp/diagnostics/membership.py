"""Whether a target tells which images it was trained on: by their loss alone (Yeom et al. 2018), and against
shadow models of its own kind (LiRA, Carlini et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.diagnostics.base import Finding, Subject, Work
from midre_exp.diagnostics.intervals import at_once, ends, flat, resamples
from midre_exp.plan.ranges import Range

#: Least others behind a rate of false positives: ten of them would be above its threshold.
_TEN = 10
_TINY = 1e-45  # inside logarithms, as released
_WIDTH = 1e-30  # added to every deviation, as released


class _Curve(NamedTuple):
    """Where the scores of members and others lie among all, the largest first; equal ones share a place."""

    place: Tensor  # int64 [m + n], members first
    places: int
    members: int

    @classmethod
    def of(cls, members: Tensor, others: Tensor) -> _Curve:
        values, place = torch.cat([members, others]).double().neg().unique(return_inverse=True)
        return cls(place, len(values), len(members))

    def rates(self, members: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """True and false positive rates at every threshold, none first, [draws, places + 1], where each image
        counts as often as [draws, m] and [draws, n] say.
        """
        return self._share(members, slice(self.members)), self._share(others, slice(self.members, None))

    def _share(self, counts: Tensor, which: slice) -> Tensor:
        found = torch.zeros(len(counts), self.places + 1, dtype=torch.float64)
        found.scatter_add_(1, 1 + self.place[which].expand(len(counts), -1), counts)
        return found.cumsum(1) / counts.sum(1, keepdim=True)


def inference(members: Tensor, others: Tensor, rates: Sequence[float]) -> dict[str, Any]:
    """How well scores, larger for members, tell ``members`` [m] from ``others`` [n], in percent with
    intervals: ``auc``, P(member above other) + P(equal) / 2, ``advantage``, the largest true minus false
    positive rate, and ``tpr@RATE``, the true positive rate at those false positive ``rates`` behind which
    there are ten others or more.
    """
    curve = _Curve.of(members, others)
    enough = [rate for rate in rates if rate * len(others) >= _TEN]

    def of(some: Tensor, rest: Tensor) -> dict[str, Tensor]:
        true, false = curve.rates(some, rest)
        found = {"auc": torch.trapezoid(true, false), "advantage": (true - false).amax(1)}
        for rate in enough:
            found[f"tpr@{rate:g}"] = torch.where(false <= rate + 1e-12, true, 0.0).amax(1)
        return {name: 100 * value for name, value in found.items()}

    whole = of(*(torch.ones(1, len(each), dtype=torch.float64) for each in (members, others)))
    rows = at_once(len(members) + len(others))
    drawn = [
        of(some, rest)
        for some, rest in zip(
            resamples(len(members), "members", rows=rows),
            resamples(len(others), "others", rows=rows),
            strict=True,
        )
    ]
    found: dict[str, Any] = {"members": len(members), "others": len(others)}
    for name, value in whole.items():
        every = torch.cat([each[name] for each in drawn])
        # the largest of many noisy differences: resampling moves it up
        limits = (0.0, 100.0) if name == "advantage" else None
        found[name] = {"value": float(value), **ends(float(value), every, limits)}
    few = [rate for rate in rates if rate not in enough]
    if few:
        found["missing"] = {
            f"tpr@{rate:g}": f"{100 * rate:g} % of {len(others)} others are fewer than {_TEN} images"
            for rate in few
        }
    return found


def rates_below(threshold: float, members: Tensor, others: Tensor) -> tuple[float, float]:
    """The shares of losses [m] and [n] below a threshold: true and false positive rate."""
    true, false = (float((losses.double() < threshold).double().mean()) for losses in (members, others))
    return true, false


@dataclass(kw_only=True, eq=False)
class MembershipInference:
    """The loss threshold: members are all training images as they are stored, others all test images, of the
    same people, both clean. Nothing learned: it costs one look at each image, and a target that a defense
    trained on changed images was never shown quite these members, which lowers it.
    """

    rates: Sequence[Annotated[float, Range(0, 1, open_low=True, open_high=True)]]  # of false positives

    def __call__(self, subject: Subject) -> Finding:
        members, others = (
            F.cross_entropy(subject.logits(part), subject.part(part).labels.cpu(), reduction="none")
            for part in ("train", "test")
        )
        told = inference(-members, -others, self.rates)
        true, false = rates_below(float(members.mean()), members, others)
        told["balanced_accuracy"] = 50 + told["advantage"]["value"] / 2
        told["at_mean_train_loss"] = {
            "threshold": float(members.mean()),
            "true_positive": 100 * true,
            "false_positive": 100 * false,
        }
        numbers = {**flat("mia_auc", told["auc"]), **flat("mia_advantage", told["advantage"])}
        return Finding(told, numbers)

    def work(self, train: int, test: int) -> Work:
        return Work(train + test)


# LiRA


def lira_statistic(logits: Tensor, labels: Tensor) -> Tensor:
    """LiRA's log p_y - log(sum of the other probabilities), float64 [n], of logits [n, k]."""
    shares = (logits.double() - logits.double().amax(1, keepdim=True)).exp()
    shares = shares / shares.sum(1, keepdim=True)
    own = shares.gather(1, labels[:, None]).squeeze(1)
    others = shares.scatter(1, labels[:, None], 0.0).sum(1)
    return (own + _TINY).log() - (others + _TINY).log()


def lira(
    kept: Tensor, scores: Tensor, target: Tensor, *, offline: bool = False, fix_variance: bool = True
) -> Tensor:
    """How unlikely each image's ``target`` statistic [n] is for a member: smaller is more likely one, [n].

    ``scores`` [models, n]: the statistics of shadow models, ``kept`` bool [models, n]: whether each was
    trained on the image. ``offline``: by the models that were not alone. ``fix_variance``: one deviation for
    all images, needed with fewer than 32 shadows; the released code takes that of the models with the image
    for both sides. Every image must have models on the sides that are used.
    """
    outside = _sided(scores, ~kept)
    middle_out = _median(outside)
    if offline:
        width = outside.std(correction=0) if fix_variance else outside.std(0, correction=0)
        return _log_normal(target, middle_out, width)
    inside = _sided(scores, kept)
    if fix_variance:
        width_in = width_out = inside.std(correction=0)
    else:
        width_in, width_out = inside.std(0, correction=0), outside.std(0, correction=0)
    return _log_normal(target, middle_out, width_out) - _log_normal(target, _median(inside), width_in)


def _sided(scores: Tensor, which: Tensor) -> Tensor:
    """The scores of one side, as many of each image as the one with the fewest has, first models first:
    [models of that side, n].
    """
    size = int(which.sum(0).min())
    order = which.long().sort(dim=0, descending=True, stable=True).indices[:size]
    return scores.double().gather(0, order)


def _median(values: Tensor) -> Tensor:
    return values.quantile(0.5, dim=0)


def _log_normal(x: Tensor, middle: Tensor, width: Tensor) -> Tensor:
    width = width + _WIDTH
    return -((x.double() - middle) ** 2) / (2 * width**2) - width.log() - math.log(2 * math.pi) / 2
