"""What this computer offers, in words: versions, devices, memory, disk, compiler, tracking, cluster. Told by
`midre_exp.doctor.__main__`.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path

from midre_exp.errors import UserError
from midre_exp.numerics import Numerics
from midre_exp.runtime import choose_device
from midre_exp.store.artifact import readable
from midre_exp.tracking.tracker import has_key

_SHOWN = ("midre-exp", "torch", "torchvision", "pytorch-lightning", "hydra-core", "timm", "wandb")


def environment(folder: Path) -> dict[str, str]:
    """Facts by name; ``folder`` tells which disk. Never raises."""
    facts: dict[str, str] = {}
    for name, look in {
        "versions": _versions,
        "packages": _packages,
        "device": _device,
        "memory": _memory,
        "disk": lambda: f"{readable(shutil.disk_usage(folder).free)} free in {folder.absolute()}",
        "numerics.compile": _compiler,
        "W&B": _tracking,
        "SLURM": _slurm,
    }.items():
        try:
            facts[name] = look()
        except Exception as error:
            facts[name] = f"cannot be told ({type(error).__name__}: {error})"
    return facts


def _versions() -> str:
    installed = {"python": platform.python_version()}
    for name in _SHOWN:
        installed[name] = metadata.version(name)
    return ", ".join(f"{name} {version}" for name, version in installed.items())


def _packages() -> str:
    """Requirements of this project that the environment does not meet."""
    from packaging.requirements import Requirement  # comes with hydra-core

    wrong = []
    for text in metadata.requires("midre-exp") or []:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(installed, prereleases=True):
            wrong.append(f"{wanted.name} {installed} is not {wanted.specifier}")
    return "as required" if not wrong else "; ".join(wrong) + "; run pip install -e . again"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU that torch {torch.__version__} sees; {os.cpu_count()} CPU cores"
    cards = [
        f"{torch.cuda.get_device_name(i)} ({readable(torch.cuda.mem_get_info(i)[0])} of "
        f"{readable(torch.cuda.mem_get_info(i)[1])} free)"
        for i in range(torch.cuda.device_count())
    ]
    return ", ".join(cards)


def main_memory() -> int | None:
    """Bytes of main memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _memory() -> str:
    total = main_memory()
    return "unknown" if total is None else readable(total)


def _compiler() -> str:
    try:
        Numerics(compile=True).check(choose_device("auto"))
    except UserError as error:
        return f"not possible: {error}"
    return "possible, a compiler is here"


def _tracking() -> str:

    if has_key():
        return "tracking=wandb goes online, a key is here"
    return (
        "tracking=wandb stays offline, there is no key (WANDB_API_KEY or wandb login); wandb sync "
        "uploads later"
    )


def _slurm() -> str:
    sbatch, plugin = shutil.which("sbatch"), has("hydra_plugins.hydra_submitit_launcher")
    return (
        f"sbatch {'found' if sbatch else 'not in PATH'}, hydra-submitit-launcher "
        f"{'installed' if plugin else 'not installed'}"
    )


def has(module: str) -> bool:
    """Whether a module can be imported here; it is not."""
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
