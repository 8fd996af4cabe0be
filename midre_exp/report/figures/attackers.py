"""What a defense is worth to attackers who know more: plain, informed, and the worst case of a suite, side by
side for each defense.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.report.claims.intervals import ComparisonGroup, DefenseRuns, comparison_groups
from midre_exp.report.figures.marks import WHISKER, interval_handle
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.convergence import MARK
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

#: Metric, label and look, told apart without colour.
BARS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("plain", "plain attacker", {"facecolor": "white", "edgecolor": "0.2"}),
    ("informed", "informed attacker", {"facecolor": "white", "edgecolor": "#D55E00", "hatch": "////"}),
    ("att_acc1", "worst case of the suite", {"facecolor": "0.75", "edgecolor": "0.2"}),
)
_WIDTH = 0.8  # of a group of bars, in units of their distance


class Attackers(Plot):
    """A panel for each suite and target, a group of bars for each defense."""

    def __init__(self, *, columns: int = 2):
        self.columns = columns  # panels in a line

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Raises ConfigError without the record of any suite."""
        records = [run.record for run in runs if run.record is not None and "suite" in run.record]
        groups, _ = comparison_groups(records)
        if not groups:
            raise ConfigError(
                "this figure shows suites of attacks, and none of its runs is a finished one; choose "
                "attack=worst_low or worst_high, and leave out --no-run to run it"
            )
        figure, every = panels(len(groups), self.columns, 2.6, x="", y="attack accuracy (%), less is safer")
        figure.set_figwidth(0.6 + 4.2 * min(self.columns, len(groups)))
        for axes, group in zip(every, groups, strict=True):
            _panel(axes, group)
            title_panel(axes, f"{attack_name(group.attack)}, {network_name(group.target)}")
        handles = [*(Patch(label=label, **look) for _, label, look in BARS), interval_handle()]
        columns = 2 if len(groups) == 1 else len(handles)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        table = pd.DataFrame([_row(group, defense) for group in groups for defense in group.defenses])
        used = [record for group in groups for defense in group.defenses for record in defense.records]
        notes = [
            "Bars about the ends are 95 % intervals over identities and seeds. The worst case is, of each "
            "identity, the best that any attack of the suite made: an upper bound. †: the record carries an "
            "alarm, such as that gradients may be masked. "
            f"{_at_equal_queries(table)}"
            f"{MARK}: the targets fit little of what they were shown."
        ]
        return Rendered(figure, {"": table}, used, notes)


def _panel(axes: Axes, group: ComparisonGroup) -> None:
    axes.grid(axis="x", visible=False)
    width = _WIDTH / len(BARS)
    for place, defense in enumerate(group.defenses):
        for number, (metric, _, look) in enumerate(BARS):
            if not _has(defense, metric):
                continue
            value, low, high = _interval(group, defense, metric)
            x = place + (number - (len(BARS) - 1) / 2) * width
            ends = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axes.bar([x], [value], 0.9 * width, yerr=ends, **WHISKER, **look)
    names = [defense.shown for defense in group.defenses]
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 103)


def _at_equal_queries(table: pd.DataFrame) -> str:
    """What the informed attacker spends, and what it finds for what the plain one spends."""
    told = (
        "Where the defense has it average over 8 copies, the informed attacker spends 8 times the queries of "
        "the plain one"
    )
    if "informed_equal" not in table:
        return f"{told}. "
    rows = table[table["informed_equal"].notna()].to_dict("records")
    found = [
        f"{row['informed_equal']:.1f} of {row['defense']} ({attack_name(row['suite'])}, "
        f"{network_name(row['target'])})"
        for row in rows
    ]
    return f"{told}; with an eighth of its steps it finds, in percent, {', '.join(found)}. "


def _has(defense: DefenseRuns, metric: str) -> bool:
    return all(metric in record["metrics"] for record in defense.records)


def _interval(group: ComparisonGroup, defense: DefenseRuns, metric: str) -> tuple[float, float, float]:
    low, high = np.quantile(group.draws(defense, metric), [0.025, 0.975])
    return defense.mean(metric), float(low), float(high)


def _row(group: ComparisonGroup, defense: DefenseRuns) -> dict[str, object]:
    row: dict[str, object] = {
        "setup": group.setup,
        "suite": group.attack,
        "target": group.target,
        "defense": defense.label,
        "seeds": len(defense.seeds),
        "acc": defense.mean("acc"),
    }
    named = ("plain", "informed", "informed_equal")
    for metric, name in (*((name, name) for name in named), ("att_acc1", "worst_case")):
        if _has(defense, metric):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = _interval(group, defense, metric)
    return row
