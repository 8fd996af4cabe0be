"""Networks with fixed weights, and summaries of what they answer: how the golden files of networks were made.

The rules depend on the official state-dict key alone: every implementation with these keys gets the same.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
Network = TypeVar("Network", bound=nn.Module)


def golden(name: str) -> Any:
    """The golden file tests/golden/<name>.json."""
    return json.loads((HERE / f"{name}.json").read_text())


def official_shapes(name: str) -> dict[str, list[int]]:
    """Official keys, in order, and shapes of a network: tests/golden/state_dicts/<name>.json."""
    shapes: dict[str, list[int]] = json.loads((HERE / "state_dicts" / f"{name}.json").read_text())
    return shapes


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def golden_images(size: int, n: int = 2) -> Tensor:
    """The input of the golden files: float32 [n, 3, size, size] in [0, 1)."""
    draw = np.random.RandomState(0).uniform(size=(n, 3, size, size))
    return torch.from_numpy(draw.astype(np.float32))


def golden_latents(dim: int, n: int = 2) -> Tensor:
    """The latents of the golden files: float32 [n, dim], standard normal."""
    return torch.from_numpy(np.random.RandomState(0).standard_normal((n, dim)).astype(np.float32))


def fill(
    network: Network, *, official: Callable[[str], str] = lambda key: key, double: bool = False
) -> Network:
    """Give every entry of the state dict its fixed value, in place; returns the network in eval mode.

    ``official`` turns our key into the official one where they differ (e.g. the parametrised spectral norm's
    ``parametrizations.weight.original`` into ``weight_orig``). ``double`` converts to float64 afterwards: the
    values are always drawn as float32.
    """
    keys = {key: official(key) for key in network.state_dict()}
    shapes = {keys[key]: tuple(value.shape) for key, value in network.state_dict().items()}
    values = fixed_values(
        shapes, {keys[key] for key, v in network.state_dict().items() if not v.is_floating_point()}
    )
    network.load_state_dict({key: torch.from_numpy(values[name]) for key, name in keys.items()})
    return (network.double() if double else network).eval()


def fixed_values(shapes: Mapping[str, tuple[int, ...]], integers: set[str]) -> dict[str, np.ndarray]:
    """The fixed value of every official key; integer tensors are zero."""
    values = {key: _value(key, shape) for key, shape in shapes.items() if key not in integers}
    values |= {key: np.zeros(shapes[key], np.int64) for key in integers}
    for key in shapes:
        if key.endswith("weight_orig"):
            base = key.removesuffix("weight_orig")
            values[base + "weight_u"], values[base + "weight_v"] = _singular_vectors(values[key], base)
    return values


def checksum(network: nn.Module) -> dict[str, float]:
    """Sum and sum of absolute values over all floating tensors, in float64."""
    tensors = [value.double() for value in network.state_dict().values() if value.is_floating_point()]
    return {
        "sum": sum(float(t.sum()) for t in tensors),
        "abs_sum": sum(float(t.abs().sum()) for t in tensors),
    }


def check_summary(tensor: Tensor, summary: Mapping[str, Any], *, absolute: float = 0.0) -> None:
    """Fail, naming the statistic, unless ``tensor`` has the golden shape and the golden numbers.

    First 8 values, min and max within 1e-3 of the std, mean within 1e-4 of it (or either within ``absolute``,
    for scores of almost no spread); std and L2 within 1e-4 relative.
    """
    assert list(tensor.shape) == summary["shape"], f"shape {list(tensor.shape)}, golden {summary['shape']}"
    flat = tensor.detach().double().flatten()
    std = summary["std"]
    near, relative = max(1e-3 * std, absolute), 1e-4
    found = {
        "first8": (flat[:8], near),
        "min": (flat.min(), near),
        "max": (flat.max(), near),
        "mean": (flat.mean(), max(relative * std, absolute)),
        "std": (flat.std(correction=0), relative * std),
        "l2": (flat.norm(), relative * summary["l2"]),
    }
    for name, (value, tolerance) in found.items():
        gap = float((value - torch.tensor(summary[name], dtype=torch.float64)).abs().max())
        assert gap <= tolerance, (
            f"{name} is off by {gap:.3g}, allowed {tolerance:.3g}; golden {summary[name]}"
        )


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return np.asarray(state.standard_normal(shape), np.float32)


def _value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = _draw(key, shape)
    if key.endswith("running_var"):
        value = np.abs(draw) * 0.1 + 1
    elif key.endswith(
        ("running_mean", ".biases.weight")
    ):  # .biases, .weights: tables of conditional batch norm
        value = draw * 0.1
    elif key.endswith(".weights.weight"):
        value = 1 + 0.1 * draw
    elif key.endswith("bias"):
        value = 0.1 * draw
    elif key.endswith("mbd1.T"):  # minibatch discrimination
        value = 0.001 * draw
    elif len(shape) == 1:
        value = 1 + 0.1 * draw
    else:
        value = draw / math.sqrt(math.prod(shape[1:]))
    return np.asarray(value, np.float32)


def _singular_vectors(weight: np.ndarray, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Spectral norm's vectors after 20 power iterations in float64, started from the draw of ``weight_u``."""
    matrix = weight.reshape(len(weight), -1).astype(np.float64)
    u = _draw(base + "weight_u", (len(weight),)).astype(np.float64)
    u /= np.linalg.norm(u)
    for _ in range(20):
        v = matrix.T @ u
        v /= np.linalg.norm(v)
        u = matrix @ v
        u /= np.linalg.norm(u)
    return u.astype(np.float32), v.astype(np.float32)
