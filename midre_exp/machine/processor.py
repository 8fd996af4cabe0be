"""Which arithmetic the processor or the GPUs of this machine do well."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from midre_exp.machine.gpus import Gpu, visible_gpus

#: From this compute capability on (Ampere) a GPU multiplies in bfloat16 and TF32.
AMPERE = (8, 0)


class Choice(NamedTuple):
    """A choice of conf/numerics and why this machine is served best by it."""

    numerics: str
    why: str


@cache
def fitting_numerics(device: str) -> Choice:
    """The fastest numerics under which outcomes stay within their intervals, for a ``runtime.device``.

    bf16 where it is measured to pay: on GPUs from Ampere on, the oldest of those that are visible deciding,
    and on processors with AMX; AVX512 alone converts faster, but multiplies hardly faster.
    """
    gpus = [] if device == "cpu" else visible_gpus()
    if gpus:
        capabilities = compute_capabilities(gpus)
        if not capabilities:
            return Choice("strict", "nobody tells what the GPU can do (nvidia-smi)")
        number = ".".join(map(str, min(capabilities)))
        if min(capabilities) >= AMPERE:
            return Choice("bf16", f"the GPU multiplies in bfloat16 (compute capability {number})")
        return Choice("strict", f"the GPU has neither bfloat16 nor TF32 (compute capability {number})")
    features = cpu_features()
    if "amx_bf16" in features:
        return Choice("bf16", "the processor multiplies in bfloat16 (AMX)")
    has = " beyond AVX512_BF16" if "avx512_bf16" in features else ""
    return Choice("strict", f"the processor has no unit for bfloat16{has}, in which it would not be faster")


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the first processor can do, in the kernel's words (``amx_bf16``, ``avx512_bf16``); empty where
    the system does not tell.
    """
    try:
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split()) if found else frozenset()


def compute_capabilities(gpus: Sequence[Gpu]) -> list[tuple[int, int]]:
    """Of each GPU, as nvidia-smi tells; none where it does not."""
    cards = ",".join(dict.fromkeys(str(gpu.index) for gpu in gpus))
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", f"--id={cards}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [(int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d+)\s*$", done.stdout, re.M)]


def driver_version() -> str | None:
    """That of NVIDIA's driver, None without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", text)
    return found[1] if found else None
