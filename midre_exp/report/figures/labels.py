"""Names beside marks, where they cover nothing, and marks at one place, nested so that each is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, ScaledTranslation

from midre_exp.report.claims.intervals import Numbers

#: Marks nearer than this, in points, are at one place.
_NEAR = 2.5
#: How much smaller each mark at a place is than the one below it, and how much larger the lowest.
_SMALLER, _LARGER = 0.6, 1.6
_BESIDE = 2.6  # points between lines over common places
_NEXT_TO = 11  # points from a mark within which a label needs no line to it
_FONT = 6  # points of a label
_STEPS = 60  # of a line that labels keep clear of
#: Where a label is tried, in points from its mark, nearest first.
_PLACES = [
    (distance * x, distance * y)
    for distance in (6, 9, 13, 18, 24, 31, 39)
    for x, y in ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (1, 0.5), (1, -0.5), (0, 1), (0, -1))
]


def nest_marks(axes: Axes) -> None:
    """Let filled marks at one place be seen: the first drawn largest, each further one smaller with a white
    edge. Needs the panel where it will be.
    """
    assert axes.figure is not None
    marks = [line for line in axes.lines if len(points(line)) == 1 and _is_filled(line)]
    places = [np.ravel(axes.transData.transform(points(line))) * 72 / axes.figure.dpi for line in marks]
    near = [[np.linalg.norm(place - other) < _NEAR for other in places] for place in places]
    for number, mark in enumerate(marks):
        below, above = sum(near[number][:number]), sum(near[number][number + 1 :])
        if below or above:
            mark.set_markersize(mark.get_markersize() * _LARGER * _SMALLER**below)
        if below:
            mark.set(markeredgecolor="white", markeredgewidth=0.6, zorder=mark.get_zorder() + 0.01 * below)


def points(line: Line2D) -> Numbers:
    """The points of a line in its own coordinates, float [n, 2]."""
    return np.asarray(line.get_xydata(), dtype=float).reshape(-1, 2)


def put_beside(axes: Axes, drawn: ErrorbarContainer, place: int, count: int) -> None:
    """Move the ``place``-th of ``count`` lines over common places on x so many points beside these that no
    mark of one hides that of another.
    """
    assert axes.figure is not None
    shift = _BESIDE * (place - (count - 1) / 2) / 72
    moved = axes.transData + ScaledTranslation(shift, 0, axes.figure.dpi_scale_trans)
    for artist in drawn.get_children():
        artist.set_transform(moved)


def _is_filled(line: Line2D) -> bool:
    colour = line.get_markerfacecolor()
    return line.get_marker() not in ("None", "", "+", "x", "|", "_") and colour not in ("white", "none")


def box(axes: Axes, low: tuple[float, float], high: tuple[float, float], border: float) -> Bbox:
    """Two places in data and a border in points, as pixels."""
    assert axes.figure is not None
    edge = border * axes.figure.dpi / 72
    return Bbox([axes.transData.transform(low) - edge, axes.transData.transform(high) + edge])


def line_boxes(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> list[Bbox]:
    """What a line covers, in small steps."""
    if not xs:
        return []
    at = np.linspace(xs[0], xs[-1], _STEPS)
    return [box(axes, place, place, 1) for place in zip(at, np.interp(at, xs, ys), strict=True)]


def place_label(
    axes: Axes, taken: Sequence[Bbox], name: str, place: tuple[float, float], colour: str
) -> Bbox:
    """Write a name beside a mark (in data) at the first place where it covers nothing of ``taken``, or as
    little as can be, with a thin line to the mark where that is not next to it; returns its box.
    """
    frame = axes.get_window_extent()
    own: dict[str, Any] = {"textcoords": "offset points", "fontsize": _FONT, "color": colour, "zorder": 5}
    label = axes.annotate(name, place, (0, 0), va="center", **own)
    label.set_in_layout(False)
    best, fewest = _PLACES[0], math.inf
    for x, y in _PLACES:
        covered = _moved(label, x, y)
        inside = frame.x0 <= covered.x0 and covered.x1 <= frame.x1
        inside = inside and frame.y0 <= covered.y0 and covered.y1 <= frame.y1
        faults = sum(covered.overlaps(other) for other in taken) if inside else math.inf
        if faults < fewest:
            best, fewest = (x, y), faults
        if not faults:
            break
    label.remove()
    far = max(map(abs, best)) > _NEXT_TO
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
    align = _align(best[0])
    label = axes.annotate(name, place, best, ha=align, va="center", arrowprops=line if far else None, **own)
    label.set_in_layout(False)
    return text_box(label)


def _moved(label: Annotation, x: float, y: float) -> Bbox:
    label.xyann = (x, y)
    label.set_horizontalalignment(_align(x))
    return text_box(label)


def _align(x: float) -> Literal["left", "right", "center"]:
    return "left" if x > 0 else "right" if x < 0 else "center"


def text_box(label: Annotation) -> Bbox:
    """Of the words alone, without the line to the mark."""
    figure, axes = label.figure, label.axes
    assert figure is not None and axes is not None
    scale = figure.dpi / 72
    x, y = axes.transData.transform(label.xy) + scale * np.asarray(label.xyann)
    # of DejaVu Sans
    width, height = 0.58 * _FONT * scale * len(label.get_text()), 1.1 * _FONT * scale
    left = {"left": x, "right": x - width, "center": x - width / 2}[str(label.get_horizontalalignment())]
    return Bbox.from_extents(left, y - height / 2, left + width, y + height / 2)
