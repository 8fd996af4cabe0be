"""What each of several processes does in test_cache.py; apart, so that a new process imports little."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.data.cache import cached_images


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
