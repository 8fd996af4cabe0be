"""Robust accuracy over the largest change of a pixel, a panel for each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import pandas as pd
from matplotlib.lines import Line2D

from midre_exp.plan.spelling import network_name
from midre_exp.records import Record
from midre_exp.report.figures.labels import put_beside
from midre_exp.report.figures.marks import mark_of
from midre_exp.report.figures.style import Plot, Rendered, panels, title_panel
from midre_exp.report.runs.defense_names import display_name
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

#: Where clean accuracy stands: left of the least eps by this factor.
_CLEAN = 0.5


class RobustCurves(Plot):
    """A line for each defense; its first point is clean accuracy on the same images."""

    def __init__(self, *, columns: int = 2):
        self.columns = columns  # panels in a line

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """The curves of all runs with diagnostics; seeds are averaged, bars are the widest of their ends."""
        places = list(dict.fromkeys((run.setup, run.row["target"]) for run in runs))
        names = {run.label: run.defense for run in runs}
        defenses = list(dict.fromkeys(names.values()))
        figure, every = panels(len(places), self.columns, 2.2, x="eps (1/255)", y="robust accuracy (%)")
        rows: list[dict[str, object]] = []
        drawn: dict[str, Record] = {}
        for axes, place in zip(every, places, strict=True):
            axes.set_xscale("log", base=2)
            own = [run for run in runs if (run.setup, run.row["target"]) == place]
            missing = []
            labels = list(dict.fromkeys(run.label for run in own))
            for number, label in enumerate(labels):
                records = [run.record for run in own if run.label == label and run.record is not None]
                points = _points(records)
                if not points:
                    missing.append(f"{display_name(names[label])}: no diagnostics")
                    continue
                drawn.update({record["key"]: record for record in records})
                mark = mark_of(names[label], defenses)
                table = pd.DataFrame(points)
                lows = (table["value"] - table["low"]).clip(lower=0)
                highs = (table["high"] - table["value"]).clip(lower=0)
                least = table["eps"][table["eps"] > 0].min()
                x = table["eps"].where(table["eps"] > 0, _CLEAN * least)
                line = axes.errorbar(
                    x.to_numpy(), table["value"].to_numpy(), [lows.to_numpy(), highs.to_numpy()],
                    marker=mark.marker, color=mark.colour, linewidth=0.9, elinewidth=0.5,
                )  # fmt: skip
                put_beside(axes, line, number, len(labels))
                rows += [
                    {"setup": place[0], "target": place[1], "defense": label, **point} for point in points
                ]
            axes.set_ylim(-3, 103)
            network = network_name(place[1])
            several = len({one for one, _ in places}) > 1
            title_panel(axes, f"{place[0]} {network}" if several else network, missing)
        handles = [
            Line2D([], [], label=display_name(defense), marker=mark.marker, color=mark.colour)
            for defense in defenses
            for mark in [mark_of(defense, defenses)]
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        notes = [
            "The first point of a line is clean accuracy on the same images. Bars are 95 % intervals of "
            "these images, of several seeds the widest ends. Points of one eps lie side by side so that all "
            "are seen."
        ]
        columns = ["setup", "target", "defense", "eps", "value", "low", "high", "seeds"]
        return Rendered(figure, {"": pd.DataFrame(rows, columns=columns)}, list(drawn.values()), notes)


def _points(records: Sequence[Record]) -> list[dict[str, float]]:
    """Clean accuracy as eps 0, then the curve, means over the seeds that have it; of one target many attacks
    may tell.
    """
    targets = {record["artifacts"].get("diagnostics", record["key"]): record for record in records}
    curves = [
        record["diagnostics"]["robust_accuracy"]
        for record in targets.values()
        if "robust_accuracy" in record.get("diagnostics", {})
    ]
    found: dict[float, list[dict[str, float]]] = {}
    for curve in curves:
        for point in [{"eps": 0.0, **curve["clean"]}, *curve["points"]]:
            found.setdefault(float(point["eps"]), []).append(point)
    return [
        {
            "eps": eps,
            "value": mean(point["value"] for point in points),
            "low": min(point["low"] for point in points),
            "high": max(point["high"] for point in points),
            "seeds": len(points),
        }
        for eps, points in sorted(found.items())
    ]
