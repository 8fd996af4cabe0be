"""Bars for each setup: accuracy, attack accuracy, and what a defense takes from the latter (Figs. 6 and 7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from midre_exp.report.figures.points import (
    as_csv,
    bars_about,
    derived,
    from_paper,
    measured,
    named,
    not_run,
    panels_of,
    pick,
)
from midre_exp.report.figures.style import Drawing, Drawn, Mark, mark_of, name_of
from midre_exp.report.runs.defense_names import Arm
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published

PANELS = (
    ("acc", "accuracy (%)"),
    ("att_acc1", "attack accuracy (%)"),
    ("att_acc1_change", "change in attack accuracy (points)"),
)
WIDTH = 0.8  # of a group of bars, in units of their distance


class Bars(Drawn):
    """A group of bars for each setup, one for each defense; the paper's drops of attack accuracy as lines
    across a group.
    """

    def draw(
        self, cells: Sequence[Cell], printed: Sequence[Published], kept: Mapping[str, pd.DataFrame]
    ) -> Drawing:
        """Three panels. Where nothing was run the group says so."""
        setups = panels_of(cells)
        ours, records = measured(cells)
        paper = from_paper(printed, list(setups))
        arms = list(dict.fromkeys(cell.arm for cell in cells))
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        for axes, (metric, heading) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            _panel(axes, metric, list(setups), arms, ours)
            axes.set_title(heading, loc="left")
            axes.set_xticks(range(len(setups)), [_tick(setup, own) for setup, own in setups.items()])
            if metric == "att_acc1_change":
                _drops(axes, list(setups), paper)
            else:
                axes.set_ylim(0, 103)
        figure.legend(handles=_handles(arms, paper), loc="outside lower center", ncols=5)
        notes = ["Bars about the ends are 95 % intervals.", *derived(paper)]
        if len(paper):
            notes.append(
                "The paper prints drops alone, not for which range of MIDRE; an arrow: it says that the drop is larger."
            )
        return Drawing(figure, {"": as_csv(ours, paper)}, records, notes)


def _panel(axes: Axes, metric: str, setups: Sequence[str], arms: Sequence[Arm], ours: pd.DataFrame) -> None:
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.6, len(setups) - 0.4)
    shown = [arm for arm in arms if arm.names or metric != "att_acc1_change"]
    width = WIDTH / len(arms)
    for group, setup in enumerate(setups):
        for place, arm in enumerate(shown):
            rows = pick(ours, setup, arm)
            x = group + (place - (len(shown) - 1) / 2) * width
            if rows.empty or rows[metric].isna().all():
                level = axes.get_xaxis_transform()
                axes.text(
                    x, 0.03, "not run", rotation=90, ha="center", va="bottom", color="0.4", transform=level
                )
                continue
            mark = mark_of(arm, arms)
            axes.bar(
                [x], rows[metric].to_numpy(float), 0.9 * width, yerr=bars_about(rows, metric),
                ecolor="0.25", **_fill(mark),
            )  # fmt: skip
    if metric == "att_acc1_change":
        axes.axhline(0, color="black", linewidth=0.8)


def _fill(mark: Mark) -> dict[str, Any]:
    """White with a hatch, or solid for no defense: told apart without colour."""
    solid = not mark.hatch
    return {"facecolor": "0.35" if solid else "white", "edgecolor": mark.colour, "hatch": mark.hatch}


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
            axes.annotate(
                "", (x, drop - 9), (x, drop), arrowprops={"arrowstyle": "->", "linewidth": 1.2}, zorder=3
            )
            axes.update_datalim([(x, drop - 10)])
    axes.autoscale_view(scalex=False)


def drop_of(note: str) -> float | None:
    """The change in points that the one of attack accuracy is printed to be below, from the note of a row."""
    found = re.match(r"attack_acc_change < (-\d+(?:\.\d+)?)", note)
    return float(found[1]) if found else None


def _tick(setup: str, cells: Sequence[Cell]) -> str:
    missing = not_run(cells)
    return f"{setup}\n{named(cells).partition(', ')[2]}" + ("\n(incomplete)" if missing else "")


def _handles(arms: Sequence[Arm], paper: pd.DataFrame) -> list[Patch | Line2D]:
    found: list[Patch | Line2D] = [Patch(label=name_of(arm), **_fill(mark_of(arm, arms))) for arm in arms]
    if len(paper):
        found.append(Line2D([], [], color="black", linestyle="--", label="paper"))
    return found
