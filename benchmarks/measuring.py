"""What several benchmarks share: calls that take turns, and what may be switched on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from midre_exp.numerics import Numerics

K = TypeVar("K", bound=Hashable)

#: What may be switched on, one by one or together.
SWITCHES: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
}


def numerics_with(switches: Sequence[str], device: torch.device) -> Numerics:
    """Plain numerics but for ``switches``. Raises ConfigError for what ``device`` cannot do."""
    values = {name: value for switch in switches for name, value in SWITCHES[switch].items()}
    numerics = Numerics(**values)
    numerics.check(device)
    return numerics


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times_of(
    calls: Mapping[K, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[K, list[float]]:
    """The seconds of each call, taken in turns, without the first ``warm_up``."""
    times: dict[K, list[float]] = {name: [] for name in calls}
    for repeat in range(warm_up + repeats):
        for name, call in calls.items():
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            if repeat >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def seconds(calls: Mapping[K, Callable[[], object]], repeats: int, device: torch.device) -> dict[K, float]:
    """The median time of each call."""
    return {name: statistics.median(value) for name, value in times_of(calls, repeats, device).items()}


def fastest(calls: Mapping[K, Callable[[], object]], repeats: int, warm_up: int = 0) -> dict[K, float]:
    """The shortest time of each call on the processor, in milliseconds."""
    times = times_of(calls, repeats, torch.device("cpu"), warm_up)
    return {name: 1000 * min(value) for name, value in times.items()}
