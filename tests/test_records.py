from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from midre_exp.errors import StoreError
from midre_exp.records import checksum_path, read_records, records, update_record
from tests.report.paper_records import record

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    """A results folder of two runs, one with a metric and a time that the other lacks."""
    runs = {
        "S19-midre": record(88, 40, "midre", seed=1),
        "S19-nodef": record(90, 60) | {"key": "f" * 16, "queries": 3000, "seconds": {"target": 2.5}},
    }
    runs["S19-nodef"]["metrics"]["knn_dist"] = 1000.0
    for name, run in runs.items():
        update_record(tmp_path / "records" / f"{name}.json", {**DEFAULTS, **run})
    return tmp_path


DEFAULTS = {"per_identity": {}, "missing": {}, "queries": 0, "seconds": {}}


def test_a_folder_of_records_is_a_tidy_table_of_one_row_per_run(folder):
    table = records(folder).set_index("defense")
    assert list(table.index) == ["midre", "NoDef"]
    assert list(table.acc) == [88, 90] and list(table.seed) == [1, 0] and set(table.setup) == {"S19"}
    assert pd.isna(table.knn_dist["midre"]) and table.knn_dist["NoDef"] == 1000
    assert list(table.n_reconstructions) == [1500, 1500] and table.queries["NoDef"] == 3000
    assert pd.isna(table.seconds_target["midre"]) and table.seconds_target["NoDef"] == 2.5
    assert table.key["NoDef"] == "f" * 16 and set(table.commit) == {"abc"}
    assert json.loads(Path(table.path["midre"]).read_text())["seed"] == 1


def test_documented_columns_are_those_there_are(folder):
    columns = [name for name in records(folder) if not name.startswith(("n_", "seconds_"))]
    metrics = {"acc", "att_acc1", "att_acc1_low", "att_acc1_high", "evaluator_acc", "knn_dist"}
    documented = {name for name in columns if f"``{name}``" in str(records.__doc__)}
    assert set(columns) - documented == metrics


def test_a_damaged_record_is_named_and_left_out_of_the_table_and_stops_a_report(folder, caplog):
    path = folder / "records" / "S19-midre.json"
    path.write_text(path.read_text().replace("40", "10"))
    assert list(records(folder).defense) == ["NoDef"]
    assert "S19-midre.json is damaged" in caplog.text
    with pytest.raises(StoreError, match="is damaged"):
        read_records(folder)
    checksum_path(path).unlink()  # whoever changed it says so
    assert list(records(folder).att_acc1) == [10, 60]


def test_a_folder_without_records_is_named(tmp_path):
    with pytest.raises(StoreError, match="holds no records; give a folder such as results/mini"):
        records(tmp_path)


def test_the_projects_own_records_are_all_read(caplog):
    table = records(ROOT / "results" / "mini")
    files = list((ROOT / "results" / "mini" / "records").glob("*.json"))
    assert len(table) == len(files) > 0 and not caplog.text
    assert table.key.is_unique and set(table.scale) == {"mini"} and table.acc.notna().all()


def test_records_are_read_without_torch_and_pandas():
    check = "import midre_exp.records, sys; sys.exit(bool({'torch', 'pandas'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
