"""What targets come to after shorter and longer trainings, a panel for each network and metric (the figure of
the table ``convergence``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.report.figures.labels import put_beside
from midre_exp.report.figures.marks import mark_of
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.defense_names import display_name
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult
from midre_exp.report.tables.convergence import Arm, Point, points_of

#: Metric, what its panel is called.
METRICS = (
    ("train_acc", "train accuracy"),
    ("acc", "accuracy"),
    ("att_acc1", "attack accuracy"),
)


class Lengths(Plot):
    """A line for each arm over the epochs of its training."""

    def __init__(self, *, lengths: Sequence[float]):
        self.lengths = tuple(lengths)  # those of the table

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """The lines through every training that was measured."""
        arms = points_of(runs, self.lengths)
        names = {run.label: run.defense for run in runs}
        defenses = list(dict.fromkeys(names.values()))
        places = list(dict.fromkeys((setup, attack, target) for setup, attack, target, _ in arms))
        figure, every = panels(len(places) * len(METRICS), len(METRICS), 2.0, x="epochs", y="percent")
        for number, (setup, attack, target) in enumerate(places):
            own = {arm: points for arm, points in arms.items() if arm[:3] == (setup, attack, target)}
            for (metric, title), axes in zip(METRICS, every[number * len(METRICS) :], strict=False):
                for place, (arm, points) in enumerate(own.items()):
                    mark = mark_of(names[arm[3]], defenses)
                    x, y, bars = _line(points, metric)
                    drawn = axes.errorbar(
                        x, y, bars, marker=mark.marker, color=mark.colour, linewidth=0.9, elinewidth=0.5
                    )
                    put_beside(axes, drawn, place, len(own))
                by = f", {attack_name(attack)}" if metric == "att_acc1" else ""
                title_panel(axes, f"{network_name(target)}: {title}{by}")
        handles = [
            Line2D([], [], label=display_name(defense), marker=mark.marker, color=mark.colour)
            for defense in defenses
            for mark in [mark_of(defense, defenses)]
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        records = [record for points in arms.values() for point in points for record in point.records]
        notes = [
            "Every point is a training of its own with a schedule of its own; bars are 95 % intervals of its "
            "test images and attacked identities. Points of one length lie side by side so that all "
            "are seen."
        ]
        return Rendered(figure, {"": _as_table(arms)}, records, notes)


def _line(points: Sequence[Point], metric: str) -> tuple[list[int], list[float], np.ndarray | None]:
    """Epochs, values and the distances to the ends of their intervals, where there are any."""
    x = [point.epochs for point in points]
    if metric == "train_acc":
        return x, [float("nan") if point.train_acc is None else point.train_acc for point in points], None
    y = [point.values[metric] for point in points]
    ends = np.array([point.intervals[metric] for point in points]).reshape(-1, 2)
    return x, y, np.clip(np.stack([y - ends[:, 0], ends[:, 1] - y]), 0, None)


def _as_table(arms: Mapping[Arm, Sequence[Point]]) -> pd.DataFrame:
    rows = [
        {
            **dict(zip(("setup", "attack", "target", "defense"), arm, strict=True)),
            "epochs": point.epochs,
            "train_acc": point.train_acc,
            **point.values,
            "seeds": len(point.records),
        }
        for arm, points in arms.items()
        for point in points
    ]
    return pd.DataFrame(rows)
