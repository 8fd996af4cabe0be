"""Leakage over robust accuracy: every arm, and the straight line through all of them, a panel for each
network and attack. An arm off the line leaks less, or more, than its robustness tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.report.claims.effects import Effect
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns, comparison_groups
from midre_exp.report.claims.leakage_line import ROBUST, arms_of, line_draws, off_the_line, slope
from midre_exp.report.figures.frontier import arm_handles, draw_arm, label_arms, number_of
from midre_exp.report.figures.marks import Mark, mark_of
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.defense_names import DefenseName
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

_GRID = 60
_ENDS = (0.025, 0.975)


class Leakage(Plot):
    """A line with its 95 % band and its slope, and a marker with both intervals for each arm."""

    def __init__(self, *, columns: int = 4):
        self.columns = columns  # panels in a line

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Groups with fewer than three diagnosed arms are drawn without a line. Raises ConfigError without
        any record that has diagnostics.
        """
        groups, _ = comparison_groups([run.record for run in runs if run.record is not None])
        diagnosed = [(group, arms) for group in groups if (arms := arms_of(group))]
        if not diagnosed:
            raise ConfigError(
                "figure leakage has no finished run with diagnostics yet; leave out --no-run to run it, "
                "with diagnostics=default"
            )
        figure, every = panels(
            len(diagnosed),
            self.columns,
            2.3,
            x="robust accuracy (%), mean over log eps",
            y="attack accuracy (%), less is safer",
        )
        names = list(dict.fromkeys(arm.name for _, arms in diagnosed for arm in arms if arm.name.names))
        drawn = [(axes, group, arms) for axes, (group, arms) in zip(every, diagnosed, strict=True)]
        for axes, group, arms in drawn:
            found = slope(group, "nothing")
            _panel(axes, group, arms, names)
            title_panel(axes, f"{attack_name(group.attack)}, {network_name(group.target)}: {_told(found)}")
        figure.legend(
            handles=[
                Line2D([], [], color="black", label="line through all arms"),
                Patch(color="0.85", label="its 95 % band"),
                *arm_handles(names),
            ],
            loc="outside lower center",
            ncols=min(5, 1 + min(self.columns, len(diagnosed))),
        )
        label_arms(figure, drawn, names, lambda group: _ends(group, arms_of(group)), ROBUST)
        table = pd.DataFrame([_row(group, arm) for _, group, arms in drawn for arm in arms])
        left_out = sum(len(group.defenses) for group in groups) - len(table)
        notes = [
            "Line: least squares through all arms, NoDef among them, with its 95 % band; above each panel "
            "its slope, in points of attack accuracy for a point of robust accuracy. Bars are 95 % "
            "intervals. Robust accuracy: test images that stay right under PGD, mean over the logarithm of "
            "eps."
        ]
        if left_out:
            notes.append(
                f"{left_out} arms are not shown: without diagnostics, stopped early, or acting at deployment "
                "alone on the network of another arm."
            )
        used = [record for _, _, arms in drawn for arm in arms for record in arm.records]
        return Rendered(figure, {"": table}, used, notes)


def _told(found: Effect | None) -> str:
    if found is None:
        return "no line"
    low, high = np.quantile(found.draws, _ENDS)
    return f"{found.value:.2f} [{low:.2f}, {high:.2f}]"


def _panel(
    axes: Axes, group: ComparisonGroup, arms: Sequence[DefenseRuns], names: Sequence[DefenseName]
) -> None:
    xs, ys = _ends(group, arms)
    if xs:
        at = np.linspace(xs[0], xs[-1], _GRID)
        lines = line_draws(group, at)
        assert lines is not None
        low, high = np.quantile(np.clip(lines[1:], 0, 100), _ENDS, axis=0)
        axes.fill_between(at, low, high, color="0.85", linewidth=0, zorder=1)
        axes.plot(xs, ys, color="black", linewidth=1, zorder=2)
    for arm in arms:
        mark = mark_of(arm.name, names) if arm.name.names else Mark("o", "#000000", "")
        draw_arm(axes, group, arm, mark, ROBUST)
    axes.margins(0.12)


def _ends(group: ComparisonGroup, arms: Sequence[DefenseRuns]) -> tuple[list[float], list[float]]:
    """The line between its most fragile and its most robust arm; nothing where there is none."""
    xs = sorted(arm.mean(ROBUST) for arm in arms)[:: max(1, len(arms) - 1)]
    lines = line_draws(group, np.asarray(xs))
    return ([], []) if lines is None else (xs, lines[0].tolist())


def _row(group: ComparisonGroup, arm: DefenseRuns) -> dict[str, Any]:
    row: dict[str, Any] = {
        "setup": group.setup,
        "attack": group.attack,
        "target": group.target,
        "defense": arm.label,
        "seeds": len(arm.seeds),
    }
    for metric in ("acc", ROBUST, "att_acc1"):
        value, low, high = number_of(group, arm, metric)
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    off = off_the_line(group, arm)
    low_high = (None, None) if off is None else np.quantile(off.draws, _ENDS).tolist()
    row["off_the_line"] = None if off is None else off.value
    row["off_the_line_low"], row["off_the_line_high"] = low_high
    return row
