"""LOKT is PLG-MI on what stands in for the target."""

from __future__ import annotations

import pytest
import torch

from attacks import build_attack
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.threat import Threat, Victim
from tests.contracts.test_every_attack import CLASSES, Colours, prior_of, surrogates_of_lokt
from tests.priors.test_lokt import small_prior

FEW = {"identities": 3, "restarts": 2, "steps": 4}


def test_it_is_plg_mi_on_the_surrogates_which_asks_the_target_nothing():
    prior, surrogates = prior_of("pixels"), surrogates_of_lokt()
    attack = build_attack("lokt", **FEW)
    attack.surrogates = surrogates
    network = Colours()
    victim = Victim.of(network, CLASSES, Threat.LABELS)
    found = run_attack(attack, victim, prior)
    assert victim.queries == 0 and network.shown == len(found.labels)  # the final look alone
    white_box = Victim.of(lambda images: surrogates(images), CLASSES)
    expected = run_attack(build_attack("plgmi", **FEW), white_box, prior)
    assert torch.equal(found.latents, expected.latents)


def test_without_surrogates_the_priors_discriminator_stands_in():
    prior = small_prior().eval()
    attack = build_attack("lokt", **FEW)
    victim = Victim.of(Colours3(), 3, Threat.LABELS)
    found = run_attack(attack, victim, prior)
    start = run_attack(build_attack("lokt", **{**FEW, "lr": 1e-12}), victim, prior)
    labels = found.labels

    def margin(latents):
        logits = prior.class_logits(prior.generate(latents, labels))
        return logits.gather(1, labels[:, None]).mean() - logits.mean()

    assert margin(found.latents) > margin(start.latents)


class Colours3(torch.nn.Module):
    def forward(self, images, taps=()):
        return images.mean((2, 3))


def test_nothing_prepared_is_told():
    attack = build_attack("lokt", **FEW)
    victim = Victim.of(Colours(), CLASSES, Threat.LABELS)
    with pytest.raises(ConfigError, match=r"conf/attack/surrogates/lokt\.yaml, or to null"):
        run_attack(attack, victim, prior_of("pixels"))


@pytest.mark.parametrize(
    ("options", "told"),
    [({"steps": 0}, "attack.steps=0"), ({"informed": True}, "sees labels alone"), ({"views": 0}, "views=0")],
)
def test_what_cannot_be_is_told_with_its_key(options, told):
    with pytest.raises(ConfigError, match=told):
        build_attack("lokt", **{**FEW, **options})
