"""What a defense is called in the paper, from the parameters a record keeps: the key that joins our rows to
published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The paper's name of each defense class. Other classes keep their own.
NAMES: Mapping[str, str] = {
    "FixedErasing": "FE",
    "LeaveOut": "EE",
    "TLDMI": "TL-DMI",
    "RandomCrop": "RandomCropping",
}

#: In combinations the paper names its own defense first.
ORDER = ("MIDRE", "RE", "FE", "EE")


@dataclass(frozen=True)
class DefenseName:
    """One defense or a combination, as the paper's tables name it."""

    names: tuple[str, ...]  # in the order of ``ORDER``, then of the alphabet; empty for no defense
    share: tuple[float, float] | None = None  # smallest and largest share erased or left out, in [0, 1]; RE,
    # FE and EE have the same number twice, None: nothing is erased

    def __str__(self) -> str:
        return "+".join(self.names) or "NoDef"


def defense_name(names: Sequence[str], share: tuple[float, float] | None = None) -> DefenseName:
    """The name with its parts in their one order."""
    rank = {name: place for place, name in enumerate(ORDER)}
    return DefenseName(
        tuple(sorted(names, key=lambda name: (rank.get(name, len(ORDER)), name))),
        None if share is None else (round(share[0], 6), round(share[1], 6)),
    )


def published_name(parts: Mapping[str, Mapping[str, Any]]) -> DefenseName:
    """The name of ``record["defense"]["parts"]``: config nodes by name, each with its ``_target_``."""
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
        elif kind == "BiDO" and part["measure"] != "hsic":  # the paper's BiDO is the stronger one, with HSIC
            names.append(f"BiDO-{str(part['measure']).upper()}")
        else:
            names.append(NAMES.get(kind, kind))
    return defense_name(names, share)
