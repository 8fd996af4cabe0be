"""How a defense looks and is called in every figure, readable in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D

from midre_exp.report.runs.defense_names import DefenseName


@dataclass(frozen=True)
class Mark:
    """A marker and a hatch of its own, so that the colour is not needed."""

    marker: str
    colour: str
    hatch: str


#: Of a number of ours as an official program would print it, beside ours.
OFFICIAL_MARK: dict[str, Any] = {
    "marker": "+",
    "markersize": 7,
    "markeredgewidth": 1.4,
    "linestyle": "none",
    "zorder": 4,
}
_WIDE = 0.6  # from this share on a range is the wide one of the paper's two
_MARKS: Mapping[tuple[str, ...], Mark] = {
    (): Mark("o", "#000000", ""),
    ("MID",): Mark("s", "#E69F00", "..."),
    ("BiDO",): Mark("^", "#009E73", "---"),
    ("NLS",): Mark("D", "#CC79A7", "xxx"),
    ("TL-DMI",): Mark("v", "#0072B2", "|||"),
}
_NARROW_RANGE, _WIDE_RANGE = Mark("*", "#D55E00", "///"), Mark("P", "#56B4E9", "\\\\\\")
_OTHERS = ("<", ">", "p", "h", "8", "d", "X")


def mark_of(defense: DefenseName, others: Sequence[DefenseName] = ()) -> Mark:
    """The mark of a defense; those the paper does not draw get one by their place in ``others``."""
    if defense.names == ("MIDRE",) and defense.share is not None:
        return _WIDE_RANGE if defense.share[1] >= _WIDE else _NARROW_RANGE
    if defense.names in _MARKS:
        return _MARKS[defense.names]
    place = list(others).index(defense) if defense in others else 0
    return Mark(_OTHERS[place % len(_OTHERS)], "0.4", "oo")


def official_handle() -> Line2D:
    """Of a legend."""
    return Line2D([], [], color="black", label="ours, as the official program prints", **OFFICIAL_MARK)
