"""What comes with the package: taken over where a run needs it, byte for byte or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from midre_exp.errors import ConfigError, StoreError
from midre_exp.plan.keys import Plan, StageKey
from midre_exp.stages.stale import to_rebuild
from midre_exp.store import shipped
from midre_exp.store.exchange import chosen, export
from midre_exp.store.store import Store, Workspace


def make(work: Workspace) -> None:
    work.save_tensors("weights", {"w": torch.arange(5.0)})


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A prior and a verifier that come with the package."""
    lab = Store(tmp_path / "lab")
    for stage, key in (("prior", "aa11"), ("verifier", "bb22")):
        lab.build(stage, key, config={}, upstream={}, make=make)
    place = tmp_path / "package"
    export(chosen(lab, ["prior/aa11", "verifier/bb22"], upstream=False), place)
    monkeypatch.setattr(shipped, "PLACE", place)
    return place


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "artifacts")


def test_what_a_run_needs_and_lacks_is_taken_over(package, store):
    wanted = [("prior", "aa11"), ("verifier", "of another config"), ("target", "cc33")]
    assert shipped.take(store, wanted) == [("prior", "aa11", "imported")]
    found = store.find("prior", "aa11")
    assert found is not None and torch.equal(found.tensors()["w"], torch.arange(5.0))
    assert store.find("verifier", "bb22") is None
    assert shipped.take(store, wanted) == []  # once


def test_one_altered_byte_is_refused_in_one_sentence(package, store):
    path = package / "prior" / "aa11" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        shipped.take(store, [("prior", "aa11"), ("verifier", "bb22")])
    text = str(caught.value)
    assert "prior/aa11: weights.safetensors does not match its checksum" in text
    assert text.endswith("install that again, or add --rebuild shipped") and "\n" not in text
    assert store.find("prior", "aa11") is None and store.find("verifier", "bb22") is None


def test_a_damaged_index_is_refused(package, store):
    (package / "midre-export.json").write_text("{}")
    with pytest.raises(StoreError, match=r"midre-export\.json is no index .*--rebuild shipped$"):
        shipped.take(store, [("prior", "aa11")])


def plan_of(**upstream: dict[str, str]) -> Plan:
    keys = {"prior": "aa11", "target": "cc33", "attack": "dd44"}
    stages = {name: StageKey(name, key, {}, upstream.get(name, {})) for name, key in keys.items()}
    return Plan(stages=stages, key="ee55")


def test_the_word_shipped_stands_for_what_came_and_rests_on_it(package):
    settings = {"runtime": {"rebuild": ["shipped"]}, "target": {}, "attack": {"name": "ppa"}}
    plan = plan_of(attack={"prior": "aa11", "target": "cc33"})
    assert to_rebuild(settings, plan) == {"prior", "attack"}


def test_the_word_shipped_is_refused_where_it_stands_for_nothing(package):
    (package / "midre-export.json").unlink()
    settings = {"runtime": {"rebuild": ["shipped"]}, "target": {}, "attack": {"name": "ppa"}}
    with pytest.raises(ConfigError, match="no stage of this run comes with midre-exp"):
        to_rebuild(settings, plan_of())
