"""The two kinds of image operations, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.seeding import ItemRNG

#: The most pixels a picture may have, before or after a transform: Pillow's own limit, at which it merely
#: warns. 360 MB in memory.
MAX_PIXELS = 89_478_485

_CHUNK_PIXELS = 2**18  # on a CPU: enough to hide the cost of a call, few enough for a core's cache


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """A fixed operation in two forms with one meaning: on an 8-bit picture while a dataset is decoded, and on
    a batch of float images. They differ by the rounding to 8 bits alone.

    A dataclass, so that its parameters are part of a dataset's fingerprint.
    """

    @abstractmethod
    def on_picture(self, picture: Image.Image) -> Image.Image:
        """The changed RGB picture. Raises DataError when the picture is too small or too large for it."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """The changed images, float [n, 3, h, w] in [0, 1]. Raises ConfigError when they are too small."""


class Augmentation(Protocol):
    """A random change of a training batch; every image draws for itself."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change float images [n, 3, h, w] in [0, 1]; random numbers come from ``generator`` on the images'
        device.
        """
        ...


class View(Protocol):
    """A random change of images that gradients pass through: what an attack averages over."""

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """The changed images, float [n, 3, h, w]; image i draws from row i of ``rng``, by ``name`` and
        ``step``.
        """
        ...


def describe(transforms: Sequence[Transform]) -> list[dict[str, Any]]:
    """The transforms as plain values, for fingerprints: the name of each and its parameters."""
    return [{"transform": type(transform).__name__, **asdict(transform)} for transform in transforms]


def require_pixels(owner: object, size: int) -> int:
    """``size``, a side in pixels. Raises ConfigError naming the class of ``owner`` unless it is a positive
    whole number.
    """
    if not isinstance(size, int) or size < 1:
        raise ConfigError(
            f"{type(owner).__name__} size={size} must be a positive whole number of pixels, e.g. 64"
        )
    return size


def images_at_once(images: Tensor) -> int:
    """How many of ``images`` [n, c, h, w] to work on in one go where several passes follow each other: on a
    GPU all of them.
    """
    if images.device.type != "cpu":
        return max(1, len(images))
    return max(1, _CHUNK_PIXELS // (images.shape[-2] * images.shape[-1]))
