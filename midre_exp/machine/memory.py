"""How much main memory is left for this process: of the machine, or of the container or job it runs in."""

from __future__ import annotations

import re
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 2**60  # cgroup v1 writes a huge number for "none"


def free_host_memory() -> int | None:
    """Bytes that can be taken without swapping: what the machine has available, and not more than the
    control groups of this process (SLURM, containers) leave. None where the system does not tell.
    """
    free = [*_machine(), *_control_groups()]
    return max(0, min(free)) if free else None


def _machine() -> list[int]:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [int(found[1]) * 1024] if found else []


def _control_groups() -> list[int]:
    """What each limited group above this process leaves. Cached file pages are given back when asked for, so
    they count as free.
    """
    found = []
    for line in _own_groups():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _CGROUPS / controllers
        names = ("memory.max", "memory.current", "inactive_file")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        group = root / path.strip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            limit, used = _number(folder / names[0]), _number(folder / names[1])
            if limit is not None and used is not None and limit < _UNLIMITED:
                found.append(limit - used + _statistic(folder / "memory.stat", names[2]))
    return found


def _own_groups() -> list[str]:
    """Lines ``number:controllers:path``; of cgroup v2 without controllers."""
    try:
        return Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """``max`` and a file that is not there are None."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
