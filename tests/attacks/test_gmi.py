from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.gmi import GMI
from attacks.parts.optimisers import nesterov_step
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.seeding import ItemRNG
from midre_exp.targets.architectures.vgg import VGG16
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.golden.fill import fill, golden


def attack(kind: type[GMI] = GMI, **changes) -> GMI:
    """The attack of conf/attack/gmi.yaml, on 2 identities, as an object of ``kind``."""
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "gmi.yaml"))
    made = build({**without(node, "defaults", "name", "judged"), "identities": 2, "restarts": 1, **changes})
    made.__class__ = kind
    return made


class Given(ItemRNG):
    """ItemRNG that draw what a golden file draws."""

    def __init__(self, start: Tensor):
        super().__init__(0, items=torch.zeros(len(start), dtype=torch.int64))
        self.start = start

    def normal(self, name, *shape, step=0):
        return self.start


class Pixels(Prior):
    """Latents are pixels before a sigmoid; the critic likes bright images."""

    latent_dim = 12

    def generate(self, latents, labels=None):
        return latents.view(-1, 3, 2, 2).sigmoid()

    def realism(self, images):
        return images.flatten(1).mean(1)

    def fit(self, public, victim, **options):
        raise NotImplementedError


class Linear(nn.Module):
    """A target of 3 classes on 2x2 images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        nn.init.zeros_(self.layer.bias)
        nn.init.normal_(self.layer.weight, std=2, generator=torch.Generator().manual_seed(0))

    def forward(self, images, taps=()):
        features = images.flatten(1)
        return Output(self.layer(features), features)


def victim():
    return Victim.of(Linear(), 3, Threat.WHITE_BOX)


def plain_loop(steps, state):
    return range(steps)


plain_loop.show = lambda **_: None


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def invert(gmi: GMI, n: int = 3, at: Given | ItemRNG | None = None) -> Tensor:
    labels = torch.arange(n) % 3
    return gmi.invert(victim(), Pixels(), labels, at or rng(n), plain_loop)


# the update


def test_latent_updates_match_the_golden_numbers():
    expected = golden("gmi_losses")["latent_update"]
    latents = torch.tensor(expected["z0"])
    velocity = torch.zeros_like(latents)
    for gradient, after in zip(expected["gradients"], expected["z_after_each_step"], strict=True):
        latents, velocity = nesterov_step(
            latents, velocity, torch.tensor(gradient), lr=expected["lr"], momentum=expected["momentum"]
        )
        latents = latents.clamp(-expected["clip"], expected["clip"])
        torch.testing.assert_close(latents, torch.tensor(after), rtol=1e-5, atol=1e-6)


def test_without_momentum_a_step_is_plain_gradient_descent():
    latents, gradient = torch.randn(2, 4, 5)
    moved, velocity = nesterov_step(latents, torch.randn(4, 5), gradient, lr=0.3, momentum=0.0)
    torch.testing.assert_close(moved, latents - 0.3 * gradient)
    torch.testing.assert_close(velocity, -0.3 * gradient)


# whole inversions


def golden_start() -> Tensor:
    draw = np.random.RandomState(1).standard_normal((2, 100))
    return torch.from_numpy(draw.astype(np.float32)).double()


@pytest.fixture(scope="module")
def official():
    """The filled official networks, float64: prior and victim."""
    node = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "attack" / "prior" / "gmi.yaml"), resolve=False)
    prior = initial_prior({**node, "image_size": 64})
    for name in ("generator", "critic"):
        fill(prior.get_submodule(name), double=True)
    target = fill(VGG16(num_classes=1000), double=True)
    return prior.eval().requires_grad_(False), Victim.of(target, 1000, Threat.WHITE_BOX)


def test_three_steps_match_the_golden_inversion_in_float64(official, monkeypatch):
    prior, target = official
    expected = golden("gmi_inversion_3steps")
    visited, totals = [], []

    def watch(self, victim, prior, latents, labels, rng, step, losses=GMI.losses):
        visited.append(latents.detach())
        totals.append(losses(self, victim, prior, latents, labels, rng, step))
        return totals[-1]

    monkeypatch.setattr(GMI, "losses", watch)
    start = golden_start()
    gmi = attack(steps=3, reference_batch=2)
    visited.append(gmi.invert(target, prior, torch.tensor(expected["labels"]), Given(start), plain_loop))
    assert torch.equal(visited[0], start)
    for step, before, total, after in zip(expected["steps"], visited, totals, visited[1:], strict=False):
        realism = prior.realism(prior.generate(before))
        assert -realism.mean().item() == pytest.approx(step["prior"], rel=1e-6)
        assert total.mean().item() == pytest.approx(step["total"], rel=1e-6)
        identity = (total + realism).mean().item() / 100
        assert identity == pytest.approx(step["identity"], rel=1e-6)
        assert after.flatten()[:8].tolist() == pytest.approx(step["z_first8_after"], rel=1e-6)
        assert after.norm().item() == pytest.approx(step["z_l2_after"], rel=1e-6)


def test_the_first_gradient_matches_the_golden_one(official):
    prior, target = official
    step = golden("gmi_inversion_3steps")["steps"][0]
    start = golden_start()
    plain_descent = attack(steps=1, lr=1.0, momentum=0.0, clip=None, reference_batch=2)
    after = plain_descent.invert(target, prior, torch.tensor([3, 777]), Given(start), plain_loop)
    gradient = start - after
    assert gradient.norm().item() == pytest.approx(step["grad_l2"], rel=1e-6)
    assert gradient.flatten()[:8].tolist() == pytest.approx(step["grad_first8"], rel=1e-6)


def test_a_batch_of_reference_size_follows_the_official_mean_loss_and_optimiser():
    gmi = attack(steps=25, lr=0.5, reference_batch=3, clip=1.0)
    latents = rng(3).normal("start", 12).requires_grad_()
    optimiser = torch.optim.SGD([latents], lr=0.5, momentum=0.9, nesterov=True)
    for _ in range(25):
        images = Pixels().generate(latents)
        identity = nn.functional.cross_entropy(victim()(images).logits, torch.arange(3))
        optimiser.zero_grad()
        (-Pixels().realism(images).mean() + 100 * identity).backward()
        optimiser.step()
        latents.data.clamp_(-1, 1)
    # 25 steps of float32 rounding, amplified by lr 0.5 and the weight 100
    torch.testing.assert_close(invert(gmi), latents.detach(), rtol=0, atol=1e-4)


def test_a_smaller_reference_batch_means_larger_steps():
    start = Given(torch.zeros(3, 12))
    options = {"steps": 1, "momentum": 0.0, "clip": None}
    small, large = (invert(attack(reference_batch=n, **options), at=start) for n in (3, 60))
    torch.testing.assert_close(small, 20 * large)


def test_latents_are_clamped_after_each_step_and_only_then():
    start = Given(torch.full((3, 12), 3.0))
    frozen = attack(steps=2, lr=0.0)
    assert torch.equal(invert(frozen, at=start), torch.ones(3, 12))
    assert torch.equal(invert(attack(steps=2, lr=0.0, clip=None), at=start), start.start)


def test_the_target_becomes_confident_and_every_step_is_one_query_per_item():
    gmi, target = attack(steps=60, lr=0.5, clip=4.0), victim()
    labels = torch.arange(3)
    found = gmi.invert(target, Pixels(), labels, rng(3), plain_loop)
    assert target.queries == 60 * 3
    before = target.confidence(gmi.render(Pixels(), rng(3).normal("start", 12), labels), labels)
    after = target.confidence(gmi.render(Pixels(), found, labels), labels)
    assert (after > before).all()
    assert (after > 0.9).all()


def test_the_target_sees_images_after_the_configured_steps_and_the_critic_before():
    seen = []

    class Watching(Pixels):
        def realism(self, images):
            seen.append(images)
            return super().realism(images)

    gmi = attack(steps=1)
    gmi.image_to_target = (torch.zeros_like,)
    latents = torch.ones(2, 12)
    losses = gmi.losses(victim(), Watching(), latents, torch.tensor([0, 1]), rng(2), 0)
    logits = victim()(torch.zeros(2, 3, 2, 2)).logits
    expected = 100 * nn.functional.cross_entropy(logits, torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(losses + Pixels().realism(Pixels().generate(latents)), expected)
    assert (seen[0] > 0.5).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "attack.steps=0 must be at least 1"),
        ({"reference_batch": 0}, "attack.reference_batch=0 must be at least 1"),
        ({"clip": 0.0}, "attack.clip=0.0 must be positive"),
    ],
)
def test_settings_that_optimise_nothing_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        attack(**changes)
