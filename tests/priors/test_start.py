"""A start that all targets share: a GAN of one class, from whose weights one for every target begins."""

from __future__ import annotations

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.runtime import Runtime
from midre_exp.stages import make_plan
from midre_exp.stages.prior_start import one_class
from tests.priors.small import CLASSES, SMALL, Killed, public, same, small, victim

STARTED = pytest.mark.parametrize("name", ["kedmi"])


def started(name, work, **options):
    """A start of a few steps, and a prior for three classes that begins from it."""
    start = one_class_of(name)
    start.fit_start(public(40, SMALL[name]["image_size"]), seed=3, work=work, runtime=Runtime(), **options)
    prior = small(name)
    prior.start_from(start.state_dict())
    return start, prior


def one_class_of(name):
    return one_class(node_of(name), ())


def node_of(name):
    with packaged_configs():
        node = settings_of([f"attack={name}", f"attack/prior={name}"])["attack"]["prior"]
    return {**node, **SMALL[name], "start_steps": 6}


@STARTED
def test_every_class_begins_with_what_the_only_one_had_learned(tmp_path, name):
    start, prior = started(name, tmp_path)
    assert not same(start, one_class_of(name))  # something was learned
    latents = torch.randn(7, prior.latent_dim, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % CLASSES
    start.eval(), prior.eval()
    with torch.no_grad():
        images = start.generate(latents, torch.zeros_like(labels))
        torch.testing.assert_close(prior.generate(latents, labels), images, rtol=0, atol=0)
        torch.testing.assert_close(prior.realism(images), start.realism(images))


@STARTED
def test_training_continues_from_it_also_after_a_kill(tmp_path, name):
    def fit(prior, work, runtime):
        images = public(40, SMALL[name]["image_size"])
        return prior.fit(images, victim(), seed=3, work=work, runtime=runtime)

    start, whole = started(name, tmp_path / "start")
    numbers = fit(whole, tmp_path / "whole", Runtime(checkpoint_seconds=0))
    anew = small(name)
    fit(anew, tmp_path / "anew", Runtime())
    assert not same(anew, whole)
    broken, continued = small(name), small(name)
    for prior in (broken, continued):
        prior.start_from(start.state_dict())
    with pytest.raises(KeyboardInterrupt):
        fit(broken, tmp_path / "broken", Killed(checkpoint_seconds=0, at=7))
    assert fit(continued, tmp_path / "broken", Runtime(checkpoint_seconds=0)) == numbers
    assert same(continued, whole)


def test_one_start_serves_all_targets_and_budgets_and_there_is_none_unless_asked_for():
    def plan(*overrides):
        with packaged_configs():
            return make_plan(settings_of(["setup=S07", "scale=smoke", "data=synthfaces", *overrides]))

    start = "attack.prior.start_steps=7"
    plain, one = plan("attack.prior.start_steps=null"), plan(start)
    assert "prior_start" not in plain.stages
    key = one["prior_start"].key
    for other in ("defense=midre", "seed=1", "attack.prior.steps=9", "target=ir152"):
        assert plan(start, other)["prior_start"].key == key
        assert plan(start, other)["prior"].key != one["prior"].key
    assert plan("attack.prior.start_steps=8")["prior_start"].key != key
    assert plan(start, "attack.prior.width=4")["prior_start"].key != key
    published = ["attack.prior.pretrained.generator=g.pt", "attack.prior.pretrained.discriminator=d.pt"]
    assert "prior_start" not in plan(start, *published, "attack.prior.steps=1").stages


def test_a_prior_that_has_no_start_says_so():
    with pytest.raises(ConfigError, match=r"GMIPrior has no start; use attack\.prior\.start_steps=null"):
        one_class({k: v for k, v in node_of("gmi").items() if k != "start_steps"}, ())
