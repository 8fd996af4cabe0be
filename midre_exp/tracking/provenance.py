"""Where a number comes from: the commit, the versions of what computes, and the device."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+changes`` when tracked code differs from it;
    None outside a checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    code = ["midre_exp", "attacks", "defenses", "conf", "pyproject.toml"]
    commands = ([*git, "rev-parse", "--short=12", "HEAD"], [*git, "status", "--porcelain", "--", *code])
    try:
        head, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changes else "")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what computes: python, torch and the libraries a result may depend on."""
    names = ("midre-exp", "torch", "torchvision", "pytorch-lightning", "timm", "hydra-core")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def device_name(device: torch.device) -> str:
    """A readable name of a torch device: the GPU's, or the CPU's model and torch's thread count."""
    import torch  # not at the top: a sweep asks for the commit, and must not wait for torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"
