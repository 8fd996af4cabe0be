"""Accuracy and attack accuracy over the erased share, a panel for each setup (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from midre_exp.report.figures.marks import OFFICIAL_MARK, official_handle
from midre_exp.report.figures.points import (
    as_csv,
    attack_and_target,
    by_setup,
    derived,
    error_bars,
    filter_defenses,
    from_paper,
    has_official,
    likenesses,
    measured,
    not_run,
    select,
)
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.defense_names import DefenseName
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

#: metric, name, marker, line, colour
LINES: tuple[tuple[str, str, str, Any, str], ...] = (
    ("acc", "accuracy", "o", "-", "#0072B2"),
    ("att_acc1", "attack accuracy", "s", "--", "#D55E00"),
)


class Curves(Plot):
    """A panel for each setup."""

    def __init__(self, *, panels: Mapping[str, str], stand_ins: Sequence[str] = (), columns: int = 3):
        self.panels = panels  # what to call a setup, by its id
        self.stand_ins = tuple(stand_ins)  # setups that stand for ones the paper does not name
        self.columns = columns  # panels in a line

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """The curves through every share that has been run; what was not is named in its panel."""
        setups = by_setup(runs)
        ours, records = measured(runs)
        paper = from_paper([row for row in published if _share(row.defense) is not None], list(setups))
        ours = filter_defenses(ours, lambda defense: _share(defense) is not None)

        figure, every = panels(
            len(setups),
            self.columns,
            1.9,
            x="erased share (% of the image)",
            y="percent",
            sharex=True,
        )
        for axes, (setup, own) in zip(every, setups.items(), strict=True):
            self._panel(axes, select(ours, setup), select(paper, setup))
            title_panel(axes, self._title(setup, own), not_run(own))
        handles = [*_handles(paper), *([official_handle()] if has_official(ours) else [])]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        notes = ["Bars are 95 % intervals.", *derived(paper)]
        if len(paper):
            notes += likenesses(runs, ours, str(runs[-1].settings["scale"]), ("acc", "att_acc1"))
        if any(setup in self.stand_ins for setup in setups):
            notes.append("*: the paper does not name the setup of this panel; ours stands in for it.")
        return Rendered(figure, {"": as_csv(ours, paper)}, records, notes)

    def _title(self, setup: str, runs: Sequence[PlannedRun]) -> str:
        star = "*" if setup in self.stand_ins else ""
        return f"{self.panels.get(setup, setup)}{star}: {attack_and_target(runs)}"

    def _panel(self, axes: Axes, ours: pd.DataFrame, paper: pd.DataFrame) -> None:
        axes.set(xlim=(-3, 53), ylim=(-3, 103), xticks=range(0, 60, 10))
        for metric, _, marker, line, colour in LINES:
            rows = ours.assign(share=_percent(ours)).sort_values("share")
            axes.errorbar(
                rows["share"], rows[metric].to_numpy(float), error_bars(rows, metric),
                marker=marker, linestyle=line, color=colour, linewidth=1.2, elinewidth=0.8,
            )  # fmt: skip
            if rows[f"{metric}_official"].notna().any():
                axes.plot(rows["share"], rows[f"{metric}_official"], color=colour, **OFFICIAL_MARK)
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
    handles = [
        Line2D([], [], marker=marker, linestyle=line, color=colour, label=name)
        for _, name, marker, line, colour in LINES
    ]
    if len(paper):
        handles += [
            Line2D([], [], label=f"paper: {name}", **_hollow(marker, colour))
            for _, name, marker, _, colour in LINES
        ]
    return handles


def _share(defense: DefenseName) -> float | None:
    """The fixed share of a run that belongs to a curve, in [0, 1]."""
    if not defense.names:
        return 0.0
    return defense.share[0] if defense.names == ("RE",) and defense.share is not None else None


def _percent(rows: pd.DataFrame) -> list[float]:
    return [100 * (_share(defense) or 0.0) for defense in rows["name"]]
