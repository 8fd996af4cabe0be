"""How fast devices are by their data sheets, and how long counted work takes on one of them.

The time of a call is the longest of three: arithmetic at a share of the peak, memory traffic at a share of
the bandwidth, the launch of its kernels (a roofline). The shares are what well-written programs reach; what
this machine reaches is measured (``forecast``).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from midre_exp.cost.counted import Counted, Operator, Phase

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
    processor (``..., 2 threads``) that of its threads. None for a kind that is not in the table.
    """
    threads = re.search(r"(\d+) threads$", device)
    if threads:
        count = int(threads[1])
        return _THREAD._replace(float32=0.08 * count, tf32=0.08 * count, bf16=0.08 * count)
    flat = device.replace("-", " ").upper()
    found = [kind for kind in ACCELERATORS if re.search(rf"\b{kind.name}\b", flat)]
    if not found:
        return None
    memory = re.search(r"(\d+) ?GB", flat)
    return found[0]._replace(memory=float(memory[1])) if memory else found[0]


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
    arithmetic = share * one.flops / (_OF_PEAK * rate * 1e12)
    traffic = share * moved / (_OF_BANDWIDTH * kind.bandwidth * 1e12)
    return one.times / share * max(arithmetic, traffic, one.kernels * kind.launch)
