from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from midre_exp.errors import ConfigError
from midre_exp.report.runs.convergence import NOT_MEASURED, training_of
from midre_exp.report.summary import answered, cost, render_summary, sentences, told
from midre_exp.store.files import write_json
from tests.report.paper_records import record


def claim(answer: str, value: float | None = None, **more: Any) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 1, value + 2)
    effect = {"value": value, "low": low, "high": high, "detail": "MIDRE and NoDef"}
    return {
        "name": answer,
        "statement": f"It is {answer}",
        "unit": "points",
        "answer": answer,
        "effect": effect,
        **more,
    }


CLAIMS = [
    claim("supported", 4.0, corrected_p=0.0004),
    claim("contradicted", -3.0, corrected_p=0.02),
    claim("not measured", corrected_p=None),
]


def trained(train_acc: float, *names: str, **more: Any) -> dict[str, Any]:
    made = record(90, 60, *names, **more)
    made["metrics"]["train_acc"] = train_acc
    return made


def test_every_answer_is_told_with_its_effect_interval_and_p() -> None:
    assert told(CLAIMS[0]) == "It is supported (+4.0 points, 95 % interval +3.0 to +6.0, corrected p < 0.001)"
    assert told(CLAIMS[1]).endswith("corrected p 0.020)")
    assert told(CLAIMS[2]) == "It is not measured (needs MIDRE and NoDef)"
    texts = sentences(CLAIMS, [trained(99, "nls")], {})
    assert texts[0] == "Of 3 claims: 1 supported, 1 contradicted, 0 undecided, 1 not measured."
    assert [text.split("**")[1] for text in texts[1:]] == [
        "Supported.", "Contradicted.", "Not measured.", "Trainings."
    ]  # fmt: skip


def test_registered_claims_are_told_alone_once_one_is_measured(tmp_path) -> None:
    free, registered = ({"effect": {"value": 1.0}}, {"effect": {"value": None}, "corrected_p": None})
    path = tmp_path / "claims.json"
    path.write_text(json.dumps({"claims": [free, registered]}))
    assert answered(path) == [free, registered]
    registered["effect"]["value"] = 2.0
    path.write_text(json.dumps({"claims": [free, registered]}))
    assert answered(path) == [registered]


def test_the_trainings_are_told_and_those_of_other_lengths_do_not_count() -> None:
    records = [trained(99, "nls"), trained(80, "midre"), trained(70, "midre", seed=1)]
    assert sentences([], records, {})[-1] == (
        "**Trainings.** 1 of 2 arms fit at least 95 % of what they were shown in training; less do midre of "
        f"VGG16 (75.0 %). {NOT_MEASURED}"
    )
    longer = trained(100, "nls", config={"target": {"name": "vgg16", "recipe": {"epochs": 9}}})
    known = {
        training_of(records[0]["config"]): "converged",
        training_of(records[1]["config"]): "not converged",
    }
    text = sentences([], [*records, longer], known)[-1]
    assert "1 of 2 arms" in text and "too short by the rule of convergence are midre of VGG16 (" in text


def test_time_is_counted_once_for_each_stage() -> None:
    runs = [trained(99, "nls", seed=seed) for seed in (0, 1)]
    for run, attack in zip(runs, ("a", "b"), strict=True):
        run |= {"seconds": {"prior": 3600.0, "attack": 1800.0}, "artifacts": {"prior": "p", "attack": attack}}
    assert cost(runs) == "2 runs of 3 stages, 2.0 hours of one process."


def test_the_page_is_written_beside_the_records_and_needs_answers(tmp_path: Path) -> None:
    folder = tmp_path / "mini"
    write_json(folder / "records" / "one.json", trained(99, "nls"))
    with pytest.raises(ConfigError, match=r"claims.json holds no answers to claims; make them with"):
        render_summary([f"paths.results={tmp_path}"])
    unregistered = {key: value for key, value in claim("undecided", 1.0).items() if key != "corrected_p"}
    write_json(folder / "claims.json", {"claims": [*CLAIMS, unregistered]})
    (folder / "evidence.md").write_text("")
    (folder / "fig2.md").write_text("")
    text = render_summary([f"paths.results={tmp_path}"]).read_text()
    assert text.startswith("# Scale mini on one page") and "Of 3 claims" in text
    assert "- [evidence](evidence.md): Eight arms" in text and "- [fig2](fig2.md): " in text
    assert "table1" not in text and "Seeds 0; commit abc" in text
