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

    marker: Any  # as matplotlib takes it
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
#: Of defenses that the paper does not draw, by their place among these; then in the next colour.
_OTHERS: Sequence[tuple[Any, str]] = (
    ("<", "oo"), (">", "++"), ("p", "**"), ("X", "//.."), ("h", "--||"), ("d", "\\\\.."), ("8", "xx.."),
    ((4, 1, 0), "||.."), ((6, 1, 0), "OO"), ((3, 1, 0), "--.."),
)  # fmt: skip
_GREYS = ("0.4", "0.1", "0.6")


def mark_of(defense: DefenseName, others: Sequence[DefenseName] = ()) -> Mark:
    """The mark of a defense; those the paper does not draw get one by their place in ``others``."""
    if (own := _own_mark(defense)) is not None:
        return own
    unmarked = [other for other in dict.fromkeys(others) if _own_mark(other) is None]
    place = unmarked.index(defense) if defense in unmarked else 0
    marker, hatch = _OTHERS[place % len(_OTHERS)]
    return Mark(marker, _GREYS[place // len(_OTHERS) % len(_GREYS)], hatch)


def _own_mark(defense: DefenseName) -> Mark | None:
    if defense.names == ("MIDRE",) and defense.share is not None:
        return _WIDE_RANGE if defense.share[1] >= _WIDE else _NARROW_RANGE
    return _MARKS.get(defense.names)


def fill(mark: Mark) -> dict[str, Any]:
    """Of a bar: white with a hatch, or light grey for no defense: told apart without colour, and none hides a
    dark whisker.
    """
    solid = not mark.hatch
    return {"facecolor": "0.82" if solid else "white", "edgecolor": mark.colour, "hatch": mark.hatch}


#: How whiskers look on any bar.
WHISKER: dict[str, Any] = {"ecolor": "black", "error_kw": {"elinewidth": 1.2, "capthick": 1.2}}


def interval_handle() -> Line2D:
    """Of a legend: what whiskers are."""
    return Line2D(
        [], [], color="black", marker="|", markersize=9, markeredgewidth=1.2, linestyle="none",
        label="95 % interval",
    )  # fmt: skip


def official_handle() -> Line2D:
    """Of a legend."""
    return Line2D([], [], color="black", label="ours, as the official program prints", **OFFICIAL_MARK)
