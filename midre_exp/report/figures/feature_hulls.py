"""Feature space with convex hulls: reconstructions among private and erased images (Fig. 3), and identities
apart from each other (Fig. 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from midre_exp.errors import ConfigError
from midre_exp.report.figures.feature_space import (
    Points,
    clouds_of,
    hull,
    hull_numbers,
    points_of,
    share_inside,
)
from midre_exp.report.figures.style import Plot, Rendered
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult

#: kind, name, marker, line of the hull, colour, filled
LOOKS = {
    "private": ("private images", "o", "-", "#0072B2", True),
    "erased": ("the same, erased", "^", "--", "#E69F00", False),
    "reconstruction": ("reconstructions", "x", ":", "#000000", True),
}
MARKS = (("o", "#0072B2"), ("^", "#D55E00"), ("s", "#009E73"), ("D", "#CC79A7"), ("v", "#000000"))

PLANE = (
    "The plane: the first two principal components of the penultimate activations of the private and the "
    "erased images shown, of each model its own, with the percent of the variance they hold. Being inside a "
    "hull here does not say being inside in all directions."
)


class _FeatureSpace(Plot):
    """A plot of the features of NoDef and of RE."""

    def __init__(self, *, identities: int):
        self.identities = identities  # how many of the first ones

    def points(
        self, runs: Sequence[PlannedRun], cached: Mapping[str, pd.DataFrame]
    ) -> tuple[pd.DataFrame, list[PlannedRun]]:
        """The points of NoDef and of RE in this order, and the two runs; from an earlier rendering of the
        same artifacts if it is there.

        Raises ConfigError when one of the two has not been run, and what ``points_of`` raises.
        """
        pair = [_finished(runs, names) for names in ((), ("RE",))]
        table = cached.get("")
        if table is not None and _is_of(table, pair, self.identities):
            return table, pair
        return pd.concat([points_of(run, pair[1], self.identities) for run in pair], ignore_index=True), pair


def _finished(runs: Sequence[PlannedRun], names: tuple[str, ...]) -> PlannedRun:
    own = [run for run in runs if run.defense.names == names]
    if not own or own[0].record is None:
        raise ConfigError(
            f"this figure needs a finished run of {' and '.join(names) or 'NoDef'}"
            + (f"; run {own[0].command}" if own else " among its sweeps")
        )
    return own[0]


def _is_of(table: pd.DataFrame, runs: Sequence[PlannedRun], identities: int) -> bool:
    """Whether an earlier rendering's points are of the artifacts of these runs."""
    if not {"target", "reconstructed", "identity", "kind", "x", "y"} <= set(table):
        return False
    drawn = set(zip(table["target"], table["reconstructed"], strict=True))
    artifacts = [run.record["artifacts"] for run in runs if run.record is not None]
    wanted = {(keys["target"], keys.get("attack")) for keys in artifacts}
    return drawn == wanted and table["identity"].nunique() == identities


class ReconstructionHulls(_FeatureSpace):
    """A row for each model, a column for each identity."""

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Private images, the same erased, and reconstructions, each with its hull."""
        points, pair = self.points(runs, cached)
        numbers = hull_numbers(points)
        identities = sorted(points["identity"].unique())
        figure = Figure(
            figsize=(0.5 + 1.8 * len(identities), 4.7),
            layout=ConstrainedLayoutEngine(compress=True, h_pad=0.06),
        )
        grid = figure.subplots(2, len(identities), squeeze=False)
        for line, run in zip(grid, pair, strict=True):
            own = points[points["model"] == run.label]
            panels = [clouds_of(own[own["identity"] == identity]) for identity in identities]
            span = 1.1 * max(np.ptp(np.concatenate(list(clouds.values())), axis=0).max() for clouds in panels)
            for axes, identity, clouds in zip(line, identities, panels, strict=True):
                for kind, cloud in clouds.items():
                    _, marker, style, colour, filled = LOOKS[kind]
                    _cloud(axes, cloud, marker, style, colour, filled=filled)
                (inside,) = numbers[
                    (numbers["model"] == run.label) & (numbers["identity"] == identity)
                ].to_dict("records")
                axes.set_title(
                    f"person {identity}: reconstructions\n"
                    f"in private {_percent(inside['reconstructions_in_private'])}, "
                    f"in erased {_percent(inside['reconstructions_in_erased'])}",
                    loc="left", fontsize=6.5,
                )  # fmt: skip
                _window(axes, np.concatenate(list(clouds.values())), span)
            line[0].set_ylabel(f"{run.label}\n{_axis(own, 'y')}")
            for axes in line:
                axes.set_xlabel(_axis(own, "x"))
        handles = [
            _handle(name, marker, style, colour, filled=filled)
            for name, marker, style, colour, filled in LOOKS.values()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        records = [run.record for run in pair if run.record is not None]
        return Rendered(figure, {"": points, "-hulls": numbers}, records, [*_in_words(numbers), PLANE])


class IdentityHulls(_FeatureSpace):
    """A panel for each model, a marker for each identity."""

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Private images, filled, with solid hulls; the same erased, hollow, with dashed hulls."""
        points, pair = self.points(runs, cached)
        points = points[points["kind"] != "reconstruction"]
        identities = sorted(points["identity"].unique())
        figure = Figure(figsize=(7.2, 3.9), layout=ConstrainedLayoutEngine(compress=True, h_pad=0.06))
        among = []
        for axes, run in zip(figure.subplots(1, 2), pair, strict=True):
            own = points[points["model"] == run.label]
            clouds = {identity: clouds_of(own[own["identity"] == identity]) for identity in identities}
            for identity, kinds in clouds.items():
                marker, colour = MARKS[int(identity) % len(MARKS)]
                _cloud(axes, kinds["private"], marker, "-", colour, filled=True)
                _cloud(axes, kinds["erased"], marker, "--", colour, filled=False)
            among.append({"model": run.label, **_among_others(clouds)})
            every = own[["x", "y"]].to_numpy(float)
            _window(axes, every, 1.1 * float(np.ptp(every, axis=0).max()))
            axes.set_title(run.label, loc="left")
            axes.set(xlabel=_axis(own, "x"), ylabel=_axis(own, "y"))
        looks = {identity: MARKS[int(identity) % len(MARKS)] for identity in identities}
        handles = [
            _handle(f"person {identity}, {word}", marker, style, colour, filled=filled)
            for identity, (marker, colour) in looks.items()
            for word, style, filled in (("private", "-", True), ("erased", "--", False))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(identities))
        numbers = pd.DataFrame(among)
        notes = [
            f"{row.model}: {row.private_among_others:.1f} % of the private and "
            f"{row.erased_among_others:.1f} % of the erased images lie in the private hull of another person."
            for row in numbers.itertuples()
        ]
        records = [run.record for run in pair if run.record is not None]
        return Rendered(figure, {"": points, "-hulls": numbers}, records, [*notes, PLANE])


def _among_others(clouds: Mapping[int, Mapping[str, Points]]) -> dict[str, float]:
    """Percent of the images of each kind that lie in another identity's private hull."""
    hulls = {identity: hull(kinds["private"]) for identity, kinds in clouds.items()}
    shares = {}
    for kind in ("private", "erased"):
        inside = [
            any(share_inside(point[None], other) > 0 for name, other in hulls.items() if name != identity)
            for identity, kinds in clouds.items()
            for point in kinds[kind]
        ]
        shares[f"{kind}_among_others"] = 100 * float(np.mean(inside))
    return shares


def _cloud(axes: Axes, points: Points, marker: str, style: str, colour: str, *, filled: bool) -> None:
    axes.plot(*points.T, **_dots(marker, colour, filled=filled))
    outline = hull(points)
    if outline is not None:
        corners = outline.points[np.append(outline.vertices, outline.vertices[0])]
        axes.plot(*corners.T, linestyle=style, color=colour, linewidth=1)


def _dots(marker: str, colour: str, *, filled: bool) -> dict[str, Any]:
    return {
        "marker": marker,
        "linestyle": "none",
        "color": colour,
        "markerfacecolor": colour if filled else "none",
        "markersize": 3,
        "markeredgewidth": 0.7,
    }


def _handle(name: str, marker: str, style: str, colour: str, *, filled: bool) -> Line2D:
    return Line2D([], [], **{**_dots(marker, colour, filled=filled), "linestyle": style}, label=name)


def _window(axes: Axes, points: Points, span: float) -> None:
    """The same zoom for every panel of a row, each about its own points."""
    middle = (points.max(0) + points.min(0)) / 2
    axes.set_xlim(middle[0] - span / 2, middle[0] + span / 2)
    axes.set_ylim(middle[1] - span / 2, middle[1] + span / 2)
    axes.set_aspect("equal")


def _axis(points: pd.DataFrame, name: str) -> str:
    number = {"x": 1, "y": 2}[name]
    return f"component {number} ({points[f'share_{name}'].iloc[0]:.0f} %)"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f} %"


def _in_words(numbers: pd.DataFrame) -> list[str]:
    """What the paper reads off this figure, as numbers: a sentence for each model, each reconstruction
    counting once.
    """
    sentences = []
    for model, rows in numbers.groupby("model", sort=False):
        weights = rows["n_reconstruction"].to_numpy(float)
        shares = [
            float(np.average(rows[f"reconstructions_in_{kind}"], weights=weights))
            for kind in ("private", "erased")
        ]
        sentences.append(
            f"{model}: of {int(weights.sum())} reconstructions {shares[0]:.1f} % lie in the hull of the "
            f"private and {shares[1]:.1f} % in that of the erased images of their person; "
            f"{rows['erased_in_private'].mean():.1f} % of the erased images lie in the private hull, and the "
            f"two hulls share {rows['overlap'].mean():.1f} % of their union."
        )
    return sentences
