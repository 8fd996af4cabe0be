"""CelebA cut anew from its photographs as HD-CelebA-Cropper does it: a similarity takes 68 landmarks to a
mean shape, and the picture is drawn bicubically at the size wanted.

The landmarks and the mean shape are the cropper's own (annotations.zip on its page). Pixels are those of the
cropper with OpenCV 4, but for about one value in ten thousand: it ends its least squares 1e-5 pixels short.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from midre_exp.cards import DatasetCard
from midre_exp.data.picture import UNREADABLE, open_rgb, reason
from midre_exp.data.readers.layout import first_existing, require, wrong_line
from midre_exp.downloads.warp import Pixels, Points, similarity, warp
from midre_exp.errors import ConfigError, DataError
from midre_exp.store.files import write_atomic

LANDMARKS, MEAN_SHAPE = "landmark.txt", "standard_landmark_68pts.txt"
LAYOUT = f"""\
  <root>/
    img_celeba/000001.jpg ...           202,599 photographs (or Img/img_celeba/)
    {LANDMARKS}, {MEAN_SHAPE}           of annotations.zip of the cropper (or in annotations/, data/)"""
_POINTS = 68


@dataclass(frozen=True)
class Alignment:
    """The cropper's parameters, as the card has them."""

    size: int  # px of a side
    face_factor: float  # how many of the mean shape's units are a side
    move_h: float  # added to the mean shape, in its unit
    move_w: float
    jpeg_quality: int

    @staticmethod
    def of(card: DatasetCard) -> Alignment:
        """Raises ConfigError for a card that lacks a parameter, or asks for what is not built."""
        values: Mapping[str, object] = card.alignment or {}
        fixed = {"transform": "similarity", "interpolation": "bicubic", "border": "edge"}
        for key, only in fixed.items():
            if values.get(key) != only:
                raise ConfigError(
                    f"card {card.name}: alignment.{key}={values.get(key)} is not built; write {only}"
                )
        numbers = {}
        for key in ("size", "face_factor", "move_h", "move_w", "jpeg_quality"):
            value = values.get(key)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"card {card.name}: alignment.{key}={value} is no number; give one")
            numbers[key] = value
        size, quality = int(numbers["size"]), int(numbers["jpeg_quality"])
        return Alignment(size, numbers["face_factor"], numbers["move_h"], numbers["move_w"], quality)

    @property
    def folder(self) -> str:
        """Where the cropper puts its pictures."""
        size, move = f"({self.size},{self.size})", f"({self.move_h:.3f},{self.move_w:.3f})"
        return f"align_size{size}_move{move}_face_factor({self.face_factor:.3f})_jpg/data"

    def target(self, mean_shape: Points) -> Points:
        """Where the landmarks go, in pixels."""
        moved = mean_shape + np.array([self.move_w, self.move_h])
        target: Points = moved * (self.size * self.face_factor) + self.size // 2
        return target

    def align(self, picture: Pixels, landmarks: Points, mean_shape: Points) -> Pixels:
        """The face of a photograph [size, size, 3]."""
        return warp(picture, similarity(self.target(mean_shape), landmarks), self.size, self.size)


class Crop(NamedTuple):
    """A face to be cut out of a photograph."""

    photograph: Path
    face: Path
    landmarks: tuple[float, ...]  # x, y of each
    mean_shape: tuple[float, ...]
    alignment: Alignment


def crops(root: Path, alignment: Alignment) -> Iterator[Crop]:
    """Every photograph with landmarks, in the order of the cropper's file. Raises DataError for what is
    missing or malformed.
    """
    photographs = first_existing(root, ["img_celeba", "Img/img_celeba", "data/img_celeba"])
    places = [f"{base}{name}" for name in (LANDMARKS, MEAN_SHAPE) for base in ("", "annotations/", "data/")]
    texts = [first_existing(root, places[:3]), first_existing(root, places[3:])]
    named = ("the folder img_celeba", LANDMARKS, MEAN_SHAPE)
    found = (photographs, *texts)
    absent = [name for name, place in zip(named, found, strict=True) if place is None]
    require(root, absent, title="CelebA for HD-CelebA-Cropper", layout=LAYOUT)
    folder, landmarks, shape = (place for place in found if place is not None)
    mean_shape = _numbers_of(shape)
    made = root / alignment.folder
    with landmarks.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if words:
                points = _floats(words[1:])
                if points is None or len(points) != 2 * _POINTS:
                    raise wrong_line(landmarks, number, words, f"<image> and {2 * _POINTS} numbers")
                face = made / f"{Path(words[0]).stem}.jpg"
                yield Crop(folder / words[0], face, points, mean_shape, alignment)


def _numbers_of(path: Path) -> tuple[float, ...]:
    try:
        numbers = _floats(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        numbers = None
    if numbers is None or len(numbers) != 2 * _POINTS:
        raise DataError(f"{path} does not hold {_POINTS} points; take it from annotations.zip of the cropper")
    return numbers


def _floats(words: list[str]) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def cut(crop: Crop) -> str:
    """Write one face; "" or why it cannot be."""
    try:
        picture = np.array(open_rgb(crop.photograph))  # turned upright, as OpenCV reads
    except UNREADABLE as error:
        return reason(error, crop.photograph)
    shape = np.array(crop.mean_shape).reshape(-1, 2)
    landmarks = np.array(crop.landmarks).reshape(-1, 2)
    if not np.ptp(landmarks, axis=0).any():
        return "its landmarks are one point"
    made = io.BytesIO()
    face = Image.fromarray(crop.alignment.align(picture, landmarks, shape))
    face.save(made, "JPEG", quality=crop.alignment.jpeg_quality, subsampling="4:2:0")
    write_atomic(crop.face, made.getvalue())
    return ""
