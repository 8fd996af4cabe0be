"""Every random number of the project comes from here: named seeds, torch generators, and stateless per-item
rng.

A stream gives item i the same numbers whatever batch, chunk, worker or shard it is drawn in, so splitting
work never changes a result.

One rule for all devices: numbers are drawn by the CPU and moved to where they are needed, so that a run on a
GPU differs from one on a CPU by rounding alone. Generators are of the CPU (``generator``, torch's own after
``torch.manual_seed``), and what they draw goes to a device by ``uniform``, ``normal``, ``integers`` or
``moved``; networks that draw while they are trained are made to do so by ``midre_exp.targets.dropout``.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_CPU = torch.device("cpu")
_PINNED = 8192  # numbers: CUDA copies less than 64 KB without waiting, from wherever they lie
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer (splitmix64 increment)
_MIX = ((30, -4658895280553007687), (27, -7723592293110705685), (31, None))  # splitmix64 finaliser


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive(0, "target", "epoch", 7)``; different purposes are
    independent.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A torch generator of the CPU, seeded for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def moved(drawn: Tensor, device: torch.device) -> Tensor:
    """What was drawn, or follows from it, on ``device``; the host does not wait for a GPU."""
    if device.type == "cuda" and drawn.numel() > _PINNED:
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)


def uniform(draws: torch.Generator | None, *shape: int, device: torch.device = _CPU) -> Tensor:
    """Float32 numbers in [0, 1) of a generator, None: torch's own."""
    return moved(torch.rand(*shape, generator=draws), device)


def normal(draws: torch.Generator | None, *shape: int, device: torch.device = _CPU) -> Tensor:
    """Standard normal float32 numbers of a generator, None: torch's own."""
    return moved(torch.randn(*shape, generator=draws), device)


def integers(draws: torch.Generator, low: int, high: int, *shape: int, device: torch.device = _CPU) -> Tensor:
    """Int64 numbers from ``low`` to ``high`` - 1 of a generator."""
    return moved(torch.randint(low, high, shape, generator=draws), device)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 (two's complement wraps; right shifts are made logical by a mask)."""
    for shift, factor in _MIX:
        x = x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))
        if factor is not None:
            x = x * factor
    return x


def hashed(rows: Tensor, *purpose: str | int) -> Tensor:
    """A number in [0, 1) for each of ``rows`` uint8 [n, m], float64 [n] on their device: uniform over
    different rows and purposes, and the same for equal ones wherever and among whichever others.
    """
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8)).contiguous()
    words = padded.view(torch.int64)  # eight numbers in each
    place = torch.arange(1, words.shape[1] + 1, device=rows.device) * _GOLDEN
    # whole numbers add up to the same in any order
    sums = _mix(words ^ (place + derive(rows.shape[1], *purpose))).sum(1)
    return ((_mix(sums) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


class ItemRNG:
    """One independent random stream per item.

    ``ItemRNG(seed, "attack", items=labels, ...)`` keys item i by the seed, the purpose and the given integer
    columns; ``uniform`` and ``normal`` then return ``[n, *shape]`` numbers that depend on the item's key, the
    draw's name and nothing else.
    """

    def __init__(self, seed: int, *purpose: str | int, items: Tensor | tuple[Tensor, ...]):
        """``items``: one or more int64 columns [n] that identify the items."""
        columns = items if isinstance(items, tuple) else (items,)
        keys = torch.full_like(columns[0], derive(seed, *purpose))
        for column in columns:
            keys = _mix(keys + (column + 1) * _GOLDEN)
        self.keys = keys  # int64 [n]

    def _with(self, keys: Tensor) -> ItemRNG:
        other = object.__new__(type(self))
        other.keys = keys
        return other

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: slice | Tensor) -> ItemRNG:
        return self._with(self.keys[index])

    def copies(self, count: int) -> ItemRNG:
        """``count`` streams for every item, all items' first, then all items' second ...; the first is the
        item's own.
        """
        further = torch.arange(count, device=self.keys.device)[:, None] * _GOLDEN
        keys = torch.where(further == 0, self.keys, _mix(self.keys + further))
        return self._with(keys.flatten())

    def repeated(self, times: int) -> ItemRNG:
        """Each stream ``times`` times, one after the other: rows that draw the same numbers."""
        return self._with(self.keys.repeat_interleave(times))

    def to(self, device: torch.device | str) -> ItemRNG:
        """The same numbers, drawn on another device."""
        return self._with(self.keys.to(device))

    def _bits(self, name: str, step: int, count: int) -> Tensor:
        start = _mix(self.keys ^ derive(step, name))
        counter = torch.arange(1, count + 1, device=self.keys.device)
        return _mix(start[:, None] + counter * _GOLDEN)

    def uniform(self, name: str, *shape: int, step: int = 0) -> Tensor:
        """Float32 ``[n, *shape]`` in [0, 1). ``step`` separates repeated draws of one name, e.g. optimisation
        steps.
        """
        bits = self._bits(name, step, math.prod(shape))
        return (((bits >> 40) & 0xFFFFFF).float() * 2.0**-24).view(len(self), *shape)

    def normal(self, name: str, *shape: int, step: int = 0) -> Tensor:
        """Standard normal float32 ``[n, *shape]`` (Box-Muller)."""
        count = math.prod(shape)
        bits = self._bits(name, step, 2 * count)
        u = (((bits >> 40) & 0xFFFFFF).float() + 0.5) * 2.0**-24  # never 0: the logarithm stays finite
        radius = (-2.0 * u[:, :count].log()).sqrt()
        return (radius * (2.0 * math.pi * u[:, count:]).cos()).view(len(self), *shape)
