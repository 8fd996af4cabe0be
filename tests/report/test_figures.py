from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from midre_exp.errors import ConfigError, StoreError
from midre_exp.plan.compose import expand, packaged_configs, settings_of
from midre_exp.plan.config import build
from midre_exp.report import __main__ as command
from midre_exp.report.definitions import definitions, load_figure
from midre_exp.report.figures.bars import drop_of
from midre_exp.report.figures.curves import LINES
from midre_exp.report.figures.feature_hulls import LOOKS
from midre_exp.report.figures.feature_space import hull, hull_numbers, overlap, project, share_inside
from midre_exp.report.figures.marks import mark_of
from midre_exp.report.figures.points import measured
from midre_exp.report.figures.render import cached_tables, render_figure
from midre_exp.report.figures.scatter import bound_of
from midre_exp.report.runs.defense_names import DefenseName, defense_name
from midre_exp.report.runs.planned_runs import PlannedRun, plan_runs
from midre_exp.report.runs.published import read_published, table_rows
from midre_exp.run import run
from tests.conftest import tiny_overrides
from tests.report.paper_records import record

ROOT = Path(__file__).parents[2]
PAPER = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7")
SQUARE = np.array([[0, 0], [2, 0], [2, 2], [0, 2], [1, 1]], dtype=float)


@functools.cache
def runs(setup: str, *names: str, **values: object) -> PlannedRun:
    """A planned run without its record; ``values`` are of the defense."""
    key = names[0] if names else "nodef"
    job = [
        f"setup={setup}",
        f"defense={key}",
        *(f"defense.midre.{name}={value}" for name, value in values.items()),
    ]
    with packaged_configs():
        return PlannedRun(tuple(job), settings_of(job), None)


def writing_to(folder: Path, planned_run: PlannedRun) -> PlannedRun:
    """The same with another folder for results."""
    return replace(
        planned_run,
        settings={**planned_run.settings, "paths": {**planned_run.settings["paths"], "results": str(folder)}},
    )


def ran(planned_run: PlannedRun, acc: float, att: float, **more: object) -> PlannedRun:
    """The same with a record."""
    settings = planned_run.settings
    setup, attack, target = settings["setup"]["id"], settings["attack"]["name"], settings["target"]["name"]
    found = record(acc, att, setup=setup, attack=attack, target=target, **more) | {"config": settings}
    found["defense"] = {"label": planned_run.label, "parts": settings["defense"]}
    return PlannedRun(planned_run.job, settings, found)


@pytest.mark.parametrize("name", [*PAPER, "grid"])
def test_a_definition_can_be_built_and_names_published_points_that_exist(name):
    definition = load_figure(name)
    assert hasattr(build(definition.draw), "draw") and definition.sweeps
    for table in (*definition.published, *definition.mentioned):
        assert table_rows(table)


@pytest.mark.parametrize(
    "name, setups, runs_each",
    [
        ("fig2", {"S01", "S19", "S13b", "S28", "S27", "S36"}, 6),
        ("fig3", {"S27"}, 2),
        ("fig4", {"S27"}, 2),
        ("fig5", {"S27", "S28", "S29", "S30", "S31", "S32"}, 7),
        ("fig6", {"S34", "S35"}, 3),
        ("fig7", {"S36", "S37"}, 3),
    ],
)
def test_a_figure_runs_its_setups_under_every_defense_it_draws(name, setups, runs_each):
    jobs = [tuple(job) for sweep in load_figure(name).sweeps for job in expand(sweep)]
    each = {setup: {job for job in jobs if f"setup={setup}" in job} for setup in setups}
    assert {len(own) for own in each.values()} == {runs_each}
    assert len(set(jobs)) == len(jobs) == runs_each * len(setups)


def test_every_point_the_paper_prints_for_a_figure_is_drawn_or_told():
    used = {table for name in PAPER for table in (*load_figure(name).published, *load_figure(name).mentioned)}
    printed = {row.table for row in read_published() if row.table.startswith("fig")}
    assert printed - used == {"fig3"}  # its two attack accuracies are told by inconsistency 1


@pytest.fixture(scope="module")
def sweep_of_shares() -> list[PlannedRun]:
    return [
        ran(runs("S27"), 95, 60),
        ran(runs("S27", "re", a_h=0.2), 93, 40),
        runs("S27", "re", a_h=0.4),
        runs("S36"),
    ]


def drawn(name: str, planned_runs: list[PlannedRun]) -> tuple[Figure, pd.DataFrame, list[str]]:
    definition = load_figure(name)
    rows = [row for table in definition.published for row in table_rows(table)]
    drawing = build(definition.draw).draw(planned_runs, rows, {})
    return drawing.figure, drawing.tables[""], list(drawing.notes)


def test_curves_run_through_what_was_run_beside_the_papers_points(sweep_of_shares):
    figure, table, notes = drawn("fig2", sweep_of_shares)
    ours = table[table.source == "this project"]
    assert list(ours.share_low.fillna(0)) == [0, 0.2] and list(ours.att_acc1) == [60, 40]
    assert list(ours.att_acc1_low < ours.att_acc1) == [True, True]
    paper = table[table.source == "paper, Table 1"].set_index("share_low")
    assert paper.acc[0.4] == 96.05 and paper.att_acc1[0.5] == 15.98 and set(paper.arm) == {"NoDef", "RE"}
    assert list(table.att_acc1[table.source == "paper, Fig. 2 Setup 5"]) == [88.67, 27.75]
    first, second = (axes for axes in figure.axes if axes.get_visible())
    assert first.get_title(loc="left") == "Setup 5: PPA, ResNet-18\nnot run: RE 0.4"
    assert second.get_title(loc="left") == "Setup 6*: IF-GMI, ResNet-18\nnothing run yet"
    assert any("does not name the setup" in note for note in notes)
    curve = next(line for line in first.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(curve.get_xydata(), [[0, 60], [20, 40]])


def test_scatter_draws_markers_for_pairs_and_lines_for_what_is_half_printed():
    planned_runs = [
        ran(runs("S32"), 95, 60),
        ran(runs("S32", "midre"), 93, 30),
        runs("S32", "midre_wide"),
        runs("S29"),
    ]
    figure, table, _ = drawn("fig5", planned_runs)
    maxvit, resnet = (axes for axes in figure.axes if axes.get_visible())
    levels = {float(line.get_ydata()[0]) for line in maxvit.lines if list(line.get_xdata()) == [0, 1]}
    assert levels == {80.66, 42.5, 20.0}
    hollow = [
        line for line in resnet.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata()) == 1
    ]
    pairs = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in hollow}
    assert {(95.43, 86.51), (91.5, 13.94), (95.47, 15.97)} <= pairs
    assert not any(x == 93.69 for x, _ in pairs)  # the combination of Table 5 is no marker of this figure
    assert "MIDRE [0.1, 0.8]" in maxvit.get_title(loc="left")
    assert list(table.defense[table.source == "this project"]) == ["NoDef", "MIDRE [0.1, 0.4]"]


def test_bars_show_ours_and_the_printed_drops():
    planned_runs = [
        ran(runs("S36"), 95, 70),
        ran(runs("S36", "midre"), 93, 30),
        ran(runs("S37"), 94, 60),
        runs("S37", "midre"),
    ]
    figure, table, _ = drawn("fig7", planned_runs)
    heights = [[patch.get_height() for patch in axes.patches] for axes in figure.axes]
    assert heights[0] == [95, 93, 94] and heights[1] == [70, 30, 60] and heights[2] == [-40]
    assert [text.get_text() for text in figure.axes[0].texts] == ["not run"]
    change = table[table.arm == "MIDRE"].iloc[0]
    assert change.att_acc1_change == -40 and change.att_acc1_change_low < -40 < change.att_acc1_change_high
    lines = [path.vertices[0, 1] for found in figure.axes[2].collections for path in found.get_paths()]
    assert lines.count(-22) == 2 and figure.axes[2].get_ylim()[0] < -40


def test_seeds_are_averaged_and_identities_pair_the_change():
    nodef, midre = runs("S36"), runs("S36", "midre")
    planned_runs = []
    for seed in (0, 1):
        people = [100.0, 80.0, 40.0, 60.0 + 20 * seed]
        less = [value - 20 for value in people]
        planned_runs.append(ran(nodef, 95, float(np.mean(people)), seed=seed, by_identity=people))
        planned_runs.append(ran(midre, 93, float(np.mean(less)), seed=seed, by_identity=less))
    table, records = measured(planned_runs)
    assert len(records) == 4 and list(table.seeds) == [2, 2]
    assert list(table.att_acc1) == [72.5, 52.5] and list(table.n) == [3000, 3000]
    # every person loses 20 points, so pairing leaves nothing uncertain about the change
    row = table.iloc[1]
    np.testing.assert_allclose([row.att_acc1_change_low, row.att_acc1_change, row.att_acc1_change_high], -20)
    assert row.att_acc1_high - row.att_acc1_low > 10


@pytest.mark.parametrize("name", ["fig2", "fig5", "fig7"])
def test_legend_and_labels_lie_beside_the_data(name, sweep_of_shares):
    bars = [ran(runs("S36"), 95, 70), runs("S37", "midre"), runs("S36", "midre_wide")]
    figure, *_ = drawn(name, bars if name == "fig7" else sweep_of_shares)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for axes in figure.axes:
        if axes.get_visible():
            assert not box.overlaps(axes.get_tightbbox(canvas.get_renderer()))
            assert (
                axes.get_tightbbox(canvas.get_renderer()).x0 >= 0
                and axes.title.get_window_extent().x1 <= figure.bbox.x1
            )


def test_nothing_is_told_by_colour_alone():
    defenses = [DefenseName(()), *(defense_name([name]) for name in ("MID", "BiDO", "NLS", "TL-DMI"))]
    defenses += [defense_name(["MIDRE"], (0.1, high)) for high in (0.4, 0.8)]
    others = [defense_name([name]) for name in ("CutMix", "SSF")]
    marks = [mark_of(defense, others) for defense in (*defenses, *others)]
    assert len({mark.marker for mark in marks}) == len(marks)
    assert len({mark.hatch for mark in marks[: len(defenses)]}) == len(defenses)
    for place in (2, 3):
        assert len({line[place] for line in LINES}) == len(LINES)
    for place in (1, 2):
        assert len({look[place] for look in LOOKS.values()}) == len(LOOKS)


def test_bounds_are_read_from_what_is_printed():
    assert bound_of("attack_acc < 20; Exact pair only in the figure") == 20 and bound_of("as printed") is None
    assert drop_of("attack_acc_change < -22; Lower bound") == -22 and drop_of("") is None


def test_files_are_complete_and_the_same_each_time(sweep_of_shares, tmp_path, capsys):
    planned_runs = [writing_to(tmp_path, planned_run) for planned_run in sweep_of_shares]
    written = render_figure(load_figure("fig2"), planned_runs, other_data=False)
    assert [path.name for path in written] == [f"fig2.{kind}" for kind in ("svg", "pdf", "png", "csv", "md")]
    assert all(path.parent == tmp_path / "mini" for path in written)
    first = [path.read_bytes() for path in written]
    assert [
        path.read_bytes() for path in render_figure(load_figure("fig2"), planned_runs, other_data=False)
    ] == first
    assert first[1].startswith(b"%PDF") and b"<svg" in first[0] and Image.open(written[2]).width > 500
    text = written[4].read_text()
    for part in (
        "![Accuracy",
        "Scale mini: synthfaces",
        "Seeds 0; commit abc",
        "compare directions, not values",
        "-39.93 points",
    ):
        assert part in text
    lacking = "python -m midre_exp setup=S27 defense=re defense.midre.a_h=0.4"
    assert f"    {lacking}\n" in text and f"not run yet: {lacking}\n" in capsys.readouterr().out


def test_without_any_run_the_papers_points_are_drawn_or_the_lack_is_said(tmp_path):
    planned_run = writing_to(tmp_path, runs("S27"))
    (_, _, _, csv, text) = render_figure(load_figure("fig2"), [planned_run], other_data=True)
    assert csv.name == "fig2-synthfaces.csv" and "no run has a record yet" in text.read_text()
    assert set(pd.read_csv(csv).source) == {"paper, Table 1", "paper, Fig. 2 Setup 5"}
    with pytest.raises(ConfigError, match="figure fig3 has no finished run"):
        render_figure(load_figure("fig3"), [planned_run], other_data=False)


def test_the_projection_is_linear_and_keeps_what_lies_in_a_plane():
    random = np.random.default_rng(0)
    flat = random.normal(size=(40, 2)) * [5, 1]
    basis, _ = np.linalg.qr(random.normal(size=(7, 2)))
    private, stray = flat @ basis.T + 3, random.normal(size=(6, 7)) * 100
    (seen, other), shares = project([private, stray], fitted_on=1)
    np.testing.assert_allclose(
        np.linalg.norm(seen[0] - seen[1:], axis=1), np.linalg.norm(flat[0] - flat[1:], axis=1)
    )
    assert sum(shares) == pytest.approx(100) and shares[0] > shares[1]
    alone, _ = project([private], fitted_on=1)
    np.testing.assert_array_equal(alone[0], seen)  # what it is not fitted on does not move it
    middle, _ = project([private, (stray[:1] + stray[1:2]) / 2], fitted_on=1)
    np.testing.assert_allclose(middle[1][0], other[:2].mean(0))


def test_hulls_know_what_is_inside_and_how_much_they_share():
    square, moved, apart = hull(SQUARE), hull(SQUARE + 1), hull(SQUARE + 5)
    assert share_inside(SQUARE, square) == 100  # corners count
    assert share_inside(np.array([[0.5, 0.5], [1.5, 0.1], [2.1, 1], [-1, 1]]), square) == 50
    assert overlap(square, moved) == pytest.approx(1) == pytest.approx(overlap(moved, square))
    assert overlap(square, square) == pytest.approx(4) and overlap(square, apart) == 0
    diamond = hull(np.array([[1, -0.5], [2.5, 1], [1, 2.5], [-0.5, 1.0]]))
    assert overlap(square, diamond) == pytest.approx(4 - 4 * 0.5**2 / 2)  # the square without its corners
    assert hull(SQUARE[:2]) is None and hull(np.array([[0, 0], [1, 1], [2, 2.0]])) is None
    assert np.isnan(share_inside(SQUARE, None)) and np.isnan(overlap(square, None))


def test_hull_numbers_count_reconstructions_of_a_person():
    clouds = {
        "private": SQUARE,
        "erased": SQUARE + 1,
        "reconstruction": np.array([[1.5, 1.5], [0.5, 0.5], [9, 9]]),
    }
    points = pd.concat(
        pd.DataFrame({"model": "NoDef", "identity": 3, "kind": kind, "x": cloud[:, 0], "y": cloud[:, 1]})
        for kind, cloud in clouds.items()
    )
    (row,) = hull_numbers(points).to_dict("records")
    assert (row["identity"], row["n_private"], row["n_reconstruction"]) == (3, 5, 3)
    assert row["reconstructions_in_private"] == pytest.approx(200 / 3)
    assert row["reconstructions_in_erased"] == pytest.approx(100 / 3)
    assert row["erased_in_private"] == 40 and row["overlap"] == pytest.approx(100 / 7)


def test_feature_space_and_grid_of_real_runs(tiny, stocked, tmp_path, capsys):
    for defense in ("nodef", "re"):
        run(tiny("setup=demo", f"defense={defense}"))
    planned_runs = plan_runs(expand(["setup=demo", "defense=nodef,re", *tiny_overrides(tmp_path)]))

    def rendered(name: str) -> list[Path]:
        return render_figure(load_figure(name), planned_runs, other_data=False)

    picture, points, hulls = (path for path in rendered("fig3") if path.suffix in (".png", ".csv"))
    table = pd.read_csv(points)
    assert table.groupby(["model", "kind"]).size().to_dict() == {
        (model, kind): count
        for model in ("NoDef", "RE 0.4")
        for kind, count in {"private": 16, "erased": 16, "reconstruction": 8}.items()
    }
    assert set(table.identity) == {0, 1, 2, 3}
    assert pd.read_csv(hulls).n_reconstruction.to_list() == [2] * 8
    assert re.search(
        r"NoDef: of 8 reconstructions [\d.]+ % lie in the hull of the priv", capsys.readouterr().out
    )
    assert set(pd.read_csv(points.parent / rendered("fig4")[3].name).kind) == {"private", "erased"}
    lines = pd.read_csv(rendered("grid")[3]).groupby("line").size().to_dict()
    assert lines == {"GMI against NoDef": 4, "GMI against RE 0.4": 4}

    shutil.rmtree(tmp_path / "store" / "target")  # as in a clone: records and CSV, no artifacts
    before = points.read_bytes(), picture.read_bytes()
    rendered("fig3")
    assert (points.read_bytes(), picture.read_bytes()) == before
    points.unlink()
    with pytest.raises(StoreError, match=r"^the target of NoDef \(\w+\) is not in the store"):
        rendered("fig3")


def test_keys_that_look_like_numbers_stay_keys(tmp_path):
    pd.DataFrame({"target": ["12e4567890123456"], "reconstructed": ["0123456789012345"], "x": [0.1]}).to_csv(
        tmp_path / "fig3.csv", index=False
    )
    (tmp_path / "fig3-hulls.csv").write_text("model\nNoDef\n")
    kept = cached_tables(tmp_path, "fig3")
    assert set(kept) == {"", "-hulls"}
    assert list(kept[""].iloc[0]) == ["12e4567890123456", "0123456789012345", 0.1]


def test_missing_runs_are_launched_before_drawing(tmp_path, monkeypatch):
    launched = []

    monkeypatch.setattr(command, "launch", lambda words: launched.append(words) or 1)
    overrides = ["setup=demo", "defense=nodef", *tiny_overrides(tmp_path)]
    assert command.main(["fig7", *overrides]) == 1
    ((flag, jobs),) = launched
    assert flag == "-m" and jobs.startswith("hydra.sweeper.jobs=")
    assert not (tmp_path / "results" / "mini" / "fig7.png").exists()


def test_a_wrong_definition_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("midre_exp.report.definitions.REPORT_CONF", tmp_path)
    (tmp_path / "figure").mkdir()
    (tmp_path / "figure" / "mine.yaml").write_text("title: t\nsweeps: [[setup=demo]]\n")
    assert list(definitions("figure")) == ["mine"]
    with pytest.raises(
        ConfigError, match=r"/figure/mine.yaml needs title, sweeps, draw .* it has title, sweeps"
    ):
        load_figure("mine")


def test_an_unknown_name_tells_the_figures(capsys):
    assert command.main(["fig9"]) == 2
    assert (
        "figures: attackers, fig2, fig3, fig4, fig5, fig6, fig7, frontier, grid, leakage, "
        "lengths, robustness" in capsys.readouterr().err
    )


def test_tables_do_not_wait_for_matplotlib():
    modules = "midre_exp.report.__main__, midre_exp.report.tables.render"
    check = f"import {modules}, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_make_has_a_target_for_every_figure():
    makefile = (ROOT / "Makefile").read_text()
    for name in (*PAPER, "all"):
        assert re.search(rf"^{name}:.*##", makefile, re.M), name
