"""``attack.informed`` in a run: its keys, what log and record tell, what does not go together, its costs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import Defense, Informed
from midre_exp import stages
from midre_exp.cost.likened import likened
from midre_exp.cost.programs import count_stage
from midre_exp.cost.sizes import Sizes
from midre_exp.errors import ConfigError
from midre_exp.records import problem_of
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.stages.parts import make_parts
from midre_exp.store.store import Store
from tests.conftest import resolved

OWN = "runtime.trusted_packages=[tests]"


class OwnLoss(Defense):
    """Gives an informed attacker a loss of its own."""

    def informed(self, model: Any) -> Informed:
        return Informed(identity_loss=first_logit, reason="it has a loss")


def first_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return logits[:, 0]


def keys(settings: dict[str, Any]) -> dict[str, str]:
    return {name: stage.key for name, stage in make_plan(settings).stages.items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name, key in before.items() if after[name] != key}


@pytest.mark.parametrize("attack", ["gmi", "kedmi", "plgmi", "lomma_gmi", "ppa", "mirror", "ifgmi", "brepmi"])
def test_while_it_is_off_keys_are_as_before_there_was_any(attack: str) -> None:
    off = resolved(["scale=mini", f"attack={attack}", "defense=midre"])
    assert off["attack"]["informed"] is False
    before = copy.deepcopy(off)
    del before["attack"]["informed"]
    assert keys(before) == keys(off)
    if attack == "brepmi":
        return
    on = keys(resolved(["scale=mini", f"attack={attack}", "defense=midre", "attack.informed=true"]))
    found = changed(keys(off), on)
    assert {"attack", "metrics"} <= found
    # who makes pictures, priors, students or targets does not know of it
    assert not found & {"target", "prior", "surrogates", "candidates", "evaluator", "features"}


def record_of(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    assert problem_of(record) is None
    return record


def test_without_a_defense_the_run_is_the_plain_one_to_the_byte(tiny, stocked, capsys) -> None:
    plain, informed = tiny(), tiny("attack.informed=true")
    before, after = record_of(run(plain)), record_of(run(informed))
    assert "informed" not in before
    told = after["informed"]
    assert told["views"] == told["target"] == told["silent"] == told["places"] == []
    assert told["copies"] == 1 and list(told["reasons"]) == ["nodef"]
    assert f"informed attacker, nodef: {told['reasons']['nodef']}" in capsys.readouterr().err
    assert after["queries"] == before["queries"]
    store = Store(plain["paths"]["store"])
    attacks = [store.find("attack", record["artifacts"]["attack"]) for record in (before, after)]
    found = [attack.tensors("reconstructions") for attack in attacks]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_a_copy_is_asked_and_who_does_not_say_is_named(tiny, stocked, capsys) -> None:
    own = ["+defense.nosy._target_=tests.plugins.NosyDefense", "+defense.nosy.strength=0.1", OWN]
    settings = tiny("defense=mid", "attack.informed=true", *own)
    record = record_of(run(settings))
    told = record["informed"]
    assert told["target"] == ["mean_of_noise"] and told["silent"] == ["nosy"]
    assert list(told["reasons"]) == ["mid"]
    said = capsys.readouterr().err
    assert "informed attacker, nosy: the defense does not say what an attacker does who knows it" in said
    assert record["queries"] == 4 * 2 * 3  # as many as uninformed: no views, no copies


def test_what_contradicts_each_other_is_told_before_anything_is_trained() -> None:
    own = f"+defense.own._target_={__name__}.OwnLoss"
    settings = resolved(["scale=mini", "defense=nls", "attack.informed=true", own, OWN])
    with pytest.raises(ConfigError, match=r"defenses nls and own give .* two different losses"):
        stages.attack.check(settings, make_parts(settings))


@pytest.mark.parametrize(("defense", "times"), [("nodef", 1), ("midre", 8)])
def test_an_estimate_counts_the_copies(defense: str, times: int) -> None:
    def cost(*overrides: str) -> float:
        common = ["scale=mini", "attack=gmi", "attack.identities=4", "attack.restarts=1", "attack.steps=8"]
        settings = resolved([*common, f"defense={defense}", *overrides])
        found = count_stage("attack", settings, Sizes(train=16, test=8, public=32, classes=4))
        return sum(phase.flops for phase in found.phases if phase.name == "optimisation")

    plain, informed = cost(), cost("attack.informed=true")
    assert informed == plain if times == 1 else 1.5 * plain < informed < times * plain


def test_an_attack_with_copies_is_not_estimated_by_one_without() -> None:
    plain, informed, averaged = (
        resolved(["scale=mini", "attack=ppa", "defense=midre", *more])
        for more in ([], ["attack.informed=true"], ["attack/expectation=paa"])
    )
    measured = [("attack", plain, None, 100.0)]
    found = likened(measured)
    assert found("attack", plain, None) == pytest.approx(100)
    assert found("attack", informed, None) is None and found("attack", averaged, None) is None
    told = [stages.attack.describe(settings) for settings in (plain, informed, averaged)]
    assert told[0] == "ppa on resnet18 with midre" and len(set(told)) == 3
