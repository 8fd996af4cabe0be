"""What each of several processes does in tests of images that are made once; apart, so that a new process
imports little.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.data.cache import cached_images
from midre_exp.data.synthetic import synthfaces
from midre_exp.data.synthetic.canvas import Faces
from midre_exp.data.synthetic.looks import Look


def decode_slowly(store: Path, log: Path, count: int) -> None:
    """Decode ``count`` images and log every one; run in several processes at once."""

    def read(row: int) -> Tensor:
        with log.open("a") as file:
            file.write(f"{row}\n")
        time.sleep(0.05)
        return torch.full((3, 4, 4), row, dtype=torch.uint8)

    images = cached_images(
        store,
        "shared",
        names=[f"{row}.png" for row in range(count)],
        labels=[0] * count,
        read=read,
        title="slow",
        config={},
    )
    if images[:, 0, 0, 0].tolist() != list(range(count)):
        raise ValueError("another process saw other images")


def render_and_tell(store: Path, log: Path) -> None:
    """Render one part of a small set and log how many images each call paints, slowly."""
    honest = Look.paint

    def paint(look: Look, traits: Faces, size: int) -> Tensor:
        with log.open("a") as file:
            file.write(f"{len(traits)}\n")
        time.sleep(0.3)
        return honest(look, traits, size)

    Look.paint = paint  # type: ignore[method-assign]
    images = synthfaces.SynthFaces(
        size=24,
        identities=5,
        train_per_identity=4,
        test_per_identity=1,
        public_identities=1,
        public_images=1,
        store=store,
    )
    if len(images.load("train")) != 20:
        raise ValueError("another process saw other images")
