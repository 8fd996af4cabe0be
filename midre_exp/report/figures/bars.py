"""Bars for each setup: accuracy, attack accuracy, and the latter's change by a defense (Figs. 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from midre_exp.report.figures.marks import (
    OFFICIAL_MARK,
    WHISKER,
    fill,
    interval_handle,
    mark_of,
    official_handle,
)
from midre_exp.report.figures.points import (
    absence,
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
from midre_exp.report.figures.style import Plot, Rendered
from midre_exp.report.runs.defense_names import DefenseName, display_name
from midre_exp.report.runs.planned_runs import NOT_RUN, PlannedRun
from midre_exp.report.runs.published import PublishedResult

PANELS = (
    ("acc", "accuracy (%)"),
    ("att_acc1", "attack accuracy (%)"),
    ("att_acc1_change", "change in attack accuracy (points)"),
)
WIDTH = 0.8  # of a group of bars, in units of their distance


class Bars(Plot):
    """A group of bars for each setup, one for each defense; the paper's drops of attack accuracy as lines
    across a group.
    """

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Three panels. Where nothing was run the group says so."""
        setups = by_setup(runs)
        ours, records = measured(runs)
        paper = from_paper(published, list(setups))
        defenses = list(dict.fromkeys(run.defense for run in runs))
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        for axes, (metric, heading) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            _panel(axes, metric, setups, defenses, ours)
            axes.set_title(heading, loc="left")
            axes.set_xticks(range(len(setups)), [_tick(setup, own) for setup, own in setups.items()])
            if metric == "att_acc1_change":
                _drops(axes, list(setups), paper)
            else:
                axes.set_ylim(0, 103)
        handles = [*_handles(defenses, paper), *([official_handle()] if has_official(ours) else [])]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        notes = ["Bars about the ends are 95 % intervals.", *derived(paper)]
        if len(paper):
            notes += likenesses(runs, ours, str(runs[-1].settings["scale"]), ("acc", "att_acc1"))
        if len(paper):
            notes.append(
                "The paper prints drops alone, not for which range of MIDRE; an arrow: it says that the drop "
                "is larger."
            )
        return Rendered(figure, {"": as_csv(ours, paper)}, records, notes)


def _panel(
    axes: Axes,
    metric: str,
    setups: Mapping[str, Sequence[PlannedRun]],
    defenses: Sequence[DefenseName],
    ours: pd.DataFrame,
) -> None:
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.6, len(setups) - 0.4)
    shown = [defense for defense in defenses if defense.names or metric != "att_acc1_change"]
    width = WIDTH / len(defenses)
    for group, (setup, runs) in enumerate(setups.items()):
        for place, defense in enumerate(shown):
            rows = select(ours, setup, defense)
            x = group + (place - (len(shown) - 1) / 2) * width
            if rows.empty or rows[metric].isna().all():
                level = axes.get_xaxis_transform()
                reasons = [absence(run) for run in runs if run.defense == defense]
                axes.text(
                    x,
                    0.03,
                    next(filter(None, reasons), NOT_RUN),
                    rotation=90,
                    ha="center",
                    va="bottom",
                    color="0.4",
                    transform=level,
                )
                continue
            mark = mark_of(defense, defenses)
            axes.bar(
                [x], rows[metric].to_numpy(float), 0.9 * width, yerr=error_bars(rows, metric),
                **WHISKER, **fill(mark),
            )  # fmt: skip
            if rows[f"{metric}_official"].notna().all():
                axes.plot([x], rows[f"{metric}_official"], color="black", **OFFICIAL_MARK)
    if metric == "att_acc1_change":
        axes.axhline(0, color="black", linewidth=0.8)


def _drops(axes: Axes, setups: Sequence[str], paper: pd.DataFrame) -> None:
    for row in paper.to_dict("records"):
        x, at_least = setups.index(row["setup"]), drop_of(row["note"])
        drop = at_least if at_least is not None else row["att_acc1_change"]
        if drop is None or np.isnan(drop):
            continue
        axes.hlines(
            drop, x - WIDTH / 2, x + WIDTH / 2, colors="black", linestyles="--", linewidth=1.2, zorder=3
        )
        if at_least is not None:
            end = x + WIDTH / 2  # beside the bars and their whiskers
            axes.annotate(
                "", (end, drop - 9), (end, drop), arrowprops={"arrowstyle": "->", "linewidth": 1.2}, zorder=3
            )
            axes.update_datalim([(x, drop - 10)])
    axes.autoscale_view(scalex=False)


def drop_of(note: str) -> float | None:
    """The change in points that the one of attack accuracy is printed to be below, from the note of a row."""
    match = re.match(r"attack_acc_change < (-\d+(?:\.\d+)?)", note)
    return float(match[1]) if match else None


def _tick(setup: str, runs: Sequence[PlannedRun]) -> str:
    missing = not_run(runs)
    return f"{setup}\n{attack_and_target(runs).partition(', ')[2]}" + ("\n(incomplete)" if missing else "")


def _handles(defenses: Sequence[DefenseName], paper: pd.DataFrame) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [
        Patch(label=display_name(defense), **fill(mark_of(defense, defenses))) for defense in defenses
    ]
    handles.append(interval_handle())
    if len(paper):
        larger = any(drop_of(note) is not None for note in paper["note"])
        words = "paper (arrow: a larger drop)" if larger else "paper"
        handles.append(Line2D([], [], color="black", linestyle="--", label=words))
    return handles
