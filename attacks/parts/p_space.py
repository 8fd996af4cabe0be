"""Constraints on codes w of a style generator: MIRROR's box in P-space (An et al. 2022) and alternatives.

P-space is w before the last activation of the mapping network, LeakyReLU(0.2). There codes are nearly normal,
which in w they are not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative


def to_p(codes: Tensor) -> Tensor:
    """P-space of w: LeakyReLU with slope 5. StyleGAN2 scales its activations by sqrt 2, and this p as well,
    which no box sees.
    """
    return F.leaky_relu(codes, 5.0)


def from_p(points: Tensor) -> Tensor:
    """The codes w of points in P-space: LeakyReLU with slope 0.2, the inverse of ``to_p``."""
    return F.leaky_relu(points, 0.2)


class Constraint:
    """Where codes may be: here, anywhere."""

    def clip(self, codes: Tensor) -> Tensor:
        """The nearest codes inside, of codes [..., w_dim]."""
        return codes

    def energy(self, codes: Tensor) -> Tensor | None:
        """What the loss of each code is raised by, [n] of codes [n, w_dim]; None for nothing."""
        return None


@dataclass(frozen=True)
class BoxConstraint(Constraint):
    """All codes between ``low`` and ``high``, each [w_dim] or a number's tensor []."""

    low: Tensor
    high: Tensor

    def clip(self, codes: Tensor) -> Tensor:
        """Each coordinate to its interval."""
        return codes.clamp(self.low, self.high)


@dataclass(frozen=True)
class MahalanobisPenalty(Constraint):
    """No bounds: ``weight`` times the squared Mahalanobis distance of p from ``mean`` [w_dim], with
    ``precision`` [w_dim, w_dim].
    """

    mean: Tensor
    precision: Tensor
    weight: float

    def energy(self, codes: Tensor) -> Tensor:
        """Of each code, weight * (p - mean)^T precision (p - mean), [n]."""
        apart = to_p(codes) - self.mean
        return self.weight * ((apart @ self.precision) * apart).sum(1)


@dataclass(kw_only=True, eq=False)
class ConstraintEstimator(ABC):
    """How the constraint follows from sampled codes; a choice of ``attack.bounds``."""

    size: NonNegative  # of a meaning of each estimator's own, >= 0

    def __post_init__(self) -> None:
        if not self.size >= 0:
            raise ConfigError(f"attack.bounds.size={self.size} must be at least 0; 0 is off")

    @abstractmethod
    def estimate(self, codes: Tensor) -> Constraint:
        """The constraint by ``codes`` [N, w_dim], not truncated."""


class PSpaceBox(ConstraintEstimator):
    """m - c s to m + c s in P-space (the method's): mean m and population standard deviation s of each
    coordinate; ``size`` c, 0: no bounds at all, as in the official code.
    """

    def estimate(self, codes: Tensor) -> Constraint:
        if self.size == 0:
            return Constraint()
        low, high = _around_mean(to_p(codes), self.size)
        return BoxConstraint(from_p(low), from_p(high))


class NormalBox(ConstraintEstimator):
    """m - c s to m + c s of each coordinate of w itself; ``size`` c, 0: no bounds."""

    def estimate(self, codes: Tensor) -> Constraint:
        return BoxConstraint(*_around_mean(codes, self.size)) if self.size else Constraint()


class NaiveBox(ConstraintEstimator):
    """-``size`` to ``size`` in every coordinate of w, whatever the codes are; above 0."""

    def __post_init__(self) -> None:
        if not self.size > 0:
            raise ConfigError(f"attack.bounds.size={self.size} must be above 0")

    def estimate(self, codes: Tensor) -> Constraint:
        return BoxConstraint(codes.new_tensor(-self.size), codes.new_tensor(self.size))


class PercentileBox(ConstraintEstimator):
    """The interval of each coordinate of w that the central ``size`` percent of the codes lie in, by linear
    interpolation between codes; above 0, up to 100.
    """

    def __post_init__(self) -> None:
        if not 0 < self.size <= 100:
            raise ConfigError(f"attack.bounds.size={self.size} is no percentage above 0")

    def estimate(self, codes: Tensor) -> Constraint:
        ordered = codes.sort(0).values  # torch.quantile refuses as many numbers as 100,000 codes have
        ends = []
        for share in (0.5 - self.size / 200, 0.5 + self.size / 200):
            place = share * (len(codes) - 1)
            below = int(place)
            above = min(below + 1, len(codes) - 1)
            ends.append(torch.lerp(ordered[below], ordered[above], place - below))
        return BoxConstraint(*ends)


class Energy(ConstraintEstimator):
    """No bounds; the loss grows by ``size`` times the Mahalanobis form of p with the inverse (population)
    covariance of the codes' (official: 1e-4).
    """

    def estimate(self, codes: Tensor) -> Constraint:
        """Raises ConfigError when the covariance of the codes has no inverse."""
        points = to_p(codes).double()  # a covariance loses half the digits of its numbers
        precision, failed = torch.linalg.inv_ex(
            torch.cov(points.T, correction=0).reshape(points.shape[1], -1)
        )
        if len(codes) <= points.shape[1] or failed.item():
            raise ConfigError(
                f"attack.bounds: the covariance of {len(codes)} codes with {points.shape[1]} coordinates has "
                "no inverse; raise attack.search.size"
            )
        return MahalanobisPenalty(points.mean(0).float(), precision.float(), self.size)


def spread(codes: Tensor) -> Tensor:
    """The population standard deviation of each coordinate in P-space, [w_dim] of codes [N, w_dim]."""
    return to_p(codes).std(0, correction=0)


def _around_mean(points: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    mean, reach = points.mean(0), factor * points.std(0, correction=0)
    return mean - reach, mean + reach
