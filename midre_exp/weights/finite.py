"""Are all numbers finite? Asked at the end of an epoch, a chunk or a file, never in a step: each question
waits once for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from midre_exp.errors import DivergedError

_LISTED = 4


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or an infinity, in their order."""
    return [name for name in _suspects(tensors) if not bool(_extremes(tensors[name]).isfinite().all())]


def not_numbers(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN, in their order."""
    return [name for name in _suspects(tensors) if bool(_extremes(tensors[name]).isnan().any())]


def _suspects(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors whose sum is not finite: quicker than a look at each number, and asked of all
    at once.
    """
    sums = {
        name: value.detach().sum(dtype=torch.float64 if value.dtype == torch.float64 else torch.float32)
        for name, value in tensors.items()
        if value.is_floating_point()
    }
    if not sums:
        return []
    device = next(iter(sums.values())).device
    flags = torch.stack([total.isfinite().to(device) for total in sums.values()]).tolist()
    return [name for name, is_finite in zip(sums, flags, strict=True) if not is_finite]


def _extremes(value: Tensor) -> Tensor:
    """The least and the largest number; NaN counts as both."""
    return torch.stack(value.detach().aminmax())


def negative_variances(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of running variances of batch norm that hold a negative number, whose root is NaN."""
    return [name for name, value in tensors.items() if _is_variance(name) and bool((value < 0).any())]


def unusable(tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with the weights of a network, by the names of its tensors; empty if nothing is."""
    wrong = {"not finite": not_finite(tensors), "negative variances": negative_variances(tensors)}
    return "; ".join(f"{what}: {few(names)}" for what, names in wrong.items() if names)


def require_finite(tensors: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Raise DivergedError unless all numbers are finite; ``what`` they are of, as the start of a sentence."""
    if names := not_finite(tensors):
        raise DivergedError(f"{what} diverged (not finite: {few(names)})", remedy)


def require_finite_numbers(numbers: object, what: str, remedy: str) -> None:
    """The same for numbers in mappings and lists, by the keys on the way to them."""
    if names := list(_not_finite_numbers(numbers)):
        raise DivergedError(f"{what} diverged (not finite: {few(names)})", remedy)


def few(names: list[str]) -> str:
    """The first of some names, which a foreign file may have chosen, for a sentence."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(ascii(name[:80])[1:-1] for name in names[:_LISTED]) + more


def _is_variance(name: str) -> bool:
    return name.rpartition(".")[2] == "running_var"


def _not_finite_numbers(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield name
    elif isinstance(value, (Mapping, list, tuple)):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _not_finite_numbers(part, f"{name}.{key}" if name else str(key))
