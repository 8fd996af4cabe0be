"""Images of other people for a defense: whose they are, whose key they enter, and where there are none."""

from __future__ import annotations

from typing import Any

import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.keys import learns_from_others, node_of
from midre_exp.records.comparable import comparable_config
from midre_exp.records.protection import protection
from midre_exp.stages import make_plan, target
from midre_exp.stages.parts import make_parts

MORE = "data.pretraining_identities=7"


def keys(tiny: Any, *overrides: str) -> dict[str, str]:
    return {name: stage.key for name, stage in make_plan(tiny(*overrides)).stages.items()}


def test_they_enter_the_key_of_a_target_whose_defense_asks_for_them_and_no_other(tiny: Any) -> None:
    assert keys(tiny) == keys(tiny, MORE)
    assert "others" not in make_plan(tiny("defense=bido"))["target"].config
    for name in ("dcd", "bido_plus"):
        plain, more = keys(tiny, f"defense={name}"), keys(tiny, f"defense={name}", MORE)
        changed = {stage for stage in plain if plain[stage] != more[stage]}
        assert "target" in changed and not {"evaluator", "features", "candidates"} & changed
        plan = make_plan(tiny(f"defense={name}"))["target"]
        assert plan.config["others"]["pool"] == "pretraining"


def test_records_of_two_pools_are_of_two_things_where_the_defense_reads_them(tiny: Any) -> None:
    def compared(*overrides: str) -> Any:
        return comparable_config(tiny(*overrides))

    assert compared("defense=bido") == compared("defense=bido", MORE)
    assert compared("defense=dcd") != compared("defense=dcd", MORE)


def test_they_are_neither_private_nor_public(tiny: Any) -> None:
    parts = make_parts(tiny("defense=dcd"))
    assert parts.others is not None and make_parts(tiny()).others is None
    theirs, private, public = (
        {image.numpy().tobytes() for image in data.load(part).images}
        for data, part in ((parts.others, "train"), (parts.private, "train"), (parts.public, "public"))
    )
    assert theirs and not theirs & private and not theirs & public
    names = [set(data.load("train").classes) for data in (parts.others, parts.private)]
    assert not names[0] & names[1]


def test_a_loaded_target_needs_none(tiny: Any) -> None:
    assert learns_from_others(tiny("defense=dcd"))
    assert not learns_from_others(tiny("defense=dcd", "target.checkpoint=file.pt", "target.trained_with=dcd"))


def test_data_whose_other_people_are_the_attackers_are_refused_with_the_remedy(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny("defense=dcd")
    parts = make_parts(settings)
    target.check(settings, parts)
    monkeypatch.setattr(type(parts.private), "has_own_pools", False)
    with pytest.raises(ConfigError, match=r"\+data.others=\{root: FOLDER\}"):
        target.check(settings, parts)
    settings["data"]["others"] = {"seed": 77}
    target.check(settings, parts)
    assert node_of(settings["data"], "others")["seed"] == 77
    without = {name: node for name, node in settings["data"].items() if name not in ("others", "pretraining")}
    with pytest.raises(ConfigError, match="no people who are neither private nor the attacker's"):
        node_of(without, "others")


def test_success_is_told_for_protected_people_and_others() -> None:
    defended = {"dcd": {"protected": [0, 2, 9]}, "dpsgd": {"epsilon": 3.0}}
    found = protection(defended, {"att_acc1": [10.0, 60.0, 20.0, 80.0]})
    assert found == {
        "identities": [0, 2],
        "others": 2,
        "metrics": {"att_acc1": {"protected": 15.0, "others": 70.0}},
    }
    everybody = protection({"dcd": {"protected": [0]}}, {"att_acc1": [10.0]})
    assert everybody is not None and everybody["metrics"]["att_acc1"]["others"] is None
    assert protection({"dpsgd": {"epsilon": 3.0}}, {"att_acc1": [1.0]}) is None
