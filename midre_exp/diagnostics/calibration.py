"""Whether a target is as often right as it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.diagnostics.base import Finding, Subject, Work
from midre_exp.diagnostics.intervals import ends, flat, measured, resamples
from midre_exp.plan.ranges import Count, NotEmpty
from midre_exp.targets.predict import predicted_classes


def calibration_error(confidence: Tensor, right: Tensor, bins: int, counts: Tensor) -> Tensor:
    """The expected calibration error [draws], in [0, 1], of images with ``confidence`` [n] in [0, 1] that are
    ``right`` [n] or not, each counted as often as ``counts`` [draws, n] says: over ``bins`` equal bins, (low,
    high], the mean distance of accuracy and confidence, weighted by their images.
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges, right=False) - 1).clamp(0, bins - 1)
    apart = torch.zeros(len(confidence), bins, dtype=torch.float64)
    apart[torch.arange(len(confidence)), place] = right.double() - confidence
    return (counts @ apart).abs().sum(1) / counts.sum(1)


@dataclass(kw_only=True, eq=False)
class Calibration:
    """Expected calibration error over equal bins, negative log likelihood and Brier score on all clean test
    images, of the network itself: what a deployment answers in its place is not asked.

    Few images make the error look larger than it is: fewer bins say by how much, and ``debiased`` takes off
    what resampling adds.
    """

    bins: Annotated[Sequence[Count], NotEmpty()]  # the first is the one of tables

    def __call__(self, subject: Subject) -> Finding:
        logits, labels = subject.logits("test"), subject.test.labels.cpu()
        probabilities = logits.softmax(1)
        confidence, right = probabilities.amax(1), predicted_classes(logits) == labels
        each = torch.ones(1, len(labels), dtype=torch.float64)
        errors: dict[str, Any] = {}
        for bins in self.bins:
            value = float(calibration_error(confidence, right, bins, each))
            drawn = torch.cat(
                [
                    calibration_error(confidence, right, bins, some)
                    for some in resamples(len(labels), "images")
                ]
            )
            errors[str(bins)] = {
                "value": 100 * value,
                **ends(100 * value, 100 * drawn, (0.0, 100.0)),
                "debiased": 100 * max(0.0, 2 * value - float(drawn.mean())),
            }
        nll = F.cross_entropy(logits, labels, reduction="none")
        one_hot = F.one_hot(labels, logits.shape[1]).double()
        told: dict[str, Any] = {
            "images": len(labels),
            "accuracy": measured(right, scale=100),
            "confidence": measured(confidence, scale=100),
            "ece": errors,
            "nll": measured(nll),
            "brier": measured((probabilities - one_hot).square().sum(1)),
        }
        numbers = {**flat("ece", errors[str(self.bins[0])]), **flat("nll", told["nll"])}
        return Finding(told, {**numbers, **flat("brier", told["brier"])})

    def work(self, train: int, test: int) -> Work:
        return Work(test)
