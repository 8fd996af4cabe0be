"""What a plot is, and how all of them look: legends beside the data, vectors that are the same bytes each
time.
"""

from __future__ import annotations

import io
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from midre_exp.records import Record
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

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
class Rendered:
    """A figure that has been drawn."""

    figure: Figure
    tables: Mapping[str, pd.DataFrame]  # the numbers in it, one CSV by suffix of the file's stem
    records: Sequence[Record]  # those that were drawn
    notes: Sequence[str] = ()  # what its caption must say of itself
    gone: Sequence[str] = ()  # what it cannot show although it was run


class Plot(ABC):
    """A kind of figure, built by ``_target_`` from midre_exp/report/conf/figure."""

    #: Whether private images or reconstructions are on it.
    shows_pictures: ClassVar[bool] = False

    @abstractmethod
    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Draw runs, as far as they have records, beside the paper's points.

        ``cached``: the CSV tables of an earlier rendering by suffix, for kinds whose numbers are not in the
        records. Raises UserError when what is needed is not there.
        """


def title_panel(axes: Axes, title: str, missing: Sequence[str] = ()) -> None:
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
    figure = Figure(figsize=(max(3.6, 0.6 + 2.3 * columns), 0.8 + height * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=True)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < count)
        axes.set_xlabel(x if place + columns >= count else "")
        axes.set_ylabel(y if place % columns == 0 else "")
        if place + columns >= count:
            axes.xaxis.set_tick_params(labelbottom=True)
    return figure, list(grid.flat)[:count]


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
