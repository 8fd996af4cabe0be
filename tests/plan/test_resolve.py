"""Interpolations of plain containers are what OmegaConf makes of them, or are left to it."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import midre_exp.plan.compose
from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs
from midre_exp.plan.loaded_once import loaded_once
from midre_exp.plan.resolve import NotKnown, overridden, resolved

CONFIG: dict[str, Any] = {
    "seed": 3,
    "none": None,
    "size": "${data.size}",
    "data": {"size": 64, "name": "faces", "root": "${data.folder}/${data.name}-${seed}", "folder": "a/b"},
    "copy": "${data}",
    "deep": "${copy.root}",
    "text": "${none} and ${data.size}",
    "recipe": {"lr": 0.1, "epochs": 5, "scheduler": {"T": "${..epochs}", "lr": "${..lr}"}, "own": "${.lr}"},
    "borrowed": {"scheduler": "${recipe.scheduler}"},
    "list": ["${seed}", {"a": "${data.name}"}],
    "there": "${oc.select:data.size,7}",
    "not_there": "${oc.select:data.of.nobody,0.25}",
    "nothing": "${oc.select:nobody.is,null}",
    "word": "${oc.select:nobody,all_but_last}",
    "told": "${sum_of:${data.size},4}",
    "seen": "${seed_and:1}",
}


@pytest.fixture(autouse=True)
def resolvers():
    OmegaConf.register_new_resolver("sum_of", lambda one, other: one + other, replace=True)
    OmegaConf.register_new_resolver("seed_and", lambda one, *, _root_: _root_.seed + one, replace=True)
    OmegaConf.register_new_resolver("looks_at", lambda one, *, _root_: _root_.data.size, replace=True)
    yield
    for name in ("sum_of", "seed_and", "looks_at"):
        OmegaConf.clear_resolver(name)


def test_it_is_as_omegaconf_resolves():
    expected = OmegaConf.to_container(OmegaConf.create(CONFIG), resolve=True)
    found = resolved(CONFIG)
    assert found == expected
    assert repr(found) == repr(expected)  # kinds of numbers and the order of keys as well
    assert found["copy"] is not found["data"]


@pytest.mark.parametrize(
    "value",
    [
        "???",
        "${nobody}",
        "${data.nobody}",
        "${data.size.more}",
        "${list.0}",
        "\\${data.size}",
        "${data[size]}",
        "a ${oc.env:HOME}",
        "${oc.select:data.${seed},1}",
        "text ${data}",
        "${one}",
        "${looks_at:1}",
    ],
)
def test_what_it_does_not_know_is_left_to_omegaconf(value):
    with pytest.raises(NotKnown):
        resolved({**CONFIG, "one": value})


@pytest.mark.parametrize(("key", "value"), [("data.nobody", 1), ("data", 1), ("seed", [1]), ("size.a", 1)])
def test_only_a_plain_value_that_is_there_is_overridden(key, value):
    with pytest.raises(NotKnown):
        overridden({**CONFIG}, key, value)
    config: dict[str, Any] = {"a": {"b": 1}}
    overridden(config, "a.b", "${c}")
    assert config == {"a": {"b": "${c}"}}


def test_jobs_of_ours_need_no_omegaconf(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("resolved by OmegaConf")

    monkeypatch.setattr(Composer, "_merged", refuse)
    with packaged_configs():
        composer = packaged_composer()
        for job in (["setup=S27", "scale=paper", "defense=[midre,bido]", "seed=4"], ["numerics=auto"]):
            assert composer.settings(job)["seed"] == (4 if len(job) > 1 else 0)


def test_a_yaml_is_read_once_for_many_configs(monkeypatch):
    opened: list[str] = []
    own = OmegaConf.load

    def load(file: Any) -> Any:
        opened.append(file.name)
        return own(file)

    with packaged_configs():
        loader = GlobalHydra.instance().config_loader()
        expected = [midre_exp.plan.compose.compose("config", [f"setup={name}"]) for name in ("S01", "S02")]
        monkeypatch.setattr(OmegaConf, "load", load)
        known: dict[str, bytes] = {}
        with loaded_once(loader, known):
            found = [midre_exp.plan.compose.compose("config", [f"setup={name}"]) for name in ("S01", "S02")]
    assert found == expected
    yamls = [name for name in opened if "/conf/" in name and "/card/" not in name]
    assert sorted(yamls) == sorted(set(yamls))
