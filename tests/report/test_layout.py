"""The layout of every figure: no text is cut off or lies on other text, no mark or whisker is hidden, in grey
too.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from midre_exp.plan.config import build
from midre_exp.records import read_records
from midre_exp.report.definitions import definitions, load_figure
from midre_exp.report.figures import Attackers, Frontier, Leakage, grid
from midre_exp.report.figures.render import cached_tables
from midre_exp.report.figures.style import LOOK, saved
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import table_rows
from midre_exp.report.tables.html import Gallery, Picture, PictureRow
from midre_exp.tracking.pictures import data_url
from tests.report import test_convergence, test_diagnostics, test_frontier, test_leakage, test_worst_case
from tests.report.layout import faults

MINI = Path(__file__).parents[2] / "results" / "mini"
COMMITTED = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7")


@pytest.fixture(scope="module")
def committed() -> list[PlannedRun]:
    trusted = {"runtime": {"trusted_packages": []}}
    return [PlannedRun((), {**one["config"], **trusted}, one) for one in read_records(MINI).records]


def of_records(name: str, committed: list[PlannedRun]) -> Figure:
    """A figure of the paper as its committed records draw it."""
    drawn = cached_tables(MINI, name)[""]
    if name in ("fig3", "fig4"):
        rows = [("S27", "ppa", label) for label in ("NoDef", "RE 0.4")]
    else:
        ours = drawn[drawn["source"] == "this project"]
        rows = list(ours[["setup", "attack", "defense"]].itertuples(index=False, name=None))
    runs = [
        next(run for run in committed if (run.setup, run.row["attack"], run.label) == row) for row in rows
    ]
    definition = load_figure(name)
    published = [row for table in definition.published for row in table_rows(table)]
    with matplotlib.rc_context(LOOK):
        return build(definition.draw).draw(runs, published, cached_tables(MINI, name)).figure


def frontier() -> Figure:
    runs = [PlannedRun((), made["config"], made) for made in test_frontier.synthetic()]
    return Frontier(columns=4).draw(runs, [], {}).figure


def leakage() -> Figure:
    records = [*test_leakage.LINE, test_leakage.arm(30, 20, "midre"), test_leakage.arm(30, 20.5, "bido")]
    return Leakage().draw([PlannedRun((), made["config"], made) for made in records], [], {}).figure


def attackers() -> Figure:
    suites = [test_worst_case.suite(95, 80, 80), test_worst_case.suite(93, 50, 60, "midre")]
    return Attackers().draw([test_worst_case.run_of(one) for one in suites], [], {}).figure


def robustness() -> Figure:
    values = [("nodef", 60.0), ("midre", 60.0)]
    runs = [test_diagnostics.arm(Path("unused"), defense, 0, value) for defense, value in values]
    return build(load_figure("robustness").draw).draw(runs, [], {}).figure


def lengths() -> Figure:
    same = {9: (90.0, 90.0, 60.0), None: (99.0, 95.0, 70.0), 27: (100.0, 95.5, 72.0)}
    runs = [
        test_convergence.arm(Path("unused"), defense, epochs, numbers)
        for defense in ("nodef", "midre")
        for epochs, numbers in same.items()
    ]
    curves = load_figure("lengths")
    return build({**curves.draw, "lengths": test_convergence.TABLE.lengths}).draw(runs, [], {}).figure


def pictures(monkeypatch: pytest.MonkeyPatch) -> Figure:
    url = data_url(torch.zeros(3, 16, 16, dtype=torch.uint8))
    rows = [PictureRow("private image", [Picture(url)] * 4)]
    rows += [PictureRow(f"lomma_kedmi against {name}", [Picture(url, True)] * 4) for name in ("NoDef", "MID")]
    monkeypatch.setattr(grid, "gallery", lambda *_, **__: Gallery(rows))
    run = test_convergence.arm(Path("unused"), "nodef", None, (90.0, 90.0, 60.0))
    monkeypatch.setattr(PlannedRun, "artifact", lambda *_: object())
    return build(load_figure("grid").draw).draw([run], [], {}).figure


MADE_UP: dict[str, Callable[..., Figure]] = {
    "frontier": frontier, "leakage": leakage, "attackers": attackers, "robustness": robustness,
    "lengths": lengths, "grid": pictures,
}  # fmt: skip


def test_every_figure_is_looked_at():
    assert {*COMMITTED, *MADE_UP} == set(definitions("figure"))


@pytest.mark.parametrize("name", COMMITTED)
def test_a_figure_of_the_paper_hides_and_cuts_nothing(name, committed):
    assert faults(of_records(name, committed)) == []


@pytest.mark.parametrize("name", MADE_UP)
def test_another_figure_hides_and_cuts_nothing(name, monkeypatch):
    with matplotlib.rc_context(LOOK):
        figure = MADE_UP[name](monkeypatch) if name == "grid" else MADE_UP[name]()
    assert faults(figure) == []


def plain() -> tuple[Figure, matplotlib.axes.Axes]:
    figure = Figure(figsize=(3, 2), layout="constrained")
    return figure, figure.subplots()


def test_text_that_is_cut_off_is_found():
    figure, axes = plain()
    axes.set_title("inside")
    assert faults(figure) == []
    figure, axes = plain()
    axes.set_title("inside")
    figure.set_layout_engine("none")
    axes.set_position((0.2, 0.2, 0.7, 0.8))
    assert "cut off: 'inside'" in faults(figure)


def test_text_on_text_is_found():
    figure, axes = plain()
    axes.text(0.5, 0.5, "one")
    axes.annotate("two", (0.9, 0.9), (0.52, 0.52), arrowprops={"arrowstyle": "-"})
    assert faults(figure) == ["one on the other: 'one', 'two'"]
    figure, axes = plain()
    axes.annotate("two", (0.5, 0.2), (0.5, 0.8), arrowprops={"arrowstyle": "-"})  # whose line is no text
    axes.text(0.1, 0.5, "one")
    assert faults(figure) == []


def test_marks_at_one_place_are_found_and_rings_are_not():
    figure, axes = plain()
    for marker, colour in (("s", "blue"), ("o", "red")):
        axes.plot([1], [1], marker, color=colour, markersize=5)
    assert [fault for fault in faults(figure) if fault.startswith("hidden: a mark 's'")] != []
    figure, axes = plain()
    axes.plot([1], [1], "s", color="blue", markersize=9)
    axes.plot([1], [1], "o", color="red", markersize=4, markeredgecolor="white")
    axes.plot([2], [2], "o", color="red", markersize=4)
    assert faults(figure) == []


def test_a_mark_outside_of_its_panel_is_found():
    figure, axes = plain()
    axes.plot([1, 2], [1, 2], "o-")
    assert faults(figure) == []
    axes.set_xlim(1.5, 2.5)
    assert faults(figure) == ["outside of its panel: a mark 'o' of ''"]


def test_a_dark_whisker_on_a_dark_bar_is_found():
    for face, expected in (("0.3", 1), ("0.82", 0)):
        figure, axes = plain()
        axes.bar([0], [10], yerr=[[6], [1]], ecolor="0.25", facecolor=face)
        assert len(faults(figure)) == expected


def test_the_layout_that_is_looked_at_is_that_of_the_files(committed):
    """A title under the top edge here is under it in the picture: its outermost rows are white."""
    picture = np.asarray(Image.open(BytesIO(saved(of_records("fig4", committed))["png"])).convert("L"))
    assert (picture[:2] == 255).all() and (picture[-2:] == 255).all()
