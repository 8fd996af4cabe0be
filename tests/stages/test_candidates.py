"""The candidates of an attack's initial selection are rendered once for all targets, and nothing changes."""

from __future__ import annotations

import shutil

import pytest
import torch

from attacks.parts.initial_selection import InitialSelection
from midre_exp.attack import apply
from midre_exp.data.block import Block, mapped
from midre_exp.data.transforms import CenterCrop, Resize
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.stages import candidates, make_plan
from midre_exp.store.store import Store
from tests.attacks.test_ppa import tiny_settings
from tests.attacks.toy_style import shared_rng, toy_prior, toy_victim
from tests.conftest import resolved

STEPS = (CenterCrop(size=48), Resize(size=32))


def planned(*overrides: str):
    return make_plan(resolved(["scale=mini", *overrides]))


def test_an_attack_that_finds_them_computes_what_it_does_without(stocked, tmp_path, monkeypatch):
    made = []
    honest = InitialSelection.renderer
    monkeypatch.setattr(
        InitialSelection, "renderer", lambda *args, **options: made.append(1) or honest(*args, **options)
    )
    shared, alone = tiny_settings(tmp_path), tiny_settings(tmp_path / "alone")
    alone["runtime"]["candidates_gb"] = 0
    found = []
    for settings in (shared, {**shared, "seed": 1}, alone):
        if settings is alone:
            again = shutil.ignore_patterns("candidates", "attack", "metrics")
            shutil.copytree(stocked, alone["paths"]["store"], ignore=again)
        run(settings)
        plan = make_plan(settings)
        found.append(Store(settings["paths"]["store"]).find("attack", plan["attack"].key))
        assert ("candidates" in plan.stages) == (settings is not alone)
    assert made == [1]  # the seed enters no fixed latents
    assert found[0].key == found[2].key != found[1].key
    assert found[0].metrics["queries"] == found[2].metrics["queries"]
    with_, without = (artifact.tensors("reconstructions") for artifact in (found[0], found[2]))
    assert with_.keys() == without.keys()
    assert all(torch.equal(with_[name], without[name]) for name in with_)


def test_pictures_are_those_that_the_target_would_be_shown():
    prior, runtime = toy_prior(), Runtime(chunk=3)
    search = InitialSelection(size=7, psi=0.5, cutoff=4, flip=True, z_seed=None, batch=5)
    codes = search.codes(prior, shared_rng())
    every = prior.codes(search.z(prior, shared_rng()), psi=0.5, cutoff=4)
    fresh = (
        search.confidences(toy_victim(), prior, every, STEPS, runtime, shared_rng=shared_rng()),
        search.confidences_of_first(4, toy_victim(), prior, codes, STEPS, runtime, shared_rng=shared_rng()),
    )
    render = search.renderer(prior, shared_rng(), STEPS)
    # parts as the attack has them: some processors round a batch of another size differently
    search.pictures = torch.cat([render(slice(first, first + 3)) for first in (0, 3, 6)])
    assert torch.equal(search.pictures[6:], apply(STEPS, search.clip(prior.synthesise(every[6:]))))
    kept = (
        search.confidences(toy_victim(), prior, every, STEPS, runtime, shared_rng=shared_rng()),
        search.confidences_of_first(4, toy_victim(), prior, codes, STEPS, runtime, shared_rng=shared_rng()),
    )
    assert all(torch.equal(a, b) for a, b in zip(fresh, kept, strict=True))


def test_they_are_shared_by_all_targets_of_a_prior_and_by_seeds_where_latents_are_fixed():
    def key(*overrides: str) -> str:
        return planned(*overrides)["candidates"].key

    base = key("setup=S27")
    same = ("defense=midre", "target=vgg16", "seed=1", "attack.search.batch=7", "attack.search.flip=false")
    assert {key("setup=S27", override) for override in same} == {base}
    other = ("attack.search.size=9", "attack.search.psi=1", "attack.prior.seed=1", "attack.search.z_seed=7")
    assert base not in {key("setup=S27", override) for override in other}
    assert key("setup=S35") != key("setup=S35", "seed=1")  # latents from the run's seed


def test_an_attack_without_candidates_or_with_too_many_for_the_disk_has_no_such_stage():
    assert "candidates" not in planned("setup=S01").stages
    assert "candidates" in planned("setup=S35").stages
    assert "candidates" not in planned("setup=S35", "runtime.candidates_gb=0.0001").stages
    assert "candidates" in planned("setup=S27", "attack.shard=1/2").stages


def test_at_paper_scale_their_disk_is_told():
    with packaged_configs():
        settings = settings_of(["setup=S35", "scale=paper"])
    assert candidates.is_part_of(settings)
    (told,) = candidates.needs(settings, lambda key, look: look())
    assert not told.blocks and "60.2 GB of disk" in told.text and "runtime.candidates_gb=60" in told.text
    settings["runtime"]["candidates_gb"] = 60
    assert not candidates.is_part_of(settings)


def test_a_killed_rendering_keeps_what_it_noted(tmp_path):
    store, asked = Store(tmp_path), []

    def make(work):
        block = Block(work, "pictures.f32", (6, 3, 2, 2), "pictures")

        def some(pictures, rows):
            asked.append(rows)
            if len(asked) == 3:
                raise KeyboardInterrupt
            pictures[rows.start : rows.stop] = torch.arange(rows.start, rows.stop).view(-1, 1, 1, 1) / 7
            return []

        block.fill(some, at_once=2, doing="rendering")
        block.publish()

    def build():
        return store.build("candidates", "k", config={}, upstream={}, make=make)

    with pytest.raises(KeyboardInterrupt):
        build()
    pictures = mapped(build(), "pictures.f32", 6)
    assert asked == [range(2), range(2, 4), range(4, 6), range(4, 6)]
    assert torch.equal(pictures[:, 2, 1, 1], torch.arange(6) / 7)
