"""Faint noise, over which an attacker averages whose gradients lead to imperceptible pushes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from midre_exp.seeding import ItemRNG

#: Standard deviation of the noise, of [0, 1]: that of PAA (AlignMI) at 224 px. An own choice for a defense.
SIGMA = 0.06


@dataclass(frozen=True)
class NoiseView:
    """x + ``SIGMA`` e, e from N(0, I) of each image's own stream (``View``)."""

    label: str  # of the defense

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        return images + SIGMA * rng.normal(name, *images.shape[1:], step=step)

    def __repr__(self) -> str:
        return f"{self.label}: noise {SIGMA:g}"
