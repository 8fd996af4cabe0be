"""How fast devices are by their data sheets, and how long counted work takes on one of them.

The time of a call is the longest of three: arithmetic at a share of the peak, memory traffic at a share of
the bandwidth, the launch of its kernels (a roofline). The shares are what well-written programs reach. Of a
device that was calibrated (``python -m midre_exp.cost calibrate``) the rates that it reached count instead.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from midre_exp.cost.counted import Counted, Operator, Phase
from midre_exp.cost.rates import measured_rates
from midre_exp.errors import ConfigError

_OF_PEAK, _OF_BANDWIDTH = 0.4, 0.75
#: What bfloat16 leaves of the bytes: activations and their gradients are halved, weights and losses are not.
_BF16_BYTES = 0.55
GB = 10**9
#: Memory of a device that is nobody's: CUDA context, libraries and their workspaces.
RESERVED = 1.2 * GB


class Accelerator(NamedTuple):
    """One kind of device: peaks in dense TFLOP/s, TB/s, GB of memory, seconds to launch a kernel."""

    name: str
    float32: float
    tf32: float
    bf16: float
    bandwidth: float
    memory: float
    launch: float = 6e-6
    of_peak: float = _OF_PEAK
    of_bandwidth: float = _OF_BANDWIDTH
    measured: str = ""  #: the day of calibration; empty: by the data sheet

    @property
    def assumption(self) -> str:
        """What hours on it rest on, in a sentence."""
        shares = f"{self.of_peak:.0%} of the peak, {self.of_bandwidth:.0%} of the bandwidth of its data sheet"
        how = f"as calibrated on {self.measured}" if self.measured else shares
        memory = f", {self.memory:g} GB" if self.memory else ""
        return (
            f"{self.name}: {how} ({self.float32:.3g} TFLOP/s in float32, {self.tf32:.3g} in tf32, "
            f"{self.bf16:.3g} in bf16, {1000 * self.bandwidth:.4g} GB/s{memory}), "
            f"{1e6 * self.launch:.2g} us a kernel"
        )


#: From NVIDIA's data sheets. Where a kind has no tensor cores for a precision, its float32 rate stands there.
ACCELERATORS = (
    Accelerator("V100", 15.7, 15.7, 15.7, 0.90, 32),
    Accelerator("A100", 19.5, 156, 312, 2.04, 80),
    Accelerator("H100", 67, 494, 989, 3.35, 80),
    Accelerator("H200", 67, 494, 989, 4.80, 141),
    Accelerator("RTX 4090", 82.6, 82.6, 165, 1.01, 24),
)
#: Of one thread of a processor with AVX2 at 2.5 GHz: two fused multiply-adds of eight numbers a cycle.
_THREAD = Accelerator("CPU", 0.08, 0.08, 0.08, 0.012, 0, launch=5e-6)
#: What a run of unknown device is told for.
REFERENCE = ACCELERATORS[1]


def accelerator(device: str) -> Accelerator | None:
    """The kind that a device's own name tells (``NVIDIA A100-SXM4-40GB``), with the memory it names; for a
    processor (``..., 2 threads``) that of its threads. As calibrated where it was. None for a kind that is
    not in the table.
    """
    if (own := measured_rates(device)) is not None:
        return Accelerator(
            device,
            own.float32,
            own.tf32,
            own.bf16,
            own.bandwidth,
            own.memory,
            own.launch,
            of_peak=1.0,
            of_bandwidth=1.0,
            measured=own.measured,
        )
    threads = re.search(r"(\d+) threads$", device)
    if threads:
        count = int(threads[1])
        return _THREAD._replace(name=device, float32=0.08 * count, tf32=0.08 * count, bf16=0.08 * count)
    flat = device.replace("-", " ").upper()
    found = [kind for kind in ACCELERATORS if re.search(rf"\b{kind.name}\b", flat)]
    if not found:
        return None
    memory = re.search(r"(\d+) ?GB", flat)
    return found[0]._replace(memory=float(memory[1])) if memory else found[0]


def known(device: str) -> Accelerator:
    """``accelerator`` of a name that a user gave. Raises ConfigError for one that nobody knows."""
    kind = accelerator(device)
    if kind is None:
        names = ", ".join(one.name for one in ACCELERATORS)
        raise ConfigError(
            f"--device {device} is unknown; use one of {names}, or calibrate the device "
            "(python -m midre_exp.cost calibrate)"
        )
    return kind


def seconds(counted: Counted, kind: Accelerator, precision: str = "float32", chunk: int = 512) -> float:
    """How long a stage takes on a device of that kind, counted and not measured; ``precision``: float32, tf32
    or bf16, as in conf/numerics.
    """
    return sum(phase_seconds(phase, kind, precision, chunk) for phase in counted.phases)


def phase_seconds(phase: Phase, kind: Accelerator, precision: str, chunk: int) -> float:
    """The same of one phase, with as many reconstructions at once as ``chunk`` and its memory allow."""
    free = kind.memory * GB - RESERVED if kind.memory else None
    share = phase.chunk(chunk, free) / phase.counted if phase.per_item else 1.0
    return sum(_seconds(one, kind, precision, share) for one in phase.operators)


def _seconds(one: Operator, kind: Accelerator, precision: str, share: float) -> float:
    """Of all calls of one operator, each of which does ``share`` of what one counted call does."""
    rate = kind.float32
    if one.kind in ("conv", "matmul"):
        rate = {"tf32": kind.tf32, "bf16": kind.bf16}.get(precision, kind.float32)
    moved = one.bytes * (_BF16_BYTES if precision == "bf16" and kind.bf16 > kind.float32 else 1.0)
    arithmetic = share * one.flops / (kind.of_peak * rate * 1e12)
    traffic = share * moved / (kind.of_bandwidth * kind.bandwidth * 1e12)
    return one.times / share * max(arithmetic, traffic, one.kernels * kind.launch)
