"""Accuracy and attack accuracy over the erased share, a panel for each setup (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from midre_exp.report.figures.points import (
    as_csv,
    bars_about,
    derived,
    from_paper,
    keep,
    measured,
    named,
    not_run,
    panels_of,
    pick,
)
from midre_exp.report.figures.style import Drawing, Drawn, panels, say
from midre_exp.report.runs.defense_names import Arm
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published

#: metric, name, marker, line, colour
LINES: tuple[tuple[str, str, str, Any, str], ...] = (
    ("acc", "accuracy", "o", "-", "#0072B2"),
    ("att_acc1", "attack accuracy", "s", "--", "#D55E00"),
)


class Curves(Drawn):
    """``panels``: what to call a setup, by its id; ``stand_ins``: setups the paper does not name and ours
    replace.
    """

    def __init__(self, *, panels: Mapping[str, str], stand_ins: Sequence[str] = (), columns: int = 3):
        self.panels = panels
        self.stand_ins = tuple(stand_ins)
        self.columns = columns

    def draw(
        self, cells: Sequence[Cell], printed: Sequence[Published], kept: Mapping[str, pd.DataFrame]
    ) -> Drawing:
        """The curves through every share that has been run; what was not is named in its panel."""
        setups = panels_of(cells)
        ours, records = measured(cells)
        paper = from_paper([row for row in printed if _share(row.arm) is not None], list(setups))
        ours = keep(ours, lambda arm: _share(arm) is not None)

        figure, every = panels(
            len(setups),
            self.columns,
            1.9,
            x="erased share (% of the image)",
            y="percent",
            sharex=True,
        )
        for axes, (setup, own) in zip(every, setups.items(), strict=True):
            self._panel(axes, pick(ours, setup), pick(paper, setup))
            say(axes, self._title(setup, own), not_run(own))
        figure.legend(handles=_handles(paper), loc="outside lower center", ncols=4)
        notes = [
            "Bars are 95 % intervals.",
            *derived(paper),
        ]
        if any(setup in self.stand_ins for setup in setups):
            notes.append("*: the paper does not name the setup of this panel; ours stands in for it.")
        return Drawing(figure, {"": as_csv(ours, paper)}, records, notes)

    def _title(self, setup: str, cells: Sequence[Cell]) -> str:
        star = "*" if setup in self.stand_ins else ""
        return f"{self.panels.get(setup, setup)}{star}: {named(cells)}"

    def _panel(self, axes: Axes, ours: pd.DataFrame, paper: pd.DataFrame) -> None:
        axes.set(xlim=(-3, 53), ylim=(-3, 103), xticks=range(0, 60, 10))
        for metric, _, marker, line, colour in LINES:
            rows = ours.assign(share=_percent(ours)).sort_values("share")
            axes.errorbar(
                rows["share"], rows[metric].to_numpy(float), bars_about(rows, metric),
                marker=marker, linestyle=line, color=colour, linewidth=1.2, elinewidth=0.8,
            )  # fmt: skip
            axes.plot(_percent(paper), paper[metric].to_numpy(float), **_hollow(marker, colour))


def _hollow(marker: str, colour: str) -> dict[str, Any]:
    return {
        "marker": marker,
        "linestyle": "none",
        "markerfacecolor": "white",
        "color": colour,
        "markersize": 7,
        "zorder": 1.5,
    }


def _handles(paper: pd.DataFrame) -> list[Line2D]:
    found = [
        Line2D([], [], marker=marker, linestyle=line, color=colour, label=name)
        for _, name, marker, line, colour in LINES
    ]
    if len(paper):
        found += [
            Line2D([], [], label=f"paper: {name}", **_hollow(marker, colour))
            for _, name, marker, _, colour in LINES
        ]
    return found


def _share(arm: Arm) -> float | None:
    """The fixed share of a run that belongs to a curve, in [0, 1]."""
    if not arm.names:
        return 0.0
    return arm.share[0] if arm.names == ("RE",) and arm.share is not None else None


def _percent(rows: pd.DataFrame) -> list[float]:
    return [100 * (_share(arm) or 0.0) for arm in rows["arm"]]
