"""``python -m midre_exp.cost calibrate``: how fast this machine computes, moves and launches, in a minute.

What is timed is what runs do most: 3 x 3 convolutions forward and backward at three widths, in float32, on a
GPU in TF32 too, and in bfloat16 where the device has it; an elementwise operator on a large tensor; many
small ones. Of each the fastest of several rounds counts. Rounds that differ much tell that something else
runs here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date

import torch

from midre_exp.cost.forecast import processor_name
from midre_exp.cost.rates import Rates, write_rates
from midre_exp.errors import ConfigError, UserError
from midre_exp.machine.processor import fitting_numerics
from midre_exp.runtime import choose_device

#: Channels and pixels of the convolutions, as in residual networks; images of a batch.
_LAYERS = ((64, 56), (128, 28), (256, 14))
_BATCH = {"cpu": 4, "cuda": 128}
_ELEMENTS = {"cpu": 2**24, "cuda": 2**28}
_ROUNDS, _SECONDS = 5, 0.6  #: rounds of a measurement, and about how long one is
#: A processor on which others take more than this, or rounds that differ by more, is busy.
_TAKEN, _SPREAD = 0.25, 0.25


class BusyError(UserError):
    """Something else runs on the machine that was to be measured."""


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.cost calibrate", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--threads", type=int, help="of a processor: as many as runtime.threads (default: 1, as without)"
    )
    parser.add_argument("--busy", action="store_true", help="write the rates of a busy machine too, marked")
    options = parser.parse_args(arguments)
    try:
        threads = options.threads or 1
        if threads < 1:
            raise ConfigError(f"--threads {options.threads} must be at least 1")
        rates = measure(choose_device(options.device), threads, even_if_busy=options.busy)
        file = write_rates(rates)
    except UserError as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2
    print(described(rates), f"written to {file}; plan, doctor and cost use them", sep="\n")
    return 0


def described(rates: Rates) -> str:
    """Rates in a line."""
    busy = ", on a busy machine" if rates.busy else ""
    return (
        f"{rates.device}: {rates.float32:.3g} TFLOP/s float32, {rates.tf32:.3g} tf32, {rates.bf16:.3g} bf16, "
        f"{1000 * rates.bandwidth:.3g} GB/s, {1e6 * rates.launch:.3g} us a kernel "
        f"(measured {rates.measured}, torch {rates.torch}{busy})"
    )


def measure(device: torch.device, threads: int, *, even_if_busy: bool = False) -> Rates:
    """The rates of a device. Raises BusyError where something else runs, unless that is to be overlooked."""
    taken = _taken_by_others(device)
    if taken > _TAKEN and not even_if_busy:
        raise BusyError(_busy(f"{taken:.0%} of it is taken by others"))
    with _threads(threads):
        spreads: list[float] = []

        def best(work: Callable[[], object]) -> float:
            fastest, spread = _time_of(work, device)
            spreads.append(spread)
            return fastest

        kind = device.type
        float32 = tf32 = bf16 = _convolutions(device, best, torch.float32, tf32=False)
        if kind == "cuda":
            tf32 = bf16 = _convolutions(device, best, torch.float32, tf32=True)
        if fitting_numerics(str(device)).numerics == "bf16":
            bf16 = _convolutions(device, best, torch.bfloat16, tf32=True)
        large = torch.ones(_ELEMENTS[kind], device=device)
        bandwidth = 8 * large.numel() / best(lambda: torch.relu(large))
        small = torch.ones(16, device=device)
        launch = best(lambda: [small.add(1) for _ in range(1000)]) / 1000
    differ = statistics.median(spreads)
    busy = taken > _TAKEN or differ > _SPREAD
    if busy and not even_if_busy:
        raise BusyError(_busy(f"rounds of the same differ by {differ:.0%}"))
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9 if kind == "cuda" else 0.0
    return Rates(
        device=_name(device, threads),
        float32=float32,
        tf32=tf32,
        bf16=bf16,
        bandwidth=bandwidth / 1e12,
        launch=launch,
        memory=round(memory, 1),
        torch=torch.__version__,
        measured=date.today().isoformat(),
        busy=busy,
    )


def _busy(why: str) -> str:
    return (
        f"this machine is busy ({why}), so its rates would be too low; end other programs, or give --busy to "
        "keep them with a mark"
    )


def _name(device: torch.device, threads: int) -> str:
    """As in records and in ``this_device``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {threads} threads"


def _convolutions(
    device: torch.device, best: Callable[[Callable[[], object]], float], dtype: torch.dtype, *, tf32: bool
) -> float:
    """TFLOP/s of convolutions forward and backward; on the whole, so the slow ones weigh more."""
    flops = seconds = 0.0
    batch = _BATCH[device.type]
    with _tf32(tf32):
        for channels, pixels in _LAYERS:
            image = torch.ones(batch, channels, pixels, pixels, device=device, dtype=dtype)
            weight = torch.ones(channels, channels, 3, 3, device=device, dtype=dtype)
            image.requires_grad_()
            weight.requires_grad_()

            def step(image: torch.Tensor = image, weight: torch.Tensor = weight) -> None:
                out = torch.nn.functional.conv2d(image, weight, padding=1)
                torch.autograd.grad(out, (image, weight), torch.ones_like(out))

            flops += 3 * 2 * batch * pixels**2 * channels**2 * 9
            seconds += best(step)
    return flops / seconds / 1e12


def _time_of(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of one call in the fastest round, and how much slower the median round was, as a share."""
    work()
    once = _seconds(work, 1, device)
    calls = max(1, int(_SECONDS / _ROUNDS / max(once, 1e-6)))
    rounds = [_seconds(work, calls, device) / calls for _ in range(_ROUNDS)]
    return min(rounds), statistics.median(rounds) / min(rounds) - 1


def _seconds(work: Callable[[], object], calls: int, device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    for _ in range(calls):
        work()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _taken_by_others(device: torch.device) -> float:
    """The share of the device that other processes take: of a GPU its memory, of processors their load."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        return max(0.0, 1 - (free + own) / total - 0.05)  # CUDA's own share
    return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
