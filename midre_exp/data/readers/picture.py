"""From an image file to a fixed block of pixels: the named PIL steps of the published pipelines, applied once
when a dataset is cached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midre_exp.errors import ConfigError, DataError

#: The most pixels a picture may have, before or after a step: Pillow's own limit, at which it merely warns.
#: 360 MB in memory.
MOST_PIXELS = 89_478_485


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One named change of an RGB picture: a dataclass, so that its parameters are part of the fingerprint."""

    @abstractmethod
    def __call__(self, picture: Image.Image) -> Image.Image:
        """The changed picture. Raises DataError when the picture is too small for it."""


@dataclass(frozen=True, kw_only=True)
class Crop(Step):
    """The ``size`` x ``size`` square whose upper left pixel is row ``top``, column ``left`` (GMI family:
    CelebA 55, 35, 108).
    """

    top: int
    left: int
    size: int

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Cut it out."""
        right, bottom = self.left + self.size, self.top + self.size
        if right > picture.width or bottom > picture.height:
            raise DataError(
                f"a crop of {self.size} px at row {self.top}, column {self.left} leaves a picture of {_size(picture)}; "
                "is this the official download?"
            )
        return picture.crop((self.left, self.top, right, bottom))


@dataclass(frozen=True, kw_only=True)
class CentreCrop(Step):
    """The central ``size`` x ``size`` square; margins are rounded as torchvision rounds them."""

    size: int

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Cut it out."""
        if self.size > min(picture.size):
            raise DataError(
                f"a centre crop of {self.size} px exceeds a picture of {_size(picture)}; is this the official download?"
            )
        left, top = round((picture.width - self.size) / 2), round((picture.height - self.size) / 2)
        return picture.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True, kw_only=True)
class Resize(Step):
    """Stretch to ``size`` x ``size``: Pillow's bilinear filter, which antialiases when it shrinks, as
    torchvision on PIL images.
    """

    size: int

    def __post_init__(self) -> None:
        _positive(self.size)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Resize; a picture of that size already stays as it is."""
        return picture.resize((self.size, self.size), Image.Resampling.BILINEAR)


@dataclass(frozen=True, kw_only=True)
class ResizeShorter(Step):
    """Scale so that the shorter side has ``size`` pixels, the longer side rounded down (torchvision
    ``Resize`` of one number).
    """

    size: int

    def __post_init__(self) -> None:
        _positive(self.size)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Resize, keeping the aspect ratio."""
        short, long = sorted(picture.size)
        longer = int(self.size * long / short)
        if longer * self.size > MOST_PIXELS:
            raise DataError(f"a picture of {_size(picture)} would become {longer} px long; is it a picture?")
        wide = picture.width >= picture.height
        size = (longer, self.size) if wide else (self.size, longer)
        return picture.resize(size, Image.Resampling.BILINEAR)


@dataclass(frozen=True, kw_only=True)
class ResizeAndCentre(Step):
    """Shorter side to ``margin`` times ``size``, then the central ``size`` square (VGGFace2's authors: 256,
    then 224).
    """

    size: int
    margin: float

    def __post_init__(self) -> None:
        _positive(self.size)
        if self.margin < 1:
            raise ConfigError(f"ResizeAndCentre margin={self.margin} must be at least 1")

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Resize, keeping the aspect ratio, then crop."""
        return CentreCrop(size=self.size)(ResizeShorter(size=round(self.margin * self.size))(picture))


def describe(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as plain values, for fingerprints: the name of each and its parameters."""
    return [{"step": type(step).__name__, **asdict(step)} for step in steps]


def read_picture(path: Path, steps: Sequence[Step], box: Sequence[int] | None = None) -> Tensor:
    """One file as uint8 [3, h, w] RGB: decoded, cut to ``box`` (left, upper, right, lower; outside is black),
    sent through ``steps``.

    Raises what Pillow raises on a damaged file, and DataError of a step.
    """
    with Image.open(path) as file:
        demand_ordinary(file.width, file.height)
        picture = file.convert("RGB")
    if box is not None:
        left, upper, right, lower = box
        demand_ordinary(right - left, lower - upper)
        picture = picture.crop((left, upper, right, lower))
    for step in steps:
        picture = step(picture)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def demand_ordinary(width: int, height: int) -> None:
    """Raise ValueError for more pixels than any photograph: a file of some kilobytes can unpack to gigabytes."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} px are more than {MOST_PIXELS}")


def _positive(size: int) -> None:
    if size < 1:
        raise ConfigError(f"a picture of size={size} cannot be made; give at least 1 pixel")


def _size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height} px"
