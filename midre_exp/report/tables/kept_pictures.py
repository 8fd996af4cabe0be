"""Small copies of a page's reconstructions beside the records, so that a clone without the store renders the
whole page. Of faces that code renders alone: nothing that shows somebody real is kept here.

``results/<scale>/pictures/`` holds a strip of pictures for each judged attack, a WebP named by the digest of
its bytes, and ``<key of the metrics>.json``, which says which strip it is and whom the evaluator recognised.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from midre_exp.errors import StoreError
from midre_exp.store.files import read_json, write_atomic, write_json

#: Pixels of a kept picture's side, as many as a page shows.
SIDE = 64
FOLDER = "pictures"
_QUALITY = 85


class Kept(NamedTuple):
    """One picture as a data URL, and whether the evaluator recognised the identity."""

    url: str
    recognised: bool | None


def keep(folder: Path, key: str, pictures: Sequence[Kept]) -> None:
    """Write the pictures of the metrics ``key``; those that are there already stay as they are."""
    place = folder / FOLDER
    if not pictures or (place / f"{key}.json").exists():
        return
    tiles = [_tile(picture.url) for picture in pictures]
    strip = Image.new("RGB", (SIDE * len(tiles), SIDE))
    for number, tile in enumerate(tiles):
        strip.paste(tile, (SIDE * number, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="WEBP", quality=_QUALITY, method=6)
    name = f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.webp"
    write_atomic(place / name, buffer.getvalue())
    write_json(place / f"{key}.json", {"strip": name, "recognised": [p.recognised for p in pictures]})


def kept(folder: Path, key: str, count: int) -> list[Kept]:
    """The first ``count`` pictures kept of the metrics ``key``, fewer where fewer were; none of a damaged
    strip.
    """
    place = folder / FOLDER
    try:
        told = read_json(place / f"{key}.json")
        content = (place / Path(str(told["strip"])).name).read_bytes()
        recognised = [None if one is None else bool(one) for one in told["recognised"]]
        opened = Image.open(io.BytesIO(content))
        fits = opened.size == (SIDE * len(recognised), SIDE)
        strip = opened.convert("RGB") if fits else None
    except (OSError, ValueError, KeyError, TypeError, StoreError, UnidentifiedImageError):
        return []  # never kept, or damaged: the page then tells what it lacks
    whole = str(told["strip"]).startswith(hashlib.sha256(content).hexdigest()[:16])
    if not whole or strip is None:
        return []
    tiles = [strip.crop((SIDE * n, 0, SIDE * (n + 1), SIDE)) for n in range(min(count, len(recognised)))]
    return [Kept(_url(tile), judged) for tile, judged in zip(tiles, recognised, strict=False)]


def _tile(url: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    larger = picture.width > SIDE
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS if larger else Image.Resampling.NEAREST)


def _url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
