"""Fixed crops: a named square, or the central one."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from midre_exp.data.transforms.base import Transform, require_pixels
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count, Natural


@dataclass(frozen=True, kw_only=True)
class Crop(Transform):
    """The square of ``size`` pixels from row ``top`` and column ``left`` on."""

    top: Natural  # row of the upper left pixel (GMI family on CelebA: 55)
    left: Natural  # its column (35)
    size: Count  # px of a side (108)

    def __post_init__(self) -> None:
        require_pixels(self, self.size)

    def on_picture(self, picture: Image.Image) -> Image.Image:
        """Cut the square out."""
        if self.left + self.size > picture.width or self.top + self.size > picture.height:
            raise DataError(
                f"a crop of {self.size} px at row {self.top}, column {self.left} leaves a picture of "
                f"{picture.width}x{picture.height} px; is this the official download?"
            )
        return picture.crop((self.left, self.top, self.left + self.size, self.top + self.size))

    def __call__(self, images: Tensor) -> Tensor:
        """Cut the square out of each image."""
        height, width = images.shape[-2:]
        if self.left + self.size > width or self.top + self.size > height:
            raise ConfigError(
                f"Crop size={self.size} at row {self.top}, column {self.left} leaves the image of "
                f"{height}x{width}; lower the size"
            )
        return images[..., self.top : self.top + self.size, self.left : self.left + self.size]


@dataclass(frozen=True, kw_only=True)
class CenterCrop(Transform):
    """The central square of ``size`` pixels; margins are rounded as torchvision rounds them."""

    size: Count | None  # px of a side; None: nothing is cropped

    def __post_init__(self) -> None:
        if self.size is not None:
            require_pixels(self, self.size)

    def on_picture(self, picture: Image.Image) -> Image.Image:
        """Cut the square out."""
        if self.size is None:
            return picture
        if self.size > min(picture.size):
            raise DataError(
                f"a center crop of {self.size} px exceeds a picture of {picture.width}x{picture.height} px; "
                "is this the official download?"
            )
        left, top = (round((length - self.size) / 2) for length in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))

    def __call__(self, images: Tensor) -> Tensor:
        """Cut the square out of each image."""
        if self.size is None:
            return images
        height, width = images.shape[-2:]
        if self.size > min(height, width):
            raise ConfigError(
                f"CenterCrop size={self.size} exceeds the image of {height}x{width}; lower the size"
            )
        top, left = (round((length - self.size) / 2) for length in (height, width))
        return images[..., top : top + self.size, left : left + self.size]
