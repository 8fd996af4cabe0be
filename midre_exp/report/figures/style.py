"""What a drawing is, and how all of them look: readable in grey, legends beside the data, vectors that are
the same bytes each time.
"""

from __future__ import annotations

import io
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midre_exp.report.runs.defense_names import Arm
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published

#: Settings of every figure. The salt and the missing dates make equal figures equal files.
LOOK: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "midre",
}
NO_DATE: Mapping[str, Mapping[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, the numbers in it (CSV by suffix of the file's stem), and what its caption must say of
    itself.

    ``records``: those that were drawn.
    """

    figure: Figure
    tables: Mapping[str, pd.DataFrame]
    records: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default_factory=tuple)


class Drawn(ABC):
    """A kind of figure, built by ``_target_`` from midre_exp/report/conf/figure."""

    @abstractmethod
    def draw(
        self, cells: Sequence[Cell], printed: Sequence[Published], kept: Mapping[str, pd.DataFrame]
    ) -> Drawing:
        """Draw runs, as far as they have records, beside the paper's points.

        ``kept``: the CSV tables of an earlier drawing by suffix, for kinds whose numbers are not in the
        records. Raises UserError when what is needed is not there.
        """


@dataclass(frozen=True)
class Mark:
    """How a defense looks: a marker and a hatch of its own, so that the colour is not needed."""

    marker: str
    colour: str
    hatch: str


_WIDE = 0.6  # from this share on a range is the wide one of the paper's two
_MARKS: Mapping[tuple[str, ...], Mark] = {
    (): Mark("o", "#000000", ""),
    ("MID",): Mark("s", "#E69F00", "..."),
    ("BiDO",): Mark("^", "#009E73", "---"),
    ("NLS",): Mark("D", "#CC79A7", "xxx"),
    ("TL-DMI",): Mark("v", "#0072B2", "|||"),
}
_NARROW, _BROAD = Mark("*", "#D55E00", "///"), Mark("P", "#56B4E9", "\\\\\\")
_OTHERS = ("<", ">", "p", "h", "8", "d", "X")


def mark_of(arm: Arm, others: Sequence[Arm] = ()) -> Mark:
    """The mark of a defense; those the paper does not draw get one by their place in ``others``."""
    if arm.names == ("MIDRE",) and arm.share is not None:
        return _BROAD if arm.share[1] >= _WIDE else _NARROW
    if arm.names in _MARKS:
        return _MARKS[arm.names]
    place = list(others).index(arm) if arm in others else 0
    return Mark(_OTHERS[place % len(_OTHERS)], "0.4", "oo")


def say(axes: Axes, title: str, missing: Sequence[str] = ()) -> None:
    """The title of a panel, and under it what is missing from it."""
    lines = [title]
    if missing:
        lines += textwrap.wrap(", ".join(missing), 36, max_lines=3, placeholder=" …")
    axes.set_title("\n".join(lines), loc="left")


def panels(
    count: int, columns: int, height: float, *, x: str, y: str, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels of this height in inches, labelled at the left and below."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(0.6 + 2.3 * columns, 0.8 + height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=True)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < count)
        axes.set_xlabel(x if place + columns >= count else "")
        axes.set_ylabel(y if place % columns == 0 else "")
        if place + columns >= count:
            axes.xaxis.set_tick_params(labelbottom=True)
    return figure, list(grid.flat)[:count]


def name_of(arm: Arm) -> str:
    """A defense in a figure: the paper's name, with its range or share."""
    if arm.share is None:
        return str(arm)
    low, high = arm.share
    return f"{arm} [{low:g}, {high:g}]" if low != high else f"{arm} {high:g}"


def saved(figure: Figure) -> dict[str, bytes]:
    """The figure as files, by their ending: ``svg``, ``pdf`` and ``png`` with one and the same layout."""
    files = {}
    with matplotlib.rc_context(LOOK):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # finding the layout is the slow part of saving
        for kind, metadata in NO_DATE.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=200, metadata=dict(metadata))
            files[kind] = buffer.getvalue()
    return files
