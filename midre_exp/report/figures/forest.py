"""``midre-exp report forest``: the effects behind the claims of a scale as a figure, a line for each claim.

It shows the answers that ``claims`` left (``results/<scale>/claims.json``) and computes none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.records import results_folder
from midre_exp.records.text import csv_of, inline
from midre_exp.report.figures.style import LOOK, saved
from midre_exp.report.summary import answered
from midre_exp.store.files import write_atomic

#: The files' name, and their title.
NAME, TITLE = "forest", "Effects behind the claims"
#: How an answer looks, in grey too: marker, colour, whether it is filled.
_LOOKS: Mapping[str, tuple[str, str, bool]] = {
    "supported": ("o", "#006B4F", True),
    "contradicted": ("X", "#A3231A", True),
    "undecided": ("o", "#555555", False),
}
#: Inches of a line of text, of what surrounds a panel, and letters in a line.
_LINE, _AROUND, _LETTERS = 0.155, 0.62, 62


def render_forest(overrides: Sequence[str]) -> list[Path]:
    """Draw the claims of the scale that the overrides choose and write the figure beside them: PNG, PDF, SVG,
    its numbers and its caption; returns the paths. Raises ConfigError where no claim has been answered with a
    number.
    """
    with packaged_configs():
        settings = settings_of([part for part in overrides if not part.startswith("hydra")])
    folder = results_folder(settings)
    claims = answered(folder / "claims.json")
    measured = [claim for claim in claims if claim["effect"]["value"] is not None]
    if not measured:
        raise ConfigError(f"{folder / 'claims.json'} has no effect to draw; the claims need more runs")
    with matplotlib.rc_context(LOOK):
        files: dict[str, bytes | str] = {
            f"{NAME}.{kind}": content for kind, content in saved(draw(measured)).items()
        }
    text = caption(claims, str(settings["scale"]))
    files[f"{NAME}.csv"] = csv_of(pd.DataFrame([_row(claim) for claim in claims]))
    files[f"{NAME}.md"] = f"![{TITLE}]({NAME}.png)\n\n{inline(text)}\n"
    for name, content in files.items():
        write_atomic(folder / name, content)
    print(f"\n{text}\n")
    print("written: " + ", ".join(str(folder / name) for name in files))
    return [folder / name for name in files]


def draw(claims: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each unit, a line for each claim: effect, 95 % interval, claimed limit, single cases."""
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for claim in claims:
        panels.setdefault(str(claim["unit"]), []).append(claim)
    heights = [sum(map(_height, own)) for own in panels.values()]
    figure = Figure(figsize=(9.0, sum(heights) + _AROUND * len(panels) + 0.4), layout="constrained")
    every = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [h + 0.1 for h in heights]}
    )
    for axes, (unit, own) in zip(every.flat, panels.items(), strict=True):
        _panel(axes, unit, own)
    figure.legend(handles=_handles(), loc="outside lower center", ncols=5)
    return figure


def caption(claims: Sequence[Mapping[str, Any]], scale: str) -> str:
    """What is drawn, and what is not."""
    counts: dict[str, int] = {}
    for claim in claims:
        counts[claim["answer"]] = counts.get(claim["answer"], 0) + 1
    missing = counts.pop("not measured", 0)
    drawn = ", ".join(f"{count} {answer}" for answer, count in counts.items())
    left_out = f" {missing} claims were not measured and are not drawn." if missing else ""
    return (
        f"{TITLE}. Scale {scale}: {drawn}.{left_out} Large marks: the effect of a claim, with its "
        "95 % interval; short strokes: its single cases; dashes: the claimed limit, which the interval must "
        "leave on the side that the arrow points to. Without a bar: shares of draws won, which have no "
        "interval. Answers and what they rest on: claims.md."
    )


def _panel(axes: Axes, unit: str, claims: Sequence[Mapping[str, Any]]) -> None:
    top = 0.0
    places = []
    for claim in claims:
        height = _height(claim)
        places.append(top + height / 2)
        _line(axes, claim, top, height)
        top += height
    axes.set_ylim(top, 0)
    axes.set_yticks(places, ["\n".join(_wrapped(claim)) for claim in claims], fontsize=7)
    axes.yaxis.set_tick_params(length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit)
    axes.margins(x=0.06)


def _line(axes: Axes, claim: Mapping[str, Any], top: float, height: float) -> None:
    effect, middle = claim["effect"], top + height / 2
    marker, colour, filled = _LOOKS[claim["answer"]]
    limit = float(claim["threshold"])
    cases = [case["value"] for case in claim["cases"] if case["value"] is not None]
    axes.vlines(cases, middle - 0.045, middle + 0.045, color="0.72", linewidth=0.8, zorder=1)
    axes.vlines(
        limit, top + 0.02, top + height - 0.02, color="black", linewidth=0.8, linestyle=(0, (3, 2)), zorder=2
    )
    arrow = {"above": ">", "below": "<"}[claim["claimed"]]
    axes.plot([limit], [top + 0.05], marker=arrow, color="black", markersize=3, zorder=2)
    if effect["low"] is not None:
        axes.hlines(middle, effect["low"], effect["high"], color=colour, linewidth=1.6, zorder=3)
    axes.plot(
        [effect["value"]], [middle], marker=marker, color=colour, markersize=6, zorder=4,
        markerfacecolor=colour if filled else "white",
    )  # fmt: skip


def _wrapped(claim: Mapping[str, Any]) -> list[str]:
    return textwrap.wrap(str(claim["statement"]).replace("$", r"\$"), _LETTERS)


def _height(claim: Mapping[str, Any]) -> float:
    """Inches."""
    return _LINE * max(len(_wrapped(claim)), 1) + 0.12


def _handles() -> list[Line2D]:
    looks = [
        Line2D(
            [], [], color=colour, marker=marker, markerfacecolor=colour if filled else "white", label=answer
        )
        for answer, (marker, colour, filled) in _LOOKS.items()
    ]
    case = Line2D([], [], color="0.6", marker="|", linestyle="none", label="single case")
    return [*looks, case, Line2D([], [], color="black", linewidth=0.8, linestyle="--", label="claimed limit")]


def _row(claim: Mapping[str, Any]) -> dict[str, Any]:
    effect = claim["effect"]
    return {
        **{name: claim[name] for name in ("name", "statement", "claimed", "threshold", "unit", "answer")},
        **{name: effect[name] for name in ("value", "low", "high")},
        "cases": len(claim["cases"]),
    }
