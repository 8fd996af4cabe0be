from __future__ import annotations

import json
import shutil

import pytest
import torch

from midre_exp.attack import Attack
from midre_exp.attack_run import run_shard
from midre_exp.errors import ConfigError
from midre_exp.plan.shards import Shard, parse_shard, stored_shards
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.store.store import Store
from midre_exp.sweep.finished import is_finished
from midre_exp.threat import Threat


def test_shards_are_disjoint_in_order_and_cover_everybody():
    for identities in (1, 7, 300, 530):
        for count in (1, 2, 7, 16):
            if count <= identities:
                ranges = [Shard(number, count).share(identities) for number in range(1, count + 1)]
                assert [person for people in ranges for person in people] == list(range(identities))
                assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    with pytest.raises(ConfigError, match="splits 3 identities into more parts"):
        Shard(1, 4).share(3)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "a/b", "1/0", "-1/4", "1.5/4"])
def test_what_is_no_part_of_a_whole_is_refused(text):
    with pytest.raises(ConfigError, match=r"attack\.shard="):
        parse_shard(text)
    assert parse_shard("3/16") == Shard(3, 16) and parse_shard(None) is None


def strip(path):
    """A record without what may differ: times, where it ran, and the files' places."""
    record = json.loads(path.read_text())
    for name in ("seconds", "key"):
        del record[name]
    record["config"].pop("paths")
    return record


@pytest.mark.parametrize("attack", ["attack=gmi", "attack=plgmi"])
def test_a_split_attack_merges_to_exactly_the_unsplit_numbers(tiny, stocked, tmp_path, attack):
    more = ("attack.prior.per_class=4", "attack.prior.width=2") if attack.endswith("plgmi") else ()
    whole = tiny(attack, *more)
    expected = strip(run(whole))
    found = Store(whole["paths"]["store"]).find("attack", make_plan(whole)["attack"].key)
    elsewhere = {name: str(tmp_path / "split" / name) for name in ("store", "runs", "results")}
    shutil.copytree(
        whole["paths"]["store"], elsewhere["store"], ignore=shutil.ignore_patterns("attack", "metrics")
    )
    split = {**whole, "paths": {**whole["paths"], **elsewhere}}
    for number in (3, 1):  # the second of three is left to the run that merges
        job = {**split, "attack": {**split["attack"], "shard": f"{number}/3"}}
        assert not is_finished(job, make_plan(job))
        path = run(job)
        assert path.name == f"{make_plan(whole)['attack'].key}-{number}of3"
        assert is_finished(job, make_plan(job))
    assert not (tmp_path / "split" / "results" / "mini").exists()  # a part has no record
    assert strip(run(split)) == expected
    merged = Store(elsewhere["store"]).find("attack", make_plan(split)["attack"].key)
    both = zip(
        sorted(found.tensors("reconstructions").items()),
        sorted(merged.tensors("reconstructions").items()),
        strict=True,
    )
    for (name, value), (other, piece) in both:
        # a convolution may round differently in a batch of another size
        assert name == other
        torch.testing.assert_close(
            value.double(), piece.double(), rtol=0, atol=1 if name == "images" else 1e-5
        )
    assert merged.metrics["shard_seconds"] > 0


def test_the_split_of_which_most_is_there_is_taken_and_damage_counts_as_absent(tmp_path):
    store = Store(tmp_path)

    def put(key):
        store.build(
            "shard",
            key,
            config={},
            upstream={},
            make=lambda work: work.save_tensors("part", {"a": torch.ones(1)}),
        )

    assert stored_shards(store, "k", 8) == [(range(8), None)]
    for key in ("k-1of4", "k-1of2", "k-2of2", "other-1of1", "k-1of16"):
        put(key)
    assert [(people, artifact.key) for people, artifact in stored_shards(store, "k", 8)] == [
        (range(4), "k-1of2"),
        (range(4, 8), "k-2of2"),
    ]
    file = store.find("shard", "k-2of2").path / "part.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert [artifact for _, artifact in stored_shards(store, "k", 8)][1] is None


def test_items_that_belong_together_are_not_separated(tmp_path):
    class Together(Attack):
        threat = Threat.LABELS
        group_size = 6

        def invert(self, *inputs):
            raise NotImplementedError

    class Victim:
        num_classes = 9

    with pytest.raises(
        ConfigError, match=r"computes 6 reconstructions together, which attack\.shard would separate"
    ):
        together = Together(identities=9, restarts=2)
        run_shard(together, Victim(), None, range(4), seed=0, work=tmp_path, runtime=None)
