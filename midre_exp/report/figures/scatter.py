"""Accuracy against attack accuracy, a panel for each setup, a marker for each defense (Fig. 5)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from midre_exp.report.figures.labels import box, nest_marks, place_label, points
from midre_exp.report.figures.marks import (
    OFFICIAL_MARK,
    Mark,
    interval_handle,
    mark_of,
    official_handle,
)
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

#: The strip for what is printed without an accuracy, as a part of a panel.
_STRIP = 0.11


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
            2.4,
            x="accuracy (%), more is better",
            y="attack accuracy (%), less is safer",
        )
        defenses = list(dict.fromkeys(run.defense for run in runs))
        for axes, (setup, own) in zip(every, setups.items(), strict=True):
            _panel(axes, select(ours, setup), select(paper, setup), defenses)
            title_panel(axes, f"{setup}: {attack_and_target(own)}", not_run(own))
        handles = [*_handles(defenses, paper), *([official_handle()] if has_official(ours) else [])]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.draw_without_rendering()  # fixes where the panels are
        for axes, setup in zip(every, setups, strict=True):
            nest_marks(axes)
            _label(axes, select(ours, setup), defenses)
        notes = ["Bars are 95 % intervals.", *derived(paper)]
        if len(paper):
            notes += likenesses(runs, ours, str(runs[-1].settings["scale"]), ("acc", "att_acc1"))
        if paper["acc"].isna().any():
            notes.append(
                "Marks in the grey strip, with a line: of these the paper prints the attack accuracy alone "
                "(dashed), or a bound that it stays below (dotted, with an arrow)."
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
            **_style(mark.marker, mark.colour), elinewidth=0.6, zorder=3,
        )  # fmt: skip
        if has_official(row):
            official = [row[f"{m}_official"].fillna(row[m]) for m in ("acc", "att_acc1")]
            axes.plot(*official, color=mark.colour, **OFFICIAL_MARK)
    alone = []
    for row in paper.to_dict("records"):
        mark, limit = mark_of(row["name"], others), bound_of(row["note"])
        if _is_printed(row["acc"]) and _is_printed(row["att_acc1"]):
            axes.plot([row["acc"]], [row["att_acc1"]], **_style(mark.marker, mark.colour, hollow=True))
        elif _is_printed(row["att_acc1"]):
            alone.append((row["att_acc1"], False, mark))
        elif limit is not None:
            alone.append((limit, True, mark))
    if alone:
        _levels(axes, alone)


def _levels(axes: Axes, alone: Sequence[tuple[float, bool, Mark]]) -> None:
    """What is printed without an accuracy: lines over the whole panel, each with the hollow mark of its
    defense in a strip of its own at the left edge. ``alone``: attack accuracy, whether it is a bound, mark.
    """
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])  # the strip has no scale
    axes.set_xlim(low - (high - low) * _STRIP / (1 - _STRIP), high)
    strip = Rectangle((0, 0), _STRIP, 1, transform=axes.transAxes, color="0.92", linewidth=0, zorder=0.5)
    axes.add_patch(strip)
    across = axes.get_yaxis_transform()
    for height, is_bound, mark in alone:
        line = ":" if is_bound else "--"
        axes.axhline(height, linestyle=line, color=mark.colour, linewidth=0.8, zorder=1.4)
        axes.plot([_STRIP / 2], [height], transform=across, **_style(mark.marker, mark.colour, hollow=True))
        if is_bound:
            arrow = {"arrowstyle": "->", "color": mark.colour, "linewidth": 1, "shrinkA": 4, "shrinkB": 0}
            axes.annotate(
                "", (_STRIP / 2, height - 17), (_STRIP / 2, height),
                xycoords=across, textcoords=across, arrowprops=arrow,
            )  # fmt: skip


def _label(axes: Axes, ours: pd.DataFrame, others: Sequence[DefenseName]) -> None:
    """The name of each defense beside its mark."""
    rows = ours.to_dict("records")
    taken = [box(axes, (row["acc"], row["att_acc1"]), (row["acc"], row["att_acc1"]), 4) for row in rows]
    for line in axes.lines:  # hollow marks too, wherever they are measured from
        if len(points(line)) == 1 and line.get_markerfacecolor() == "white":
            x, y = line.get_transform().transform(points(line))[0]
            taken.append(Bbox.from_extents(x - 8, y - 8, x + 8, y + 8))
    for line in axes.lines:
        if line.get_linestyle() in (":", "--") and list(points(line)[:, 0]) == [0, 1]:  # a level
            height = float(points(line)[0, 1])
            (left, right) = axes.get_xlim()
            taken.append(box(axes, (left, height), (right, height), 0.5))
    for row in rows:
        taken.append(box(axes, (row["acc_low"], row["att_acc1"]), (row["acc_high"], row["att_acc1"]), 1))
        taken.append(box(axes, (row["acc"], row["att_acc1_low"]), (row["acc"], row["att_acc1_high"]), 1))
    for row in sorted(rows, key=lambda each: float(each["att_acc1"])):
        place, colour = (row["acc"], row["att_acc1"]), mark_of(row["name"], others).colour
        taken.append(place_label(axes, taken, display_name(row["name"]), place, colour))


def bound_of(note: str) -> float | None:
    """The percent that attack accuracy is printed to be below, from the note of a row."""
    match = re.match(r"attack_acc < (\d+(?:\.\d+)?)", note)
    return float(match[1]) if match else None


def _style(marker: Any, colour: str, *, hollow: bool = False) -> dict[str, Any]:
    big = 3 if marker in ("*", "P") else 0
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
    handles.append(interval_handle())
    if not len(paper):
        return handles
    handles.append(Line2D([], [], label="paper: hollow marks", **_style("o", "#000000", hollow=True)))
    levels = paper[paper["acc"].isna()]
    bounds = [bound_of(note) is not None for note in levels["note"]]
    if not all(bounds):
        handles.append(
            Line2D(
                [],
                [],
                color="black",
                linestyle="--",
                linewidth=0.8,
                label="paper, in the strip: accuracy not printed",
            )
        )
    if any(bounds):
        words = "paper, in the strip: less than this"
        arrow: dict[str, Any] = {"marker": r"$\downarrow$", "markersize": 7, "linestyle": ":"}
        handles.append(Line2D([], [], color="black", label=words, **arrow))
    return handles


def _is_printed(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
