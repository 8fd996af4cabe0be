"""Records in the format of Every Eval Ever 0.3.0; what that schema demands is written here as facts."""

from __future__ import annotations

import json
import re
from pathlib import Path

from midre_exp.sharing.__main__ import main
from midre_exp.sharing.every_eval_ever import convert
from tests.report.paper_records import record

#: Required keys by place, and values from fixed lists.
REQUIRED = {
    "": {
        *("schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info"),
        *("eval_library", "evaluation_results"),
    },
    "source_metadata": {"source_type", "source_organization_name", "evaluator_relationship"},
    "eval_library": {"name", "version"},
    "model_info": {"name", "id", "additional_details"},
}
OF_RESULT = {"evaluation_name", "source_data", "metric_config", "score_details"}
#: A log may have no other key, but these two.
OPTIONAL = {"evaluation_timestamp", "detailed_evaluation_results"}


def is_log(log: dict) -> None:
    for place, names in REQUIRED.items():
        assert names <= set(log[place] if place else log), place
    assert set(log) <= REQUIRED[""] | OPTIONAL and log["schema_version"] == "0.3.0"
    assert log["source_metadata"]["source_type"] in ("documentation", "evaluation_run")
    assert log["source_metadata"]["evaluator_relationship"] in (
        *("first_party", "third_party", "collaborative", "other"),
    )
    details = log["model_info"]["additional_details"]
    assert details["deployment_type"] in ("self_deployed", "externally_managed", "unknown")
    assert details["model_availability"] in ("open_weights", "closed_weights", "unknown")
    blocks = [
        details,
        log["source_metadata"]["additional_details"],
        log["eval_library"]["additional_details"],
    ]
    for result in log["evaluation_results"]:
        assert set(result) >= OF_RESULT
        assert result["source_data"]["source_type"] == "other" and result["source_data"]["dataset_name"]
        metric = result["metric_config"]
        assert type(metric["lower_is_better"]) is bool and metric["score_type"] == "continuous"
        assert metric["min_score"] == 0 and metric["max_score"] in (100, "Infinity")
        assert isinstance(result["score_details"]["score"], (int, float))
        blocks += [metric["additional_details"], result["source_data"]["additional_details"]]
    assert all(isinstance(value, str) for block in blocks for value in block.values())


def test_a_record_is_a_log_of_its_target_and_its_attack(tmp_path):
    run = record(88, 40, "midre", seed=1)
    run["metrics"]["knn_dist"] = 99.5
    (path,) = convert([run], tmp_path, organization="Our Lab", now=1.5)
    log = json.loads(path.read_text())
    is_log(log)
    scores = {one["evaluation_result_id"].partition("/")[2]: one for one in log["evaluation_results"]}
    assert {name: one["score_details"]["score"] for name, one in scores.items()} == {
        "acc": 88,
        "att_acc1": 40,
        "knn_dist": 99.5,
    }
    assert not scores["acc"]["metric_config"]["lower_is_better"]
    assert scores["att_acc1"]["metric_config"]["lower_is_better"]  # better for who owns the target
    interval = scores["att_acc1"]["score_details"]["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"], interval["confidence_level"]) == (36, 44, 0.95)
    assert log["evaluation_id"] == "midre-exp-mini-synthfaces/Our-Lab/vgg16-midre-s1/1.500"


def test_files_lie_as_that_project_lays_them_out_and_equal_records_have_one_name(tmp_path):
    runs = [record(90, 60), record(88, 40, "midre")]
    paths = [convert(runs, tmp_path / name, organization="Our Lab", now=1) for name in ("a", "b")]
    names = [
        [str(path.relative_to(tmp_path / folder)) for path in some]
        for folder, some in zip("ab", paths, strict=True)
    ]
    assert names[0] == names[1] and len(set(names[0])) == 2
    form = r"data/[^/]+/[^/]+/[^/]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json"
    assert all(re.fullmatch(form, name) for name in names[0])


def test_committed_records_convert(tmp_path, capsys):
    folder = Path(__file__).parents[2] / "results" / "mini"
    assert main(["every-eval-ever", str(tmp_path / "out"), str(folder), "--organization", "Our Lab"]) == 0
    logs = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("*.json")]
    assert len(logs) == len(list((folder / "records").glob("*.json"))) > 0
    for log in logs:
        is_log(log)
    assert main(["every-eval-ever", str(tmp_path / "out"), str(folder), "--organization", "x"]) == 2
    assert main(["every-eval-ever", str(tmp_path / "new"), str(folder), "--organization", "-"]) == 2
