"""Golden files of whole loops, and the rules by which their draws are made again (see README_loops)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def loop(name: str) -> dict[str, Any]:
    """The arrays of <name>.npz by name, and ``meta``, its sizes and settings."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file}
    return {**arrays, "meta": json.loads(str(arrays["meta"]))}


def _state(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)


def normal(key: str, *shape: int) -> Tensor:
    """Standard normal, float32."""
    return torch.from_numpy(_state(key).standard_normal(shape).astype(np.float32))


def uniform(key: str, *shape: int) -> Tensor:
    """In [0, 1), float32."""
    return torch.from_numpy(_state(key).uniform(size=shape).astype(np.float32))


def integers(key: str, high: int, *shape: int) -> Tensor:
    """From 0 to ``high`` - 1, int64."""
    return torch.from_numpy(_state(key).randint(0, high, shape))


def picked(key: str, n: int, count: int) -> Tensor:
    """``count`` different ones of ``n`` rows, int64."""
    return torch.from_numpy(_state(key).permutation(n)[:count])
