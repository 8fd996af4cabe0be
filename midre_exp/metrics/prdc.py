"""Precision, recall, density and coverage: how far reconstructions and private images of an identity fill the
same space of features.

Around every private image and every reconstruction lies a ball that reaches to its k-th nearest fellow.
Textbook: Kynkäänniemi et al. 2019 (precision, recall) and Naeem et al. 2020 (density, coverage). PPA's code
differs in two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.grouping import distances, rows_of, together
from midre_exp.metrics.inception import InceptionFeatures
from midre_exp.plan.ranges import Count

NAMES = ("precision", "recall", "density", "coverage")


def precision_recall_density_coverage(
    features: Tensor, labels: Tensor, private: Tensor, private_labels: Tensor, *, k: int = 3
) -> tuple[dict[str, float], dict[str, float]]:
    """The four numbers, means over the identities in ``labels``: by the textbook, and as PPA's code computes
    them. Shares in [0, 1], except densities, which may exceed 1.

    ``features`` [n, d] of reconstructions with ``labels`` int64 [n], ``private`` [m, d] with
    ``private_labels`` int64 [m]; ``k``: the neighbour that gives the radius. Raises Unavailable with k or
    fewer images of an identity and for features that are not finite.
    """
    classes = labels.unique()
    fakes, is_fake = rows_of(labels, classes)
    reals, is_real = rows_of(private_labels, classes)
    _require_images(labels, private_labels, k)
    if not bool(features.isfinite().all() and private.isfinite().all()):
        raise Unavailable("some features are not finite")
    parts = [
        _of_each_identity(
            private[reals[part]].double(), features[fakes[part]].double(), is_real[part], is_fake[part], k=k
        )
        for part in together(reals, fakes, features.shape[1])
    ]
    textbook, published = (
        {name: float(torch.cat([part[form][name] for part in parts]).mean()) for name in NAMES}
        for form in (0, 1)
    )
    return textbook, published


def _require_images(labels: Tensor, private_labels: Tensor, k: int) -> None:
    """Raise Unavailable unless every identity in ``labels`` has more than ``k`` images on either side."""
    classes = labels.unique()
    for given, what in ((labels, "reconstructions"), (private_labels, "private training images")):
        fewest = int(rows_of(given, classes)[1].sum(1).min())
        if fewest <= k:
            raise Unavailable(f"k={k} needs {k + 1} {what} of every identity, one has {fewest}; lower k")


def _of_each_identity(
    real: Tensor, fake: Tensor, is_real: Tensor, is_fake: Tensor, *, k: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The four numbers of each identity [c], textbook and as in PPA's code, of features real [c, r, d] and
    fake [c, f, d].

    ``is_real`` bool [c, r] and ``is_fake`` [c, f] tell features from filling; more than ``k`` of either in
    every row. Textbook: precision, the share of fakes inside the ball of any real; recall, the share of reals
    inside that of any fake; density, how many reals' balls hold a fake, mean over fakes, / k; coverage, the
    share of reals whose ball holds a fake. PPA: precision and recall ask only whether the nearest real (fake)
    holds it; density is how many fakes a real's ball holds, mean over reals, / k.
    """
    across = distances(real, fake)
    both = is_real[:, :, None] & is_fake[:, None, :]
    across = across.masked_fill(~both, torch.inf)
    radius_real, radius_fake = _radii(real, is_real, k), _radii(fake, is_fake, k)
    in_real = (across < radius_real[:, :, None]) & both  # the ball of real i holds fake j
    in_fake = (across < radius_fake[:, None, :]) & both
    reals, fakes = is_real.sum(1).double(), is_fake.sum(1).double()
    held = in_real.sum((1, 2)).double()
    coverage = in_real.any(2).sum(1) / reals
    textbook = {
        "precision": in_real.any(1).sum(1) / fakes,
        "recall": in_fake.any(2).sum(1) / reals,
        "density": held / (k * fakes),
        "coverage": coverage,
    }
    by_nearest_real = in_real.gather(1, across.argmin(1, keepdim=True)).sum((1, 2))
    by_nearest_fake = in_fake.gather(2, across.argmin(2, keepdim=True)).sum((1, 2))
    published = {
        "precision": by_nearest_real / fakes,
        "recall": by_nearest_fake / reals,
        "density": held / (k * reals),
        "coverage": coverage,
    }
    return textbook, published


def _radii(features: Tensor, known: Tensor, k: int) -> Tensor:
    """Distance [c, n] of each of the features [c, n, d] to the k-th nearest other one of its row; filling
    lies infinitely far.
    """
    apart = distances(features, features).masked_fill(~known[:, None, :], torch.inf)
    return apart.kthvalue(k + 1, dim=2).values  # the nearest is the image itself


@dataclass(kw_only=True, eq=False)
class Prdc:
    """``precision``, ``recall``, ``density`` and ``coverage`` by the textbook and, with the ending ``_ppa``,
    as PPA's code computes them.

    PPA's code takes classes 0, 1 and 2 alone where the targets are "all", and compares whole sets for class
    0, because it takes zero for no class. This is not repeated: every attacked identity counts, with its own
    images.
    """

    k: Count  # the neighbour that gives the radius (PPA: 3)
    features: Literal["inception", "evaluator"]  # whose; names of the evaluator's end in _evaluator besides
    weights: str | None = None  # of inception, as of Fid
    official_range: bool = False  # of inception, as of Fid

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"metrics: Prdc k={self.k} must be at least 1; 3 is PPA's value")
        if self.features not in ("inception", "evaluator"):
            raise ConfigError(
                f"metrics: Prdc features={self.features} is unknown; use inception or evaluator"
            )
        self.inception = InceptionFeatures(weights=self.weights, official_range=self.official_range)

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The eight means. Raises Unavailable without weights, and as
        ``precision_recall_density_coverage``.
        """
        if self.features == "evaluator":
            (fake, real), ending = evaluation.feature_sets(), "_evaluator"
        else:
            self.inception.check("metrics.measure.prdc.weights")
            _require_images(
                evaluation.labels, evaluation.private_labels, self.k
            )  # before a network is shown anything
            fake, real = self.inception.fake(evaluation, None), self.inception.private(evaluation)
            ending = ""
        forms = precision_recall_density_coverage(
            fake, evaluation.labels, real, evaluation.private_labels, k=self.k
        )
        return {
            f"{name}{form}{ending}": value
            for form, values in zip(("", "_ppa"), forms, strict=True)
            for name, value in values.items()
        }
