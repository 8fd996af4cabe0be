"""LOKT's GAN and surrogates beside recorded numbers of the official program, and their promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.losses import cross_entropy_identity, max_margin_identity
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.choice import choice
from midre_exp.priors.base import initial_prior
from midre_exp.priors.gan.acgan import ACGANDiscriminator, discriminator_loss, generator_loss
from midre_exp.priors.lokt import TACGANPrior
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import initial_surrogates
from midre_exp.surrogates.lokt import LoktSurrogates, surrogate_loss
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.golden.fill import fill, golden, shapes_of
from tests.priors.small import Killed, same

GOLDEN = golden("lokt")
CLASSES = 3


def recorded(name: str) -> Tensor:
    return torch.tensor(GOLDEN[name], dtype=torch.float64)


def scores(name: str) -> Tensor:
    return torch.logit(recorded(name))[:, None]


def labels(name: str) -> Tensor:
    return torch.tensor(GOLDEN[name])


def test_the_losses_of_both_networks_are_the_official_ones():
    fake, logits, alpha = scores("fake_probability"), recorded("class_logits_of_fake"), GOLDEN["alpha"]
    total, terms = generator_loss(fake, logits, labels("pseudo_labels"), alpha)
    official = [GOLDEN["generator_adversarial"], GOLDEN["generator_class"]]
    assert terms.tolist() == pytest.approx(official, abs=1e-9)
    assert float(total) == pytest.approx(GOLDEN["generator_total"], abs=1e-9)
    real = scores("real_probability")
    total, terms = discriminator_loss(real, fake, logits, labels("target_labels"), alpha)
    official = [GOLDEN["discriminator_adversarial"], GOLDEN["discriminator_class"]]
    assert terms.tolist() == pytest.approx(official, abs=1e-9)
    assert float(total) == pytest.approx(GOLDEN["discriminator_total"], abs=1e-9)


def test_what_is_attacked_and_learned_is_the_official_one():
    logits, asked = recorded("class_logits_of_fake"), labels("pseudo_labels")
    margin = float(max_margin_identity(logits, asked).mean())
    assert margin == pytest.approx(GOLDEN["attack_margin_of_class_logits"], abs=1e-9)
    named = float(cross_entropy_identity(logits, asked).mean())
    assert named == pytest.approx(GOLDEN["attack_ce_of_class_logits"], abs=1e-9)
    found = float(surrogate_loss(logits, 0.5 * logits, labels("target_labels"), 0.5))
    assert found == pytest.approx(GOLDEN["surrogate"]["loss"], abs=1e-9)


def test_without_a_weight_nobody_learns_a_class():
    logits = recorded("class_logits_of_fake").requires_grad_()
    for loss in (
        generator_loss(scores("fake_probability"), logits, labels("target_labels"), 0.0)[0],
        discriminator_loss(scores("real_probability"), scores("fake_probability"), logits, None, 1.5)[0],
    ):
        assert not loss.requires_grad


def test_the_discriminator_is_the_official_network():
    network = ACGANDiscriminator(num_classes=6, width=2, image_size=64)
    assert shapes_of(network) == GOLDEN["network"]["keys_and_shapes"]
    fill(network)
    images = torch.from_numpy(np.random.RandomState(0).uniform(size=(2, 3, 64, 64))).float()
    score, logits = network.eval()(images)
    assert score.sigmoid().squeeze(1).tolist() == pytest.approx(GOLDEN["network"]["probability"], abs=1e-5)
    for found, official in zip(logits.tolist(), GOLDEN["network"]["class_logits"], strict=True):
        assert found == pytest.approx(official, abs=1e-4)


class Colours(nn.Module):
    """Answers by the mean of each colour, and counts the images it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = 0

    def forward(self, images, taps=()):
        self.shown += len(images)
        features = images.mean((2, 3))
        return Output(features, features)


def small_prior(**changes) -> TACGANPrior:
    node = choice("attack/prior", "tacgan", scale="mini")
    few = {"image_size": 16, "latent_dim": 6, "width": 2, "batch_size": 6, "steps": 8, "warmup_steps": 3}
    made = initial_prior({**node, **few, "image_to_target": [], **changes}, num_classes=CLASSES)
    assert isinstance(made, TACGANPrior)
    return made


def small_surrogates(**changes) -> LoktSurrogates:
    node = choice("attack", "lokt", scale="mini")["surrogates"]
    few = {"per_class": 5, "steps": 6, "batch_size": 5, "image_to_target": [], "seed": 0}
    network = {**node["networks"]["resnet18"], "width": 0.0625}
    made = initial_surrogates({**node, "networks": {"one": network}, **few, **changes}, num_classes=CLASSES)
    assert isinstance(made, LoktSurrogates)
    return made


def public() -> ImageSet:
    images = torch.randint(0, 256, (20, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    return ImageSet(images.to(torch.uint8), torch.zeros(20, dtype=torch.int64), ("somebody",))


def fitted(prior: TACGANPrior, work, network: nn.Module | None = None, runtime: Runtime | None = None):
    victim = Victim.of(network or Colours(), CLASSES, Threat.LABELS)
    return prior.fit(public(), victim, seed=0, work=work, runtime=runtime or Runtime())


def test_the_target_is_asked_of_generated_images_after_the_warm_up_alone(tmp_path):
    network, prior = Colours(), small_prior()
    numbers = fitted(prior, tmp_path, network)
    assert network.shown == numbers["queries"] == prior.queries == (8 - 3) * 2 * 6
    network, prior = Colours(), small_prior(class_weight=0)
    assert fitted(prior, tmp_path / "plain", network)["queries"] == network.shown == 0


def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path):
    whole, killed, again = small_prior(), small_prior(), small_prior()
    numbers = fitted(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(killed, tmp_path / "broken", runtime=Killed(at=5, checkpoint_seconds=0))
    assert fitted(again, tmp_path / "broken") == numbers
    assert same(again, whole) and not same(killed, whole)


def test_surrogates_that_were_killed_go_on_and_ask_nothing_twice(tmp_path):
    prior = small_prior().eval().requires_grad_(False)

    def learn(made, work, network, **runtime):
        victim = Victim.of(network, CLASSES, Threat.LABELS)
        clock = Killed(**runtime) if runtime else Runtime()
        return made.fit(None, victim, prior=prior, seed=0, work=tmp_path / work, runtime=clock)

    whole, killed, again, asked = small_surrogates(), small_surrogates(), small_surrogates(), Colours()
    numbers = learn(whole, "whole", Colours())
    assert numbers["queries"] == 15 and set(numbers) == {"label_loss_one", "taken_for_label", "queries"}
    with pytest.raises(KeyboardInterrupt):
        learn(killed, "broken", asked, at=3, title="learning", checkpoint_seconds=0)
    assert learn(again, "broken", asked) == numbers and asked.shown == 15
    assert same(again, whole) and not same(killed, whole)
    restored = small_surrogates()
    restored.restore(again.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(restored.eval()(images), again(images))


@pytest.mark.parametrize("threat", [Threat.SCORES, Threat.WHITE_BOX])
def test_a_victim_that_shows_more_than_labels_is_refused(threat, tmp_path):
    victim = Victim.of(Colours(), CLASSES, threat)
    prior = small_prior()
    with pytest.raises(ConfigError, match="attack lokt"):
        prior.fit(public(), victim, seed=0, work=tmp_path, runtime=Runtime())
    with pytest.raises(ConfigError, match="attack lokt"):
        small_surrogates().fit(None, victim, prior=prior, seed=0, work=tmp_path, runtime=Runtime())


def test_what_cannot_be_is_told_with_its_key():
    with pytest.raises(ConfigError, match=r"attack\.prior\.warmup_steps=9 exceeds attack\.prior\.steps=8"):
        small_prior(warmup_steps=9)
    with pytest.raises(ConfigError, match=r"attack\.surrogates\.networks names none"):
        small_surrogates(networks={"one": None})
