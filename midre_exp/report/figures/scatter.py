"""Accuracy against attack accuracy, a panel for each setup, a marker for each defense (Fig. 5)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from midre_exp.report.figures.marks import OFFICIAL_MARK, mark_of, official_handle
from midre_exp.report.figures.points import (
    as_csv,
    attack_and_target,
    by_setup,
    derived,
    error_bars,
    from_paper,
    has_official,
    likenesses,
    measured,
    not_run,
    select,
)
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.defense_names import DefenseName, display_name
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult


class Scatter(Plot):
    """A marker for each defense; our runs are all drawn."""

    def __init__(self, *, defenses: Sequence[Sequence[str]], columns: int = 3):
        self.defenses = {tuple(names) for names in defenses}  # of the paper's rows, those to draw
        self.columns = columns  # panels in a line

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """A marker for every run; of the paper hollow ones, or a line where it prints the attack accuracy
        alone.
        """
        setups = by_setup(runs)
        ours, records = measured(runs)
        paper = from_paper([row for row in published if row.defense.names in self.defenses], list(setups))
        figure, every = panels(
            len(setups),
            self.columns,
            2.1,
            x="accuracy (%), more is better",
            y="attack accuracy (%), less is safer",
        )
        defenses = list(dict.fromkeys(run.defense for run in runs))
        for axes, (setup, own) in zip(every, setups.items(), strict=True):
            _panel(axes, select(ours, setup), select(paper, setup), defenses)
            title_panel(axes, f"{setup}: {attack_and_target(own)}", not_run(own))
        handles = [*_handles(defenses, paper), *([official_handle()] if has_official(ours) else [])]
        figure.legend(handles=handles, loc="outside lower center", ncols=5)
        notes = ["Bars are 95 % intervals.", *derived(paper)]
        if len(paper):
            notes += likenesses(runs, ours, str(runs[-1].settings["scale"]), ("acc", "att_acc1"))
        if paper["acc"].isna().any():
            notes.append(
                "Lines: of these the paper prints the attack accuracy alone, or a bound of it "
                "(dotted, with arrows)."
            )
        return Rendered(figure, {"": as_csv(ours, paper)}, records, notes)


def _panel(axes: Axes, ours: pd.DataFrame, paper: pd.DataFrame, others: Sequence[DefenseName]) -> None:
    axes.set(ylim=(-3, 103), yticks=range(0, 120, 20))
    if ours.empty and paper.dropna(subset=["acc", "att_acc1"]).empty:
        axes.set_xticks([])  # levels alone
    for place, defense in enumerate(ours["name"]):
        row, mark = ours.iloc[[place]], mark_of(defense, others)
        axes.errorbar(
            row["acc"].to_numpy(float), row["att_acc1"].to_numpy(float),
            error_bars(row, "att_acc1"), error_bars(row, "acc"),
            **_style(mark.marker, mark.colour), elinewidth=0.6,
        )  # fmt: skip
        if has_official(row):
            official = [row[f"{m}_official"].fillna(row[m]) for m in ("acc", "att_acc1")]
            axes.plot(*official, color=mark.colour, **OFFICIAL_MARK)
    for row in paper.to_dict("records"):
        mark = mark_of(row["name"], others)
        limit = bound_of(row["note"])
        if _is_printed(row["acc"]) and _is_printed(row["att_acc1"]):
            axes.plot([row["acc"]], [row["att_acc1"]], **_style(mark.marker, mark.colour, hollow=True))
        elif _is_printed(row["att_acc1"]):
            _line(axes, row["att_acc1"], "--", mark.marker, mark.colour)
        elif limit is not None:
            _line(axes, limit, ":", mark.marker, mark.colour)
            axes.plot(
                [0.12],
                [limit - 4],
                "v",
                color=mark.colour,
                markersize=3,
                transform=axes.get_yaxis_transform(),
            )


def _line(axes: Axes, height: float, style: str, marker: str, colour: str) -> None:
    """A level over the whole panel that carries the hollow marker of its defense at the left end."""
    axes.axhline(height, linestyle=style, color=colour, linewidth=0.8, zorder=1.4)
    axes.plot([0.04], [height], transform=axes.get_yaxis_transform(), **_style(marker, colour, hollow=True))


def bound_of(note: str) -> float | None:
    """The percent that attack accuracy is printed to be below, from the note of a row."""
    match = re.match(r"attack_acc < (\d+(?:\.\d+)?)", note)
    return float(match[1]) if match else None


def _style(marker: str, colour: str, *, hollow: bool = False) -> dict[str, Any]:
    big = 3 if marker in "*P" else 0
    return {
        "marker": marker,
        "linestyle": "none",
        "color": colour,
        "markerfacecolor": "white" if hollow else colour,
        "markersize": (7 if hollow else 5) + big,
    }


def _handles(defenses: Sequence[DefenseName], paper: pd.DataFrame) -> list[Line2D]:
    marks = [(display_name(defense), mark_of(defense, defenses)) for defense in defenses]
    handles = [Line2D([], [], label=label, **_style(mark.marker, mark.colour)) for label, mark in marks]
    if len(paper):
        handles.append(Line2D([], [], label="paper: the same, hollow", **_style("o", "#000000", hollow=True)))
    return handles


def _is_printed(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
