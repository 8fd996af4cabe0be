from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from midre_exp.errors import ConfigError, StoreError
from midre_exp.records import (
    best_epoch,
    checksum_path,
    diverged_path,
    make_record,
    read_diverged,
    read_record,
    read_records,
    records,
    update_record,
)
from midre_exp.stages import make_plan
from midre_exp.stages.parts import make_parts
from midre_exp.store.files import write_json
from midre_exp.store.store import Store
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


def test_a_damaged_record_is_named_and_passed_over_and_stops_who_asked_for_it_alone(folder, caplog):
    path = folder / "records" / "S19-midre.json"
    path.write_text(path.read_text().replace("40", "10"))
    assert list(records(folder).defense) == ["NoDef"]
    assert "S19-midre.json is damaged" in caplog.text
    found, passed_over = read_records(folder)
    assert [one["defense"]["label"] for one in found] == ["NoDef"] and passed_over == 1
    with pytest.raises(StoreError, match="is damaged"):
        read_record(path)
    checksum_path(path).unlink()  # whoever changed it says so
    assert list(records(folder).att_acc1) == [10, 60]


def changed(run: dict, place: str, value: object) -> dict:
    """A copy of a record with one value changed, or dropped (``...``)."""
    copied = json.loads(json.dumps(run))
    *way, last = place.split(".")
    node = copied
    for name in way:
        node = node.setdefault(name, {})
    node.pop(last, None) if value is ... else node.update({last: value})
    return copied


@pytest.mark.parametrize(
    "place, value",
    [
        ("setup.id", 3),
        ("setup.id", None),
        ("setup.id", "../../x"),
        ("setup.id", "a/b"),
        ("setup.id", ".hidden"),
        ("data.name", 7),
        ("attack", "a\nb"),
        ("evaluator", ...),
        ("defense.label", "two\nlines"),
        ("defense.label", "\x1b[2J"),
        ("metrics.acc", float("nan")),
        ("metrics.own", float("inf")),
        ("metrics.own", "high"),
        ("metrics.own", True),
        ("metrics.att_acc1_low", ...),
        ("metrics.evaluator_acc", ...),
        ("per_identity", {"att_acc1": [float("nan")]}),
        ("per_identity", {"att_acc1": 3}),
        ("counts.private_test", 0),
        ("key", "../../../home"),
        ("artifacts.attack", "../../other/store"),
        ("artifacts.attack", ...),
        ("config.attack.lr", float("-inf")),
        ("config.metrics.image_to_evaluator", None),
        ("alarms", {"target": "a sentence"}),
        ("schema", 2),
        ("threat", "labels"),  # without its queries
    ],
)
def test_what_no_reader_takes_is_not_written(place, value, tmp_path):
    path = tmp_path / "records" / "x.json"
    run = changed(record(90, 60), place, value)
    with pytest.raises(StoreError, match="is not written, for nobody could read it"):
        update_record(path, run)
    assert not path.exists()
    path.parent.mkdir()
    path.write_text(json.dumps(run))  # as somebody else may have written it
    with pytest.raises(StoreError, match=r"x\.json is no run record; remove it"):
        read_record(path)


def test_nesting_that_would_end_in_a_recursion_is_no_record(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        json.dumps(changed(record(90, 60), "config.deep", 0)).replace(
            '"deep": 0', '"deep": ' + "[" * 400 + "]" * 400
        )
    )
    with pytest.raises(StoreError, match="nested too deeply"):
        read_record(path)


def test_a_run_without_an_attack_accuracy_leaves_a_readable_record(tmp_path):
    run = record(90, 60)
    for name in ("att_acc1", "att_acc1_low", "att_acc1_high"):
        run = changed(run, f"metrics.{name}", ...)
    path = tmp_path / "records" / "x.json"
    update_record(path, run)
    assert read_record(path) == run and read_records(tmp_path) == ([run], 0)


class Made(NamedTuple):
    """An artifact as far as a record looks at it."""

    metrics: dict
    store: Path
    seconds: float = 1.0
    manifest: Mapping[str, str] = {}
    history: Sequence[Mapping[str, float]] = ()

    def json(self, name: str) -> Sequence[Mapping[str, float]]:
        """What a training keeps of its epochs."""
        return {"history": self.history}[name]


def test_alarms_of_the_stages_stand_in_the_record_and_a_record_without_any_has_none(tiny):
    settings = tiny()
    plan = make_plan(settings)
    told = {
        "target": ({"acc": 2.0, "counts": {"private_test": 9}, "alarms": ["it is at\nchance"]}),
        "evaluator": ({"acc": 90.0}),
        "prior": ({"counts": {}}),
        "attack": ({"counts": {}, "queries": 1, "queries_per_identity": {}, "threat": "white_box"}),
        "metrics": ({"counts": {}, "per_identity": {}, "alarms": []}),
        "verdicts": ({"controls": {"chance": 1.0, "pictures": 0}}),
    }
    made = {name: Made(metrics, Store(settings["paths"]["store"]).root) for name, metrics in told.items()}
    done = make_record(settings, plan, made, defense_label="NoDef", device="one CPU", commit="abc")
    assert done["alarms"] == {"target": ["it is at?chance"]} and "alarms" not in done["metrics"]
    made["target"].metrics.pop("alarms")
    assert "alarms" not in make_record(
        settings, plan, made, defense_label="NoDef", device="one CPU", commit="abc"
    )


def test_the_best_epoch_on_the_test_images_stands_beside_the_last_as_official_programs_print_it():
    history = [{"epoch": float(n), "test_acc": acc, "loss": 1.0} for n, acc in enumerate([50.0, 80, 80, 70])]
    assert best_epoch(history) == {"accuracy_best_epoch_official": 80.0, "best_epoch_official": 1.0}
    assert best_epoch([]) == {}  # of a classifier that was loaded


def test_the_outcome_of_a_run_that_diverged_is_read_and_nothing_else_is_taken_for_one(tmp_path, caplog):
    path = diverged_path(tmp_path / "records" / "x.json")
    assert path == tmp_path / "diverged" / "x.json" and read_diverged(path) is None
    outcome = {"outcome": "diverged", "sentence": "the target diverged in epoch 3", "config": {}}
    write_json(path, outcome)
    assert read_diverged(path) == outcome and not caplog.text
    for broken in (
        "{",
        "[]",
        json.dumps({**outcome, "sentence": 3}),
        json.dumps({**outcome, "outcome": "done"}),
    ):
        path.write_text(broken)
        assert read_diverged(path) is None and "x.json" in caplog.text
        caplog.clear()


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


@pytest.mark.parametrize(
    "override, key",
    [
        ("setup.id=3", "setup.id=3"),
        ("setup.id=null", "setup.id=null"),
        ("setup.id=../../../elsewhere/escaped", "setup.id=../../../elsewhere/escaped"),
        ("setup.id=a/b", "setup.id=a/b"),
        ("setup.id=''", "setup.id="),
        ("data.name=7", "data.name=7"),
        ("target.name=.hidden", "target.name=.hidden"),
        ("attack.name='two words'", "attack.name=two words"),
        (f"setup.id={'x' * 90}", "at most 80 letters"),
    ],
)
def test_names_that_become_file_names_are_one_component_of_a_path(override, key, tiny):
    with pytest.raises(ConfigError, match=re.escape(key)):
        make_plan(tiny(override))


def test_so_are_the_names_of_defenses(tiny):
    settings = tiny()
    settings["defense"]["a/b"] = {"_target_": "defenses.NoDef"}
    with pytest.raises(ConfigError, match="the defense 'a/b' cannot be called so"):
        make_plan(settings)


def test_a_label_of_several_lines_is_told_before_anything_is_built(tiny, monkeypatch):
    settings = tiny("defense=nls")
    monkeypatch.setattr("defenses.composer.Composed.label", property(lambda self: "two\nlines"))
    with pytest.raises(ConfigError, match=r"label 'two\\nlines' of defense nls cannot stand in a table"):
        make_parts(settings)
