"""The toy network of the golden files of defenses since 2024 and of diagnostics: images of 3 x 4 x 4, in
double precision, its fixed values scaled there too.
"""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn


def toy_network(outputs: int = 5) -> nn.Sequential:
    """conv, norm, ReLU, flatten, fc with its fixed values, in eval mode."""
    layers = OrderedDict(
        conv=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        relu=nn.ReLU(),
        flat=nn.Flatten(),
        fc=nn.Linear(64, outputs),
    )
    network = nn.Sequential(layers)
    fill_in_double(network)
    return network.eval()


def fill_in_double(network: nn.Module) -> None:
    """Every entry of the state dict by its key: drawn in single precision, scaled in double."""
    network.double()
    network.load_state_dict({key: _value(key, old) for key, old in network.state_dict().items()})


def _value(key: str, old: Tensor) -> Tensor:
    if not old.is_floating_point():
        return torch.zeros_like(old)
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    draw = np.asarray(state.standard_normal(tuple(old.shape)), np.float32).astype(np.float64)
    if key.endswith("running_var"):
        value = np.abs(draw) * 0.1 + 1
    elif key.endswith(("running_mean", "bias")):
        value = 0.1 * draw
    elif draw.ndim == 1:
        value = 1 + 0.1 * draw
    else:
        value = draw / math.sqrt(math.prod(draw.shape[1:]))
    return torch.from_numpy(np.asarray(value))
