"""Every defense over the early-stopping frontier: accuracy against attack accuracy, a panel for each network
and attack. What lies below the line protects more than a less accurate undefended target does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.report.claims.frontier import EARLY_STOPPING, frontier_draws, frontier_of, gain_of, is_frontier
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns, comparison_groups
from midre_exp.report.figures.labels import box, line_boxes, nest_marks, place_label
from midre_exp.report.figures.marks import Mark, mark_of
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.defense_names import DefenseName, display_name
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

#: Accuracies at which the band is drawn, between the ends of a frontier.
GRID = 60
_ENDS = (0.025, 0.975)


class Frontier(Plot):
    """A line with its 95 % band, and a marker with both intervals for each defense."""

    def __init__(self, *, columns: int = 4):
        self.columns = columns  # panels in a line

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Groups without a frontier are drawn without a line. Raises ConfigError without any record."""
        records = [run.record for run in runs if run.record is not None]
        groups, _ = comparison_groups(records)
        if not groups:
            raise ConfigError("figure frontier has no finished run yet; leave out --no-run to run it")
        figure, every = panels(
            len(groups),
            self.columns,
            2.3,
            x="accuracy (%), more is better",
            y="attack accuracy (%), less is safer",
        )
        arms = list(dict.fromkeys(d.name for group in groups for d in group.defenses if not is_frontier(d)))
        for axes, group in zip(every, groups, strict=True):
            lacking = [] if frontier_of(group) else ["no frontier"]
            _panel(axes, group, arms)
            title_panel(axes, f"{attack_name(group.attack)}, {network_name(group.target)}", lacking)
        figure.legend(
            handles=_handles(arms),
            loc="outside lower center",
            ncols=min(5, 1 + min(self.columns, len(groups))),
        )
        drawn = [(axes, group, group.defenses) for axes, group in zip(every, groups, strict=True)]
        label_arms(figure, drawn, arms, _frontier_line)
        table = pd.DataFrame([_row(group, defense) for group in groups for defense in group.defenses])
        notes = [
            "Line: undefended targets stopped at several accuracies (small circles) and NoDef, the "
            "early-stopping frontier, with its 95 % band. Bars are 95 % intervals. What lies below the line "
            "protects more than stopping early does, at the same accuracy."
        ]
        used = [record for group in groups for defense in group.defenses for record in defense.records]
        return Rendered(figure, {"": table}, used, notes)


def _panel(axes: Axes, group: ComparisonGroup, arms: Sequence[DefenseName]) -> None:
    points = frontier_of(group)
    if points:
        accuracies = [point.mean("acc") for point in points]
        at = np.linspace(min(accuracies), accuracies[0], GRID)
        like = group.draws(points[0], "acc")
        draws = np.stack([frontier_draws(group, points, np.full_like(like, x)) for x in at])
        low, high = np.quantile(draws, _ENDS, axis=1)
        axes.fill_between(at, low, high, color="0.85", linewidth=0, zorder=1)
        inside = sorted((p for p in points if p.mean("acc") <= accuracies[0]), key=lambda p: p.mean("acc"))
        axes.plot(
            [p.mean("acc") for p in inside], [p.mean("att_acc1") for p in inside],
            color="black", linewidth=1, marker="o", markersize=3, zorder=2,
        )  # fmt: skip
    for defense in group.defenses:
        if defense.name.names == ():
            draw_arm(axes, group, defense, Mark("o", "#000000", ""))
        elif not is_frontier(defense):
            draw_arm(axes, group, defense, mark_of(defense.name, arms))
    axes.margins(0.12)


def draw_arm(
    axes: Axes, group: ComparisonGroup, defense: DefenseRuns, mark: Mark, across: str = "acc"
) -> None:
    """The marker of a defense with its 95 % intervals: attack accuracy over the metric ``across``."""
    x, y = (number_of(group, defense, metric) for metric in (across, "att_acc1"))
    axes.errorbar(
        [x[0]], [y[0]], [[max(y[0] - y[1], 0)], [max(y[2] - y[0], 0)]],
        [[max(x[0] - x[1], 0)], [max(x[2] - x[0], 0)]],
        marker=mark.marker, color=mark.colour, linestyle="none", elinewidth=0.6, capsize=1.5, zorder=3,
        markersize=8 if mark.marker in ("*", "P") else 5,
    )  # fmt: skip


def number_of(group: ComparisonGroup, defense: DefenseRuns, metric: str) -> tuple[float, float, float]:
    """A metric in percent with the ends of its 95 % interval."""
    low, high = np.clip(np.quantile(group.draws(defense, metric), _ENDS), 0, 100)
    return defense.mean(metric), float(low), float(high)


def label_arms(
    figure: Figure,
    every: Sequence[tuple[Axes, ComparisonGroup, Sequence[DefenseRuns]]],
    arms: Sequence[DefenseName],
    line: Callable[[ComparisonGroup], tuple[Sequence[float], Sequence[float]]],
    across: str = "acc",
) -> None:
    """Put the name of each defense beside its marker, where it covers neither a marker, nor the ``line`` of
    its panel (x, y), nor another name; with a thin line to it where that is not next to it. ``every``: each
    panel with its group and what is drawn of it; ``across``: the metric on x.
    """
    figure.draw_without_rendering()  # fixes where the panels are
    for axes, group, drawn in every:
        nest_marks(axes)
        shown = [defense for defense in drawn if defense.name.names != (EARLY_STOPPING,)]
        taken = [own for defense in drawn for own in _drawn(axes, group, defense, across)]
        taken += line_boxes(axes, *line(group))
        for defense in sorted(shown, key=lambda each: each.mean("att_acc1")):
            colour = "#000000" if not defense.name.names else mark_of(defense.name, arms).colour
            place = (defense.mean(across), defense.mean("att_acc1"))
            taken.append(place_label(axes, taken, display_name(defense.name), place, colour))


def _frontier_line(group: ComparisonGroup) -> tuple[list[float], list[float]]:
    points = sorted((p.mean("acc"), p.mean("att_acc1")) for p in frontier_of(group))
    return [x for x, _ in points], [y for _, y in points]


def _drawn(axes: Axes, group: ComparisonGroup, defense: DefenseRuns, across: str) -> list[Bbox]:
    """What the marker of a defense and its bars cover."""
    (x, *ends_x), (y, *ends_y) = (number_of(group, defense, metric) for metric in (across, "att_acc1"))
    found = [box(axes, (x, y), (x, y), 3.5)]
    if defense.name.names != (EARLY_STOPPING,):
        found += [
            box(axes, (ends_x[0], y), (ends_x[1], y), 1),
            box(axes, (x, ends_y[0]), (x, ends_y[1]), 1),
        ]
    return found


def _handles(arms: Sequence[DefenseName]) -> list[Line2D | Patch]:
    line = Line2D([], [], color="black", marker="o", markersize=3, label="early stopping")
    return [line, Patch(color="0.85", label="its 95 % band"), *arm_handles(arms)]


def arm_handles(arms: Sequence[DefenseName]) -> list[Line2D]:
    """NoDef and each arm, for a legend."""
    handles = [Line2D([], [], color="black", marker="o", linestyle="none", label="NoDef")]
    for name in arms:
        mark = mark_of(name, arms)
        handles.append(
            Line2D([], [], color=mark.colour, marker=mark.marker, linestyle="none", label=display_name(name))
        )
    return handles


def _row(group: ComparisonGroup, defense: DefenseRuns) -> dict[str, Any]:
    row: dict[str, Any] = {
        "setup": group.setup,
        "attack": group.attack,
        "target": group.target,
        "defense": defense.label,
        "seeds": len(defense.seeds),
    }
    for metric in ("acc", "att_acc1"):
        value, low, high = number_of(group, defense, metric)
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    gain = gain_of(group, defense)
    low_high = None if gain is None else gain.interval
    row["gain"] = None if gain is None else gain.value
    row["gain_low"], row["gain_high"] = low_high or (None, None)
    row["gain_at"] = "" if gain is None else gain.position
    return row
