"""What is wrong with the layout of a figure as matplotlib draws it: text cut off or on other text, and marks
and whiskers that cannot be seen, in grey too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from midre_exp.report.figures.style import LOOK

DPI = 100
#: Of what a mark or whisker would cover alone, the share that must be seen: a mark under another one keeps a
#: ring, a whisker may run behind marks.
SEEN = 0.2
#: Levels of grey, of 255, from which two are told apart.
TOLD_APART = 45
#: Pixels that two boxes of text may share, of edges and accents.
SLACK = 1.5
#: Of lines, and of the ends of whiskers.
_NO_MARKS = ("None", "", None, "_", "|")


def faults(figure: Figure) -> list[str]:
    """Everything that is wrong, a line each; the figure's layout is fixed as its files have it."""
    with matplotlib.rc_context(LOOK):
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        canvas.draw()
        return [*_of_text(figure), *_of_marks(figure, canvas)]


def _of_text(figure: Figure) -> Iterator[str]:
    boxes = [(text, _box(text)) for text in _texts(figure)]
    paper = figure.bbox
    for text, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > paper.x1 + 1 or box.y1 > paper.y1 + 1:
            yield f"cut off: {text.get_text()!r}"
    for (text, box), (other, on) in combinations(boxes, 2):
        width, height = min(box.x1, on.x1) - max(box.x0, on.x0), min(box.y1, on.y1) - max(box.y0, on.y0)
        if width > SLACK and height > SLACK:
            yield f"one on the other: {text.get_text()!r}, {other.get_text()!r}"


def _texts(figure: Figure) -> Iterator[Text]:
    """All text that is drawn; of ticks those in view."""
    hidden: set[Artist] = set()
    for axes in figure.axes:
        if not axes.get_visible():
            hidden.update(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            shown = {tick.label1 for tick in axis._update_ticks()}
            hidden.update(set(axis.findobj(Text)) - shown - {axis.label})
    for text in figure.findobj(Text):
        if text not in hidden and text.get_visible() and text.get_text().strip():
            yield text


def _box(text: Text) -> Bbox:
    """Of the words alone, without an annotation's arrow."""
    if isinstance(text, Annotation):
        return Text.get_window_extent(text)
    return text.get_window_extent()


def _of_marks(figure: Figure, canvas: FigureCanvasAgg) -> Iterator[str]:
    """Marks, and whiskers on bars, that leave too little trace: drawn with and without each, in grey."""
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        yield from _outside(axes)
        whole = _grey(canvas, axes)
        for artist, what in _marks(axes):
            alone = _drawn(canvas, artist)[..., 3] > 100
            artist.set_visible(False)
            without = _grey(canvas, axes)
            artist.set_visible(True)
            seen = (np.abs(whole - without) >= TOLD_APART) & alone
            share = seen.sum() / max(1, alone.sum())
            if share < SEEN:
                yield f"hidden: {what} of {axes.get_title(loc='left')!r}: {share:.0%} seen"


def _outside(axes: Axes) -> Iterator[str]:
    """Marks that a panel does not show at all."""
    panel = axes.get_window_extent().padded(2)
    for line in axes.lines:
        points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        shown = [panel.contains(x, y) for x, y in points if np.isfinite([x, y]).all()]
        if line.get_marker() not in _NO_MARKS and not all(shown):
            yield f"outside of its panel: a mark {line.get_marker()!r} of {axes.get_title(loc='left')!r}"


def _marks(axes: Axes) -> Iterator[tuple[Artist, str]]:
    bars = any(isinstance(container, BarContainer) for container in axes.containers)
    whiskers = [
        part
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
        for part in container.lines[2]
    ]
    for line in axes.lines:
        if isinstance(line, Line2D) and len(line.get_xdata()) == 1 and _suspects(axes, line):
            yield line, f"a mark {line.get_marker()!r}"
    for part in whiskers:
        if isinstance(part, LineCollection) and bars:
            yield part, "whiskers"


def _suspects(axes: Axes, line: Line2D) -> bool:
    """Whether another mark lies near enough to hide this one: the others need no look."""
    if line.get_marker() in _NO_MARKS:
        return False

    def place(one: Line2D) -> NDArray[np.float64]:
        return one.get_transform().transform(np.column_stack(one.get_data()).astype(float))

    reach = (line.get_markersize() + 4) * DPI / 72
    others = [o for o in axes.lines if o is not line and o.get_marker() not in _NO_MARKS]
    return any((np.linalg.norm(place(one) - place(line), axis=1) < reach).any() for one in others)


def _grey(canvas: FigureCanvasAgg, artist: Artist) -> NDArray[np.float64]:
    """An artist on white paper, in levels of grey."""
    picture = _drawn(canvas, artist).astype(float)
    opaque = picture[..., 3:] / 255
    return (picture[..., :3] * opaque + 255 * (1 - opaque)) @ np.array([0.299, 0.587, 0.114])


def _drawn(canvas: FigureCanvasAgg, artist: Artist) -> NDArray[np.uint8]:
    """An artist alone, RGBA [h, w, 4]."""
    canvas.get_renderer().clear()
    artist.draw(canvas.get_renderer())
    return np.array(canvas.buffer_rgba())
