"""The JSON schema of a record says what the readers in Python say."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from midre_exp.records import schema
from midre_exp.records.migration import migrated
from midre_exp.run import run
from tests.report.paper_records import record
from tests.stages.test_diagnostics import DIAGNOSED
from tests.stages.test_judges_beside import OPEN_SET, TRAITS
from tests.test_records import changed

ROOT = Path(__file__).parents[2]
FILE = ROOT / "midre_exp" / "records" / "record.schema.json"
SCHEMA = json.loads(FILE.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
COMMITTED = sorted((ROOT / "results").glob("*/records/*.json"))


def complaints(run: object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(run)]


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema"]["const"] == schema.SCHEMA


def test_every_committed_record_is_as_it_says():
    assert COMMITTED
    assert {path.name: told for path in COMMITTED if (told := complaints(json.loads(path.read_text())))} == {}


def test_the_record_of_a_run_is_as_it_says_and_has_no_field_that_it_does_not_tell_of(tiny, stocked):
    found = json.loads(run(tiny()).read_text())
    assert complaints(found) == []
    assert set(found) <= set(SCHEMA["properties"])


@pytest.mark.slow
def test_so_is_that_of_a_run_with_further_judges(tiny, stocked):
    asked = ("jury=[resnet18]", *DIAGNOSED, *OPEN_SET, *TRAITS)
    found = json.loads(run(tiny(*asked)).read_text())
    assert (
        {"open_set", "traits", "jury", "diagnostics", "controls"} <= set(found) <= set(SCHEMA["properties"])
    )
    assert complaints(found) == []


def test_it_tells_of_every_field_that_the_code_knows():
    assert set(SCHEMA["properties"]) == set(schema.Record.__annotations__)
    for name, block in SCHEMA["$defs"].items():
        known = getattr(schema, name)
        assert set(block["properties"]) == set(known.__annotations__), name
        assert set(block.get("required", ())) <= set(known.__annotations__), name
    undocumented = [name for name, told in SCHEMA["properties"].items() if not told.get("description")]
    assert undocumented == ["defense"] or not undocumented


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((name, ...) for name in SCHEMA["required"]),
        ("key", "../../x"),
        ("setup.id", "a/b"),
        ("scale", ".hidden"),
        ("seed", 1.5),
        ("schema", 2),
        ("metrics.own", "high"),
        ("metrics.att_acc1_low", ...),
        ("metrics.evaluator_acc", ...),
        ("per_identity", {"att_acc1": 3}),
        ("counts.private_test", 0),
        ("counts.restarts", -1),
        ("artifacts.attack", "../../other"),
        ("artifacts.metrics", ...),
        ("config.metrics.image_to_evaluator", ...),
        ("alarms", {"target": "a sentence"}),
        ("threat", "labels"),
        ("claims", {"one": "x"}),
        ("origin", [{"bundle": "lab", "sha256": "x"}]),
        ("origin", {"bundle": "lab"}),
        ("suite", {"leading": "ppa"}),
    ],
)
def test_both_refuse_the_same(place, value):
    whole = record(90, 60)
    assert complaints(whole) == [] and schema.problem_of(whole) is None
    wrong = changed(whole, place, value)
    assert complaints(wrong) and schema.problem_of(wrong)


def test_an_earlier_record_is_brought_to_todays_form_and_nothing_is_made_up():
    first = record(90, 60)  # as those of the first version: without what came later
    assert not {"vary", "threat", "per_identity", "missing"} & set(first)
    del first["schema"]
    found = migrated(first)
    assert first.items() <= found.items() and complaints(found) == []
    assert set(found) - set(first) == {"schema", "vary", "threat", "per_identity", "missing"}
    assert found["vary"] == ["training", "attack"] and found["threat"] == "white_box"
    assert migrated({**found, "threat": "labels", "vary": ["prior"]})["threat"] == "labels"
    assert migrated(found) == found
