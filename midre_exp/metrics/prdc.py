"""Precision, recall, density and coverage: how far reconstructions and private images of an identity fill the
same space of features.

Around every private image and every reconstruction lies a ball that reaches to its k-th nearest fellow.
Textbook: Kynkäänniemi et al. 2019 (precision, recall) and Naeem et al. 2020 (density, coverage). PPA's code
differs in two of them, see ``prdc``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.grouping import distances, rows_of, together
from midre_exp.metrics.inception import InceptionFeatures

NAMES = ("precision", "recall", "density", "coverage")


def prdc(
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


class Prdc:
    """``precision``, ``recall``, ``density`` and ``coverage`` by the textbook and, with the ending ``_ppa``,
    as PPA's code computes them: of each attacked identity, then their mean. Shares in [0, 1], except
    densities, which may exceed 1.

    ``k``: the neighbour that gives the radius, 3 in PPA. ``features``: ``inception`` (``weights`` and
    ``official_range`` as of ``Fid``) or ``evaluator``, the evaluator's own, whose numbers end in
    ``_evaluator`` besides. PPA's code takes classes 0, 1 and 2 alone where the targets are "all", and
    compares whole sets for class 0, because it takes zero for no class. This is not repeated: every attacked
    identity counts, with its own images.
    """

    def __init__(
        self,
        *,
        k: int,
        features: Literal["inception", "evaluator"],
        weights: str | None = None,
        official_range: bool = False,
    ):
        if k < 1:
            raise ConfigError(f"metrics: Prdc k={k} must be at least 1; 3 is PPA's value")
        if features not in ("inception", "evaluator"):
            raise ConfigError(f"metrics: Prdc features={features} is unknown; use inception or evaluator")
        self.k = k
        self.features = features
        self.inception = InceptionFeatures(weights=weights, official_range=official_range)

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The eight means. Raises Unavailable without weights, with k or fewer images of an identity, and for
        broken features.
        """
        if self.features == "inception":
            self.inception.check("metrics.measure.prdc.weights")
        classes = seen.labels.unique()
        fakes, is_fake = rows_of(seen.labels, classes)
        reals, is_real = rows_of(seen.private_labels, classes)
        for found, what in ((is_fake, "reconstructions"), (is_real, "private training images")):
            fewest = int(found.sum(1).min())
            if fewest <= self.k:
                raise Unavailable(
                    f"k={self.k} needs {self.k + 1} {what} of every identity, one has {fewest}; lower k"
                )
        fake, real = self._seen_by_network(seen)
        if not bool(fake.isfinite().all() and real.isfinite().all()):
            raise Unavailable("some features are not finite")
        parts = [
            prdc(
                real[reals[part]].double(),
                fake[fakes[part]].double(),
                is_real[part],
                is_fake[part],
                k=self.k,
            )
            for part in together(reals, fakes, fake.shape[1])
        ]
        ending = "_evaluator" if self.features == "evaluator" else ""
        return {
            f"{name}{form}{ending}": float(torch.cat([part[which][name] for part in parts]).mean())
            for which, form in enumerate(("", "_ppa"))
            for name in NAMES
        }

    def _seen_by_network(self, seen: Evaluation) -> tuple[Tensor, Tensor]:
        """Features [n, d] of the reconstructions and [m, d] of the private images."""
        if self.features == "evaluator":
            return seen.features, seen.private_features
        return self.inception.fake(seen, None), self.inception.private(seen)
