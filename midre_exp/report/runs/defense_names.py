"""What a defense is called in the paper, from the parameters a record keeps: the key that joins our rows to
published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from midre_exp.plan.spelling import defense_part_name

#: The paper's name of each defense class. Other classes keep their own.
NAMES: Mapping[str, str] = {
    "FixedErasing": "FE",
    "LeaveOut": "EE",
    "TLDMI": "TL-DMI",
    "RandomCrop": "RandomCropping",
    "DPSGD": "DP-SGD",
    "BiDOPlus": "BiDO+",
    "ATAT": "AT-AT",
    "TrapMID": "Trap-MID",
}

#: Where the classes that erase, leave out or stop early keep the smallest and the largest share.
_SHARES: Mapping[str, tuple[str, ...]] = {
    "MIDRE": ("a_l", "a_h"),
    "RandomPixels": ("a_l", "a_h"),
    "Rectangle": ("a_l", "a_h"),
    "Disc": ("a_l", "a_h"),
    "Blocks": ("a_l", "a_h"),
    "GridMask": ("a_l", "a_h"),
    "EarlyStopping": ("share",),
    "FixedErasing": ("share",),
    "LeaveOut": ("share",),
}

#: In combinations the paper names its own defense first.
ORDER = ("MIDRE", "RE", "FE", "EE")


@dataclass(frozen=True)
class DefenseName:
    """One defense or a combination, as the paper's tables name it."""

    names: tuple[str, ...]  # in the order of ``ORDER``, then of the alphabet; empty for no defense
    share: tuple[float, float] | None = None  # smallest and largest share erased, left out or (of the
    # epochs) trained, in [0, 1]; RE, FE, EE have the same number twice, None: there is none

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
    """The name of ``record["defense"]["parts"]``: config nodes by name, each with its ``_target_``. A part
    that lacks the values of its class (it may be of another class of that name) keeps its own name.
    """
    names: list[str] = []
    share: tuple[float, float] | None = None
    for name, part in parts.items():
        kind = str(part.get("_target_", name)).rpartition(".")[2]
        if kind == "NoDef":
            continue
        wanted = _SHARES.get(kind, ())
        erased = [float(part[key]) for key in wanted if isinstance(part.get(key), (int, float))]
        if len(erased) < len(wanted):
            names.append(f"{kind} ({name})")
        elif erased:
            share = (erased[0], erased[-1])
            names.append("RE" if kind == "MIDRE" and share[0] == share[1] else NAMES.get(kind, kind))
        elif kind == "DPSGD" and not part.get("noise_multiplier"):  # the network it is to be compared with
            names.append("GroupNorm")
        elif kind == "BiDO" and part.get("measure") != "hsic":  # the paper's is the stronger one, with HSIC
            names.append(f"BiDO-{str(part.get('measure')).upper()}")
        elif kind == "NLS" and float(part.get("alpha", -1)) > 0:  # the paper's is negative
            names.append("LS")
        else:
            names.append(NAMES.get(kind, kind))
    return defense_name(names, share)


def display_name(defense: DefenseName) -> str:
    """A defense in figures and claims: the paper's name, with its range or share."""
    name = "+".join(map(defense_part_name, defense.names)) or "NoDef"
    if defense.share is None:
        return name
    low, high = defense.share
    return f"{name} [{low:g}, {high:g}]" if low != high else f"{name} {high:g}"


def class_name(target: str) -> str:
    """The paper's name of a defense class, from its ``_target_``."""
    kind = target.rpartition(".")[2]
    return NAMES.get(kind, kind)
