"""What a defense is called in the paper, from the parameters a record keeps: the key that joins our rows to
published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The paper's name of each defense class. Classes of others keep their own.
NAMES: Mapping[str, str] = {
    "FixedErasing": "FE",
    "LeaveOut": "EE",
    "TLDMI": "TL-DMI",
    "RandomCrop": "RandomCropping",
}


@dataclass(frozen=True)
class Arm:
    """One defense or a combination, as the paper's tables name it.

    ``names`` in the order of ``ORDER``; empty for no defense. ``share``: smallest and largest erased or
    left-out share in [0, 1], None where nothing is erased; RE, FE and EE have the same number twice.
    """

    names: tuple[str, ...]
    share: tuple[float, float] | None = None

    def __str__(self) -> str:
        return "+".join(self.names) or "NoDef"


#: In combinations the paper names its own defense first.
ORDER = ("MIDRE", "RE", "FE", "EE")


def make_arm(names: tuple[str, ...] | list[str], share: tuple[float, float] | None = None) -> Arm:
    """An arm with its names in the one order."""
    rank = {name: place for place, name in enumerate(ORDER)}
    return Arm(
        tuple(sorted(names, key=lambda name: (rank.get(name, len(ORDER)), name))),
        None if share is None else (round(share[0], 6), round(share[1], 6)),
    )


def arm_of(parts: Mapping[str, Mapping[str, Any]]) -> Arm:
    """The arm of ``record["defense"]["parts"]``: configs by name, each with its ``_target_``."""
    names: list[str] = []
    share: tuple[float, float] | None = None
    for part in parts.values():
        kind = str(part["_target_"]).rpartition(".")[2]
        if kind == "NoDef":
            continue
        if kind == "MIDRE":
            share = (float(part["a_l"]), float(part["a_h"]))
            names.append("RE" if share[0] == share[1] else "MIDRE")
        elif kind in ("FixedErasing", "LeaveOut"):
            share = (float(part["share"]), float(part["share"]))
            names.append(NAMES[kind])
        elif (
            kind == "BiDO" and part["measure"] != "hsic"
        ):  # the paper's BiDO is the one with HSIC, the stronger of both
            names.append(f"BiDO-{str(part['measure']).upper()}")
        else:
            names.append(NAMES.get(kind, kind))
    return make_arm(names, share)
