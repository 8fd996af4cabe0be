"""The table and the figure of diagnostics, of made-up records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.records import problem_of
from midre_exp.report.definitions import load_figure, load_table
from midre_exp.report.figures.render import render_figure
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.render import render_table
from tests.report.paper_records import record


def interval(value: float, width: float = 3.0) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def block(robust: float) -> dict[str, Any]:
    return {
        "key": "2" * 16,
        "robust_accuracy": {
            "images": 200,
            "steps": 20,
            "clean": interval(95.0),
            "points": [{"eps": 0.5, **interval(80.0)}, {"eps": 1, **interval(robust)}],
            "area": interval(70.0),
        },
        "calibration": {"images": 500, "ece": {"15": interval(4.0)}},
        "missing": {"hsic": "there are 9 train images, less than a batch of 64"},
    }


def arm(results: Path, defense: str, seed: int, robust: float | None) -> PlannedRun:
    job = ["setup=demo", "diagnostics=default", f"defense={defense}", f"seed={seed}"]
    job += [f"paths.results={results}"]
    with packaged_configs():
        settings = settings_of(job)
    made = record(95.0, 40.0, setup="demo", attack="gmi", target="resnet18", seed=seed)
    made["defense"] = {
        "label": {"nodef": "NoDef", "midre": "MIDRE [0.1, 0.4]"}[defense],
        "parts": settings["defense"],
    }
    made["config"] = settings
    if robust is not None:
        made["diagnostics"] = {**block(robust), "key": f"{seed}{len(defense)}" * 8}
        made["artifacts"]["diagnostics"] = made["diagnostics"]["key"]
        numbers = {"robust@0.5": 80.0, "robust@1": robust, "apgd_dlr@1": robust - 1, "robust_area": 70.0}
        for name, value in numbers.items():
            made["metrics"].update({name: value, f"{name}_low": value - 3, f"{name}_high": value + 3})
        made["metrics"].update(ece=4.0, alignment_chance=0.2)
    assert problem_of(made) is None
    return PlannedRun(tuple(job), settings, made)


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    measured = [("nodef", 0, 60.0), ("nodef", 1, 64.0), ("midre", 0, 58.0), ("midre", 1, None)]
    return [arm(tmp_path, *one) for one in measured]


def test_a_row_is_a_defense_with_means_and_the_widest_intervals(runs, tmp_path, capsys) -> None:
    written = render_table(load_table("diagnostics"), runs, other_data=False)
    table = pd.read_csv(tmp_path / "mini" / "diagnostics.csv")
    assert list(table["defense"]) == ["NoDef", "MIDRE [0.1, 0.4]"]
    nodef = table.iloc[0]
    assert (nodef["robust@1"], nodef["robust@1_low"], nodef["robust@1_high"]) == (62, 57, 67)
    shown = written[0].read_text()
    header = next(line for line in shown.splitlines() if "Defense" in line)
    order = ["PGD 0.5/255", "PGD 1/255", "APGD-DLR 1/255", "robust area", "ECE"]
    assert [header.index(name) for name in order] == sorted(header.index(name) for name in order)
    assert "62 [57, 67]" in shown and "HSIC(X,Z)" not in shown
    assert "hsic was not measured: there are 9 train images" in shown
    assert "a run of this row has no diagnostics" in shown and "200 test images" in shown
    assert "they say nothing of another training" in shown


def test_a_deployed_target_is_diagnosed_before_its_answers(runs, tmp_path, capsys) -> None:
    told = "calibration is of the plain network, and not of what the deployed target answers"
    plain = render_table(load_table("diagnostics"), runs, other_data=False)[0].read_text()
    assert told not in plain and "DCD protects" not in plain
    made = runs[0].record
    assert made is not None
    made["deployment"] = {"distortion": 0.1, "answered": 500, "calibrated_on": 0, "bypassed": True}
    made["metrics"]["network_acc"] = 95.0
    made["defended"] = {"dcd": {"protected": [0, 1, 2]}}
    shown = render_table(load_table("diagnostics"), runs, other_data=False)[0].read_text()
    assert told in shown and "DCD protects 3 of the attacked network's people" in shown


def test_a_line_is_a_defense_over_eps(runs, tmp_path, capsys) -> None:
    written = render_figure(load_figure("robustness"), runs, other_data=False)
    assert {path.suffix for path in written} == {".svg", ".pdf", ".png", ".csv", ".md"}
    table = pd.read_csv(tmp_path / "mini" / "robustness.csv")
    nodef = table[table["defense"] == "NoDef"]
    assert list(nodef["eps"]) == [0, 0.5, 1] and list(nodef["value"]) == [95, 80, 62]
    assert list(nodef["seeds"]) == [2, 2, 2] and len(table) == 6


def test_a_table_of_runs_that_were_not_asked_says_what_to_ask(runs) -> None:
    plain = [replace(run, record={**run.record, "metrics": {**run.record["metrics"]}}) for run in runs[-1:]]
    with pytest.raises(ConfigError, match="its sweep needs diagnostics=default"):
        render_table(load_table("diagnostics"), plain, other_data=False)
