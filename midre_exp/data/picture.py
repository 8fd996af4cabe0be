"""From an image file to 8-bit RGB pixels: the one decoder, of folders and of official downloads.

16-bit grey is scaled by 1/257, palettes, CMYK and black-and-white become RGB, of an animation the first
picture counts. Pictures are turned upright by their EXIF tag and transparency is laid over white, except with
``official`` pixels: the published code of every official data set reads files as torchvision's ImageFolder
does (``Image.open(path).convert("RGB")``), which turns nothing and drops transparency, and published weights
have seen such pixels.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from midre_exp.data.jpeg import defect
from midre_exp.data.transforms.base import MAX_PIXELS, Transform

with contextlib.suppress(ImportError):  # a plug-in for phones' pictures, where somebody has installed it
    from pillow_heif import register_heif_opener  # type: ignore[import-not-found]

    register_heif_opener()

# Pillow warns of many pixels on stderr, once and without the name; ``check_pixels`` tells of each file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

#: Raised by one when other pixels come of the same file.
DECODER_VERSION = 2

#: What Pillow raises on damaged or foreign files, found by feeding it such files.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,  # EXIF fields of the wrong type
    EOFError,
    NotImplementedError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)

#: Formats that are no photographs: EPS runs Ghostscript, WMF needs Windows, the others are stubs without a
#: decoder, or the icons that systems leave in folders.
_NO_PHOTOGRAPHS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "CUR", "ICO", "ICNS"})
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")


@cache
def endings() -> frozenset[str]:
    """The file endings of pictures that can be read here, lower-case, with their dot."""
    Image.init()
    readable = Image.OPEN.keys() - _NO_PHOTOGRAPHS
    return frozenset(
        {".mpo", *(ending for ending, kind in Image.registered_extensions().items() if kind in readable)}
    )


def read_picture(
    path: Path,
    transforms: Sequence[Transform],
    box: tuple[int, int, int, int] | None = None,
    *,
    official: bool = True,
) -> Tensor:
    """One file as uint8 [3, h, w] RGB: decoded, cut to ``box`` (left, upper, right, lower; outside is black),
    sent through ``transforms``.

    Raises one of ``UNREADABLE`` on a damaged file (``reason`` puts it in words), and DataError of a
    transform.
    """
    picture = open_rgb(path, official=official)
    if box is not None:
        left, upper, right, lower = box
        check_pixels(right - left, lower - upper)
        picture = picture.crop((left, upper, right, lower))
    for transform in transforms:
        picture = transform.on_picture(picture)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def open_rgb(path: Path | str, *, official: bool = False) -> Image.Image:
    """One file as an RGB picture, by the rules above. Raises one of ``UNREADABLE``, also for what libjpeg
    would fill with grey.
    """
    data = _jpeg_in(path)
    with Image.open(path if data is None else io.BytesIO(data)) as file:
        check_pixels(file.width, file.height)
        file.load()
        if data is not None and file.format in ("JPEG", "MPO") and (wrong := defect(data, file)):
            raise ValueError(f"incomplete: {wrong}")
        return _as_rgb(file, official)


def _as_rgb(image: Image.Image, official: bool) -> Image.Image:
    if not official:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _scaled_grey(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed white")
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if has_alpha and not official:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey. Pillow's own conversion clips it to white."""
    image = image.convert("I")
    low, high = image.getextrema()
    if low < 0 or high > 65535:  # type: ignore[operator]  # one pair of numbers in a one-band image
        raise ValueError("32-bit pixels have no fixed white")
    return image.point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _jpeg_in(path: Path | str) -> bytes | None:
    """The bytes of a JPEG file; None for another. Raises ValueError for what is no file with content."""
    status = os.stat(path)  # noqa: PTH116  pathlib is slow for three million
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ValueError("no regular file")
    if status.st_size == 0:
        raise ValueError("empty")
    with open(path, "rb") as file:  # noqa: PTH123
        start = file.read(3)
        return start + file.read() if start == b"\xff\xd8\xff" else None


def reason(error: BaseException, path: Path | str) -> str:
    """Why a file cannot be read, in a few words for a list."""
    if isinstance(error, UnidentifiedImageError):
        return _what_it_is(path)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {MAX_PIXELS:,} pixels"
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower():
        return "truncated"
    return text[:120]


def _what_it_is(path: Path | str) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:  # noqa: PTH123
        start = file.read(512)
        if start.lstrip()[:9].lower().startswith(_WEB_PAGE):
            return "a web page"
        if start and not start.strip(b"\0"):
            return "zeros"
        if start.startswith(b"version https://git-lfs"):
            return "a Git LFS pointer"
    return "no picture"


def check_pixels(width: int, height: int) -> None:
    """Raise ValueError for more pixels than any photograph: kilobytes can unpack to gigabytes."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} px are more than {MAX_PIXELS:,} pixels")
