"""Blocks: MIDRE's share of every training image, in patches of a grid (hide-and-seek, Singh and Lee 2017). A
difference between the two is due to one part of a face being gone, or many small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from defenses.parts.erasing import Erasing
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NotEmpty, Range

#: Side of a patch as a share of the image's shorter side.
PatchSide = Annotated[float, Range(0, 0.5, open_low=True)]


def hidden_patches(size: tuple[int, int], side: Tensor, numbers: Tensor, probability: Tensor) -> Tensor:
    """Which pixels of images of ``size`` (height, width) lie in hidden patches: bool [n, 1, h, w].

    The grid of patches of ``side`` pixels (int64 [n]) begins in the upper left corner; its last row and
    column may be cut. A patch is hidden where its number is at most ``probability`` [n]: ``numbers`` [n, at
    least as many as patches], uniform in [0, 1), row by row.
    """
    rows, columns = (torch.arange(length, device=side.device) // side[:, None] for length in size)
    of_a_row = (size[1] + side - 1) // side
    patch = rows[:, :, None] * of_a_row[:, None, None] + columns[:, None, :]
    hidden = numbers <= probability[:, None]
    return hidden.gather(1, patch.flatten(1)).view(-1, 1, *size)


@dataclass(kw_only=True, eq=False)
class Blocks(Erasing):
    """``fill`` on each patch of a grid with the probability that MIDRE's square has as its share, area A ~
    U(a_l, a_h); other options of ``MIDRE``.
    """

    name: ClassVar[str] = "blocks"
    noun: ClassVar[str] = "Blocks"

    #: Sides of patches as shares of the image's shorter side, rounded to pixels; each image gets one of them.
    patch: Annotated[Sequence[PatchSide], NotEmpty()]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            isinstance(self.patch, Sequence)
            and len(self.patch)
            and all(isinstance(side, (int, float)) and 0 < side <= 0.5 for side in self.patch)
        ):
            raise ConfigError(
                f"defense.blocks.patch={self.patch} is no list of sides; give shares of the image's shorter "
                "side, above 0 and at most 0.5"
            )

    def _erased(
        self,
        size: tuple[int, int],
        squares: tuple[Tensor, Tensor, Tensor],
        further: Callable[[int], Tensor],
    ) -> Tensor:
        sides = [max(1, round(side * min(size))) for side in self.patch]
        patches = -(-size[0] // min(sides)) * -(-size[1] // min(sides))
        numbers = further(1 + patches)
        # A blocking copy would make the host wait for the device in every step.
        known = torch.tensor(sides).to(numbers.device, non_blocking=True)
        chosen = (numbers[:, 0] * len(sides)).long().clamp(max=len(sides) - 1)
        share = squares[2] ** 2 / (size[0] * size[1])
        return hidden_patches(size, known[chosen], numbers[:, 1:], share)
