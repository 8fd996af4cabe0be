"""A defense's own change of training images, as an attacker who knows it makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from midre_exp.seeding import ItemRNG

#: Uniform numbers in [0, 1), [n, count], a row for each image, by what they are for and how many.
Numbers = Callable[[str, int], Tensor]


@dataclass(frozen=True)
class BatchView:
    """A change of images by uniform numbers, each image's from its own stream (``View``)."""

    label: str  # of the defense
    change: Callable[[Tensor, Numbers], Tensor] = field(repr=False)

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        def numbers(purpose: str, count: int) -> Tensor:
            return rng.uniform(f"{name} {purpose}", count, step=step)

        return self.change(images, numbers)

    def __repr__(self) -> str:
        return self.label
