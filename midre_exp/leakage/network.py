"""A small network from faces to vectors, for judges that are trained in minutes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midre_exp.data.base import to_float
from midre_exp.memory.batches import in_batches

Step = Callable[[Tensor], Tensor]
_BATCH = 512
_MEAN, _SCALE = 0.5, 0.5
_CHANNELS = (24, 48, 96, 128)
_LAST = 4  # px of the last map, which is not averaged: where something is tells who it is


@dataclass(frozen=True)
class Pictures:
    """Some images of several blocks, gathered when they are asked for: the blocks may lie on disk."""

    blocks: Sequence[Tensor]  # uint8 [.., 3, h, w], of one size
    rows: Tensor  # int64 [n], counted through all blocks

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice | Tensor) -> Tensor:
        rows = self.rows[some]
        found = torch.empty(len(rows), *self.blocks[0].shape[1:], dtype=torch.uint8)
        start = 0
        for block in self.blocks:
            here = (rows >= start) & (rows < start + len(block))
            found[here] = block[rows[here] - start]
            start += len(block)
        return found


class FaceNetwork(nn.Module):
    """Images [n, 3, h, w] in [0, 1] of any size to [n, ``outputs``]: a convolution of 3 x 3, then blocks of
    two until the map is 4 px wide, each halving it, and a linear layer, all with batch norm but, unless
    ``normed``, the last.

    Images of another size than ``pixels`` (a power of two from 8) are resized first.
    """

    def __init__(self, *, pixels: int, outputs: int, normed: bool):
        super().__init__()
        self.pixels = pixels
        halvings = (pixels // _LAST).bit_length() - 1
        wide = [*_CHANNELS, *[_CHANNELS[-1]] * halvings][: halvings + 1]
        layers: list[nn.Module] = _convolution(3, wide[0], 1)
        for narrow, wider in itertools.pairwise(wide):
            layers += [*_convolution(narrow, wider, 2), *_convolution(wider, wider, 1)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.outputs = outputs
        self.head = nn.Linear(wide[-1] * _LAST**2, outputs, bias=not normed)
        self.norm = nn.BatchNorm1d(outputs) if normed else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Not normalised to unit length."""
        if images.shape[-2:] != (self.pixels, self.pixels):
            size = (self.pixels, self.pixels)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        told: Tensor = self.norm(self.head(self.body((images - _MEAN) / _SCALE)))
        return told


def _convolution(narrow: int, wide: int, stride: int) -> list[nn.Module]:
    made = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return [made, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]


def pixels_seen(wanted: int | None, shown: int) -> int:
    """The size at which such a network looks at images of ``shown`` px: as wanted, else theirs up to 64, as a
    power of two.
    """
    return wanted if wanted is not None else 1 << max(3, min(6, shown.bit_length() - 1))


@torch.no_grad()
def answers(
    network: FaceNetwork,
    images: Tensor | Pictures,
    device: torch.device,
    steps: Sequence[Step] = (),
    *,
    mirrored: bool = False,
) -> Tensor:
    """What the network says [n, outputs], on the CPU, of images [n, 3, h, w], uint8 or float in [0, 1], after
    ``steps``; ``mirrored``: of each and of its mirror image, added.
    """
    network.to(device).eval()

    def look(part: slice) -> Tensor:
        shown = images[part].to(device)
        shown = shown.float() if shown.is_floating_point() else to_float(shown)
        for step in steps:
            shown = step(shown)
        told: Tensor = network(shown)
        if mirrored:
            told = told + network(shown.flip(-1))
        return told.float().cpu()

    if not len(images):
        return torch.empty(0, network.outputs)
    return torch.cat(list(in_batches(look, len(images), _BATCH, what="images")))
