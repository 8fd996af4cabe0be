"""Feature space with convex hulls: reconstructions among private and erased images (Fig. 3), and people apart
from each other (Fig. 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
from midre_exp.report.figures.style import Drawing, Drawn
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published

#: kind, name, marker, line of the hull, colour, filled
LOOKS = {
    "private": ("private images", "o", "-", "#0072B2", True),
    "erased": ("the same, erased", "^", "--", "#E69F00", False),
    "reconstruction": ("reconstructions", "x", ":", "#000000", True),
}
PEOPLE = (("o", "#0072B2"), ("^", "#D55E00"), ("s", "#009E73"), ("D", "#CC79A7"), ("v", "#000000"))

PLANE = (
    "The plane: the first two principal components of the penultimate activations of the private and the erased images shown, of each "
    "model its own, with the percent of the variance they hold. Being inside a hull here does not say being inside in all directions."
)


class _Space(Drawn):
    """``people``: how many of the first identities."""

    def __init__(self, *, people: int):
        self.people = people

    def points(
        self, cells: Sequence[Cell], kept: Mapping[str, pd.DataFrame]
    ) -> tuple[pd.DataFrame, list[Cell]]:
        """The points of NoDef and of RE in this order, and the two runs; from an earlier drawing of the same
        artifacts if it is there.

        Raises ConfigError when one of the two has not been run, and what ``points_of`` raises.
        """
        runs = []
        for names in ((), ("RE",)):
            found = [cell for cell in cells if cell.arm.names == names]
            if not found or found[0].record is None:
                raise ConfigError(
                    f"this figure needs a finished run of {' and '.join(names) or 'NoDef'}"
                    + (f"; run {found[0].command}" if found else " among its sweeps")
                )
            runs.append(found[0])
        table = kept.get("")
        if table is not None and _same(table, runs, self.people):
            return table, runs
        return pd.concat([points_of(cell, runs[1], self.people) for cell in runs], ignore_index=True), runs


def _same(table: pd.DataFrame, runs: Sequence[Cell], people: int) -> bool:
    """Whether an earlier drawing's points are of the artifacts of these runs."""
    if not {"target", "reconstructed", "identity", "kind", "x", "y"} <= set(table):
        return False
    drawn = set(zip(table["target"], table["reconstructed"], strict=True))
    wanted = {
        (cell.record["artifacts"]["target"], cell.record["artifacts"]["attack"])
        for cell in runs
        if cell.record
    }
    return drawn == wanted and table["identity"].nunique() == people


class Reconstructed(_Space):
    """A row for each model, a column for each person."""

    def draw(
        self, cells: Sequence[Cell], printed: Sequence[Published], kept: Mapping[str, pd.DataFrame]
    ) -> Drawing:
        """Private images, the same erased, and reconstructions, each with its hull."""
        points, runs = self.points(cells, kept)
        numbers = hull_numbers(points)
        people = sorted(points["identity"].unique())
        figure = Figure(figsize=(0.5 + 1.8 * len(people), 4.6), layout="constrained")
        grid = figure.subplots(2, len(people), squeeze=False)
        for line, cell in zip(grid, runs, strict=True):
            own = points[points["model"] == cell.label]
            panels = [clouds_of(own[own["identity"] == person]) for person in people]
            span = 1.1 * max(np.ptp(np.concatenate(list(clouds.values())), axis=0).max() for clouds in panels)
            for axes, person, clouds in zip(line, people, panels, strict=True):
                for kind, cloud in clouds.items():
                    _, marker, style, colour, filled = LOOKS[kind]
                    _cloud(axes, cloud, marker, style, colour, filled=filled)
                (inside,) = numbers[
                    (numbers["model"] == cell.label) & (numbers["identity"] == person)
                ].to_dict("records")
                axes.set_title(
                    f"person {person}: reconstructions\nin private {_percent(inside['reconstructions_in_private'])}, "
                    f"in erased {_percent(inside['reconstructions_in_erased'])}",
                    loc="left", fontsize=6.5,
                )  # fmt: skip
                _window(axes, np.concatenate(list(clouds.values())), span)
            line[0].set_ylabel(f"{cell.label}\n{_axis(own, 'y')}")
            for axes in line:
                axes.set_xlabel(_axis(own, "x"))
        handles = [
            _handle(name, marker, style, colour, filled=filled)
            for name, marker, style, colour, filled in LOOKS.values()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        records = [cell.record for cell in runs if cell.record is not None]
        return Drawing(figure, {"": points, "-hulls": numbers}, records, [*_in_words(numbers), PLANE])


class Separated(_Space):
    """A panel for each model, a marker for each person."""

    def draw(
        self, cells: Sequence[Cell], printed: Sequence[Published], kept: Mapping[str, pd.DataFrame]
    ) -> Drawing:
        """Private images, filled, with solid hulls; the same erased, hollow, with dashed hulls."""
        points, runs = self.points(cells, kept)
        points = points[points["kind"] != "reconstruction"]
        people = sorted(points["identity"].unique())
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        among = []
        for axes, cell in zip(figure.subplots(1, 2), runs, strict=True):
            own = points[points["model"] == cell.label]
            clouds = {person: clouds_of(own[own["identity"] == person]) for person in people}
            for person, kinds in clouds.items():
                marker, colour = PEOPLE[int(person) % len(PEOPLE)]
                _cloud(axes, kinds["private"], marker, "-", colour, filled=True)
                _cloud(axes, kinds["erased"], marker, "--", colour, filled=False)
            among.append({"model": cell.label, **_strangers(clouds)})
            every = own[["x", "y"]].to_numpy(float)
            _window(axes, every, 1.1 * float(np.ptp(every, axis=0).max()))
            axes.set_title(cell.label, loc="left")
            axes.set(xlabel=_axis(own, "x"), ylabel=_axis(own, "y"))
        looks = {person: PEOPLE[int(person) % len(PEOPLE)] for person in people}
        handles = [
            _handle(f"person {person}, {word}", marker, style, colour, filled=filled)
            for person, (marker, colour) in looks.items()
            for word, style, filled in (("private", "-", True), ("erased", "--", False))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(people))
        numbers = pd.DataFrame(among)
        notes = [
            f"{row.model}: {row.private_among_others:.1f} % of the private and {row.erased_among_others:.1f} % of the erased images lie in "
            f"the private hull of another person."
            for row in numbers.itertuples()
        ]
        records = [cell.record for cell in runs if cell.record is not None]
        return Drawing(figure, {"": points, "-hulls": numbers}, records, [*notes, PLANE])


def _strangers(clouds: Mapping[int, Mapping[str, Points]]) -> dict[str, float]:
    """Percent of the images of each kind that lie in another person's private hull."""
    hulls = {person: hull(kinds["private"]) for person, kinds in clouds.items()}
    found = {}
    for kind in ("private", "erased"):
        inside = [
            any(share_inside(point[None], other) > 0 for name, other in hulls.items() if name != person)
            for person, kinds in clouds.items()
            for point in kinds[kind]
        ]
        found[f"{kind}_among_others"] = 100 * float(np.mean(inside))
    return found


def _cloud(axes: Axes, points: Points, marker: str, style: str, colour: str, *, filled: bool) -> None:
    axes.plot(*points.T, **_dots(marker, colour, filled=filled))
    found = hull(points)
    if found is not None:
        corners = found.points[np.append(found.vertices, found.vertices[0])]
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
    found = []
    for model, rows in numbers.groupby("model", sort=False):
        weights = rows["n_reconstruction"].to_numpy(float)
        shares = [
            float(np.average(rows[f"reconstructions_in_{kind}"], weights=weights))
            for kind in ("private", "erased")
        ]
        found.append(
            f"{model}: of {int(weights.sum())} reconstructions {shares[0]:.1f} % lie in the hull of the private and "
            f"{shares[1]:.1f} % in that of the erased images of their person; {rows['erased_in_private'].mean():.1f} % of the erased "
            f"images lie in the private hull, and the two hulls share {rows['overlap'].mean():.1f} % of their union."
        )
    return found
