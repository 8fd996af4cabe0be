"""How much main memory and disk a run may need: rough estimates, for the doctor alone. GPU memory is counted
(``midre_exp.cost``).

Nothing here decides anything: a run that meets too little memory says so itself, and attacks then go on in
smaller parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GB = 10**9


_LIBRARY = 1.5 * GB  # torch itself

_NETWORKS_ON_DISK = 3 * GB  # weights and checkpoints of all stages of one run


def image_bytes(images: int, size: int) -> int:
    """Bytes of decoded images of ``size`` x ``size`` pixels."""
    return images * 3 * size**2


def result_bytes(attack: Mapping[str, Any], resolution: int) -> float:
    """Disk for networks, checkpoints and reconstructions of one run, in bytes; the last twice: a running
    attack keeps its parts as well.
    """
    return _NETWORKS_ON_DISK + 2 * _pictures(attack, resolution)


def host_memory(attack: Mapping[str, Any], resolution: int) -> float:
    """Bytes of main memory for the end of an attack: its reconstructions twice, in parts and as a whole, or
    as a whole and as a file.
    """
    return _LIBRARY + 2 * _pictures(attack, resolution)


def _pictures(attack: Mapping[str, Any], resolution: int) -> int:
    """Bytes of everything an attack keeps to be judged."""
    size = next(
        (step["size"] for step in reversed(attack.get("picture") or []) if "size" in step), resolution
    )
    kept = 1 + len(attack["stages"]) if attack.get("keep_stages") else 1
    return kept * image_bytes(int(attack["identities"]) * int(attack["restarts"]), int(size))
