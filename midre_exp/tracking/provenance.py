"""Where a number comes from: the commits, the versions of what computes, the device and how it counts."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midre_exp.machine.processor import driver_version
from midre_exp.plan.code import sources
from midre_exp.store.store import versions

if TYPE_CHECKING:
    import torch

__all__ = ["device_name", "git_commit", "numerics", "own_packages", "versions"]

_CODE = ("midre_exp", "attacks", "defenses", "hydra_plugins", "conf", "pyproject.toml")


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, asked anew at every call; None outside a checkout.

    Where code differs from it, ``+changes.`` follows with a digest of what differs: two states of a checkout
    never have one name.
    """
    root = Path(__file__).resolve().parents[2]
    return _commit(root, [root / name for name in _CODE]) if (root / ".git").exists() else None


def own_packages(names: Iterable[str], trusted: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Commit (as ``git_commit`` has it, None where no git knows the files) and digest of the code of each
    package of the user's own that dotted ``names`` lead to.
    """
    packages: dict[str, set[str]] = {}
    for name in names:
        packages.setdefault(name.split(".")[0], set()).add(name)
    found: dict[str, dict[str, str | None]] = {}
    for package in sorted({name.split(".")[0] for name in trusted} & {*packages}):
        modules = sources().own(packages[package], trusted)
        files = [module.file for module in modules.values() if module.file is not None]
        if files:
            place = Path(os.path.commonpath([file.parent for file in files]))
            found[package] = {"commit": _commit(place, files), "code": sources().digest_of(modules)}
    return found


def _commit(folder: Path, code: Sequence[Path]) -> str | None:
    """HEAD and what of ``code`` differs from it; None where git does not know any of it."""
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel").rstrip("\n"))
        paths = [os.path.realpath(path) for path in code]
        if not _git(top, "ls-files", "-z", "--", *paths):
            return None
        head = _git(top, "rev-parse", "--short=12", "HEAD").strip()
        changed = _git(top, "diff", "HEAD", "--no-ext-diff", "--name-only", "-z", "--", *paths)
        new = _git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths)
    except (OSError, subprocess.CalledProcessError):  # no git, no checkout, no commit yet
        return None
    names = sorted({name for name in f"{changed}{new}".split("\0") if name and _is_code(name)})
    if not names:
        return head
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        path = top / name
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"gone")
    return f"{head}+changes.{digest.hexdigest()[:8]}"


def _is_code(name: str) -> bool:
    return "__pycache__" not in name and not name.endswith((".pyc", "~", ".swp"))


def _git(folder: Path, *command: str) -> str:
    """What a git command that only reads says of a checkout, also of one that belongs to somebody else: we
    run its code already.
    """
    trust = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false")
    free = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *trust, "-C", str(folder), *command],
        capture_output=True,
        check=True,
        env={**free, "GIT_OPTIONAL_LOCKS": "0", "GIT_CEILING_DIRECTORIES": ""},
    )
    return done.stdout.decode("utf-8", "surrogateescape")


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


def numerics(device: torch.device, devices: int = 1) -> dict[str, Any]:
    """What decides how numbers are rounded here: kind and count of devices, threads, instruction set, and the
    switches of torch that trade precision or determinism for speed.
    """
    import torch  # as above

    found: dict[str, Any] = {
        "device_kind": device.type,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        found |= {
            "cuda": torch.version.cuda,
            "driver": driver_version(),
            "cudnn": cudnn.version(),
            "cudnn_deterministic": cudnn.deterministic,
            "cudnn_benchmark": cudnn.benchmark,
            "cudnn_allow_tf32": cudnn.allow_tf32,
            "matmul_allow_tf32": matmul.allow_tf32,
            "matmul_allow_fp16_reduced_precision": matmul.allow_fp16_reduced_precision_reduction,
            "matmul_allow_bf16_reduced_precision": matmul.allow_bf16_reduced_precision_reduction,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        }
    return found
