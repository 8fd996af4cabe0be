"""A defense that acts when the deployed target is asked: keys, the stage, what runs and records tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from defenses.ssd import COPIES
from midre_exp.errors import ConfigError
from midre_exp.plan.config import without
from midre_exp.plan.deployment import NETWORK_CONFIDENCE, trained_defense
from midre_exp.records import problem_of
from midre_exp.report.tables.notes import answers_of
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.stages.deployment import every_second
from midre_exp.store.store import Store
from midre_exp.threat import Threat, Victim
from tests.conftest import resolved, tiny_overrides

RLBMI = (
    *("attack=rlbmi", "attack.restarts=1", "attack.episodes=12", "attack.batch_size=4"),
    *("attack.log_every=4", "attack.agent.hidden=8"),
)


def keys(*overrides: str) -> dict[str, str]:
    return {name: stage.key for name, stage in make_plan(resolved(["scale=mini", *overrides])).stages.items()}


def record_of(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    assert problem_of(record) is None
    return record


# -- keys --


def test_the_network_is_that_of_no_defense_and_so_is_what_holds_it() -> None:
    plain, ours = keys(), keys("defense=ssd")
    assert without(ours, "deployment") == plain and "deployment" not in plain
    trained, both = keys("defense=midre"), keys("defense=[midre,ssd]")
    assert without(both, "deployment") == trained and both["deployment"] != ours["deployment"]
    plan, other = (make_plan(resolved(["scale=mini", f"defense={one}"])) for one in ("nodef", "ssd"))
    assert plan.key != other.key  # they are two rows


@pytest.mark.parametrize("attack", ["rlbmi", "brepmi"])
def test_what_sees_only_answers_is_made_anew_and_the_rest_is_not(attack: str) -> None:
    plain, ours = keys(f"attack={attack}"), keys(f"attack={attack}", "defense=ssd")
    changed = {name for name, key in plain.items() if ours[name] != key}
    assert changed == {"attack", "metrics", "verdicts"}
    weaker = keys(f"attack={attack}", "defense=ssd", "defense.ssd.eps=0.35")
    assert {name for name, key in ours.items() if weaker[name] != key} == {"deployment", *changed}


def test_the_order_of_several_answers_is_part_of_what_they_are() -> None:
    one, other = keys("defense=[ssd,rounding]"), keys("defense=[rounding,ssd]")
    assert one["deployment"] != other["deployment"] and one["target"] == other["target"] == keys()["target"]


def test_a_published_network_under_an_answer_was_trained_with_none(tiny: Any) -> None:
    settings = tiny("defense=[nodef,ssd]")
    assert trained_defense(settings) == {"nodef": {"_target_": "defenses.NoDef"}}
    assert trained_defense(tiny("defense=ssd")) == {"nodef": {"_target_": "defenses.NoDef"}}
    assert list(trained_defense(tiny("defense=[ssd,midre]"))) == ["midre"]


def test_contradictions_are_told_before_anything_is_made(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ssd comes after labels_only"):
        run(tiny("defense=[labels_only,ssd]"))
    assert not list((tmp_path / "store").glob("target/*"))


# -- the stage --


def test_every_second_image_of_each_class_is_for_calibration() -> None:
    labels = torch.tensor([2, 0, 0, 1, 0, 2, 0, 2])
    chosen = every_second(labels)
    assert chosen.tolist() == [True, True, False, True, True, False, False, True]
    assert every_second(torch.tensor([5])).tolist() == [True]


def test_too_few_images_for_both_halves_are_told(tiny: Any, stocked: Path) -> None:
    settings = tiny("defense=ssd", "data.test_per_identity=1")
    with pytest.raises(
        ConfigError, match="measured on the others, of which there are none; use data with two"
    ):
        run(settings)


def test_a_white_box_row_equals_that_of_no_defense_and_its_record_says_why(
    tiny: Any, stocked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, ours = (record_of(run(tiny(*one))) for one in ((), ("defense=ssd",)))
    assert "gmi holds the network and goes past ssd" in capsys.readouterr().err
    told = ours["deployment"]
    assert told["bypassed"] is True and told["parts"] == ["ssd"] and "deployment" not in plain
    assert ours["artifacts"]["attack"] == plain["artifacts"]["attack"]
    assert without(ours["metrics"], "acc", "network_acc") == without(plain["metrics"], "acc")
    assert ours["metrics"]["network_acc"] == plain["metrics"]["acc"]
    assert ours["metrics"]["acc"] == told["acc"]
    # half of two images of each of four people
    assert told["calibrated_on"] == told["answered"] == 4 == sum(ours["test_per_identity"]["images"])
    hits = sum(ours["test_per_identity"]["right"])
    assert told["acc"] == pytest.approx(100 * hits / 4) and "ssd/replaced" in told["own"]
    (sentence,) = answers_of([ours])  # type: ignore[list-item]
    assert "goes past these answers" in sentence and f"has {plain['metrics']['acc']:.2f} on all" in sentence
    assert answers_of([plain]) == []  # type: ignore[list-item]


def test_an_attack_on_scores_meets_the_answers_and_the_network_is_told_beside_them(
    tmp_path: Path, stocked: Path
) -> None:
    tiny = [one for one in tiny_overrides(tmp_path) if "attack.steps" not in one]  # of which it has none
    settings = resolved([*tiny, *RLBMI, "defense=labels_only"])
    record = record_of(run(settings))
    assert record["deployment"]["bypassed"] is False and record["deployment"]["calibrated_on"] == 0
    assert record["deployment"]["answered"] == 8 and record["deployment"]["changed_labels"] == 0
    assert record["metrics"]["acc"] == record["metrics"]["network_acc"]
    attack = Store(settings["paths"]["store"]).find("attack", record["artifacts"]["attack"])
    assert attack is not None
    found = attack.tensors("reconstructions")
    assert set(found["confidence"].tolist()) <= {0.0, 1.0}  # one-hot scores
    assert bool(((found[NETWORK_CONFIDENCE] > 0) & (found[NETWORK_CONFIDENCE] < 1)).all())
    assert attack.metrics[NETWORK_CONFIDENCE] == pytest.approx(float(found[NETWORK_CONFIDENCE].mean()))


def test_who_knows_it_and_sees_scores_asks_copies_and_pays_for_them(tmp_path: Path, stocked: Path) -> None:
    tiny = [one for one in tiny_overrides(tmp_path) if "attack.steps" not in one]
    known = ["defense=[nls,ssd]", "attack.informed=true", "attack.max_queries=48"]
    settings = resolved([*tiny, *RLBMI, *known])
    record = record_of(run(settings))
    told = record["informed"]
    assert told["copies"] == len(told["asked"]) == COPIES and told["places"] == ["answers"]
    # the margin of logits and its gradient are nothing for one who sees answers
    assert list(told["reasons"]) == ["ssd"] and told["silent"] == ["nls"] and told["identity_loss"] is None
    # 2 queries an episode, each of so many copies: 3 of the 12 episodes
    assert record["queries_per_identity"] == {"mean": 48, "min": 48, "max": 48}


def test_too_few_queries_for_the_copies_of_one_episode_are_told_before_anything_is_made(
    tmp_path: Path,
) -> None:
    tiny = [one for one in tiny_overrides(tmp_path) if "attack.steps" not in one]
    settings = resolved([*tiny, *RLBMI, "defense=ssd", "attack.informed=true", "attack.max_queries=8"])
    with pytest.raises(ConfigError, match=r"attack\.max_queries=8 is less than the 16 of one episode"):
        run(settings)
    assert not list((tmp_path / "store").glob("target/*"))


def test_averaged_answers_are_the_mean_over_copies_and_each_is_a_query() -> None:
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    victim = Victim.of(lambda shown: 5 * shown.mean((2, 3)), 3, Threat.SCORES)
    averaged = victim.averaged([lambda shown: shown, lambda shown: 1 - shown])
    expected = (victim.scores(images) + victim.scores(1 - images)) / 2
    assert torch.equal(averaged.scores(images), expected) and averaged.queries == 6
