"""Bootstrap intervals over images: how far a number would move with other photographs of the same people.
Nothing is said of another training.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from midre_exp.seeding import generator

DRAWS = 1000
LEVEL = 0.95
_AT_ONCE = 4_000_000  # counts held at a time


def resamples(images: int, name: str, *, rows: int | None = None) -> Iterator[Tensor]:
    """How often each of ``images`` was drawn, with replacement: float64 [some draws, images] at a time,
    ``rows`` of them or as many as fit. Drawn by ``name`` alone, so that two numbers of the same images are
    resampled together.
    """
    random = generator(0, "diagnostics", "bootstrap", name)
    rows = rows or at_once(images)
    for start in range(0, DRAWS, rows):
        some = min(rows, DRAWS - start)
        picked = torch.randint(images, (some, images), generator=random)
        counts = torch.zeros(some, images, dtype=torch.float64)
        yield counts.scatter_add_(1, picked, torch.ones(some, images, dtype=torch.float64))


def at_once(images: int) -> int:
    """How many draws of so many images are held at a time."""
    return max(1, _AT_ONCE // max(images, 1))


def measured(values: Tensor, *, scale: float = 1.0) -> dict[str, float]:
    """The mean of ``values`` [n], times ``scale``, with its percentile interval."""
    values = values.double() * scale
    drawn = [counts @ values / len(values) for counts in resamples(len(values), "images")]
    mean = float(values.mean())
    return {"value": mean, **ends(mean, torch.cat(drawn))}


def ends(value: float, drawn: Tensor, reflected: tuple[float, float] | None = None) -> dict[str, float]:
    """The 2.5 and 97.5 % points of a statistic of resampled images, ``drawn`` [draws].

    ``reflected``: of a number that resampling itself moves to one side, as an error of calibration, their
    reflections at ``value`` (basic bootstrap), within these limits.
    """
    tail = (1 - LEVEL) / 2
    low, high = drawn.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    if reflected is not None:
        least, most = reflected
        low, high = (min(max(2 * value - end, least), most) for end in (high, low))
    return {"low": low, "high": high}


def flat(name: str, told: dict[str, float]) -> dict[str, float]:
    """A number with its interval under names for tables: ``name``, ``name_low``, ``name_high``."""
    return {name: told["value"], f"{name}_low": told["low"], f"{name}_high": told["high"]}
