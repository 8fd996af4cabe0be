from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.kedmi import KedMI
from attacks.losses import cross_entropy_identity, real_class_prior
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.priors.kedmi import KedMIPrior
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.golden.fill import golden


def attack(**changes) -> KedMI:
    """The attack of conf/attack/kedmi.yaml, on a few identities."""
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "kedmi.yaml"))
    small = {"identities": 5, "restarts": 2, "steps": 6, "group": 2, **changes}
    return build({**without(node, "defaults", "name", "judged"), **small})


def prior() -> KedMIPrior:
    node = {
        **OmegaConf.to_container(OmegaConf.load(CONF_DIR / "attack" / "prior" / "kedmi.yaml"), resolve=False),
        "image_size": 32,
        "latent_dim": 6,
        "width": 2,
        "kernels": 3,
        "kernel_dims": 2,
    }
    made = initial_prior(node, num_classes=3)
    assert isinstance(made, KedMIPrior)
    made.discriminator.mbd1.T.data *= 0.05  # else images are too far apart to see each other
    made.generator.l2_5[-2].weight.data *= 20  # else all are grey
    return made.eval().requires_grad_(False)


class Linear(nn.Module):
    """A target of 5 classes that looks at the colours of four quarters."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 5)
        nn.init.normal_(self.layer.weight, std=9, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.layer.bias)

    def forward(self, images, taps=()):
        features = F.adaptive_avg_pool2d(images - 0.5, 2).flatten(1)
        return Output(self.layer(features), features)


def victim():
    return Victim.of(Linear(), 5, Threat.WHITE_BOX)


def plain_loop(steps, state):
    return range(steps)


plain_loop.show = lambda **_: None


def items(identities: int, restarts: int) -> tuple[Tensor, ItemRNG]:
    labels = torch.arange(identities).repeat_interleave(restarts)
    numbers = torch.arange(restarts).repeat(identities)
    return labels, ItemRNG(0, "attack", items=(labels, numbers))


def invert(kedmi: KedMI, identities: int = 5, generator: Prior | None = None) -> Tensor:
    labels, rng = items(identities, kedmi.restarts)
    return kedmi.invert(victim(), generator or prior(), labels, rng, plain_loop).latents


# the objective


def test_the_objective_matches_the_golden_numbers():
    values = golden("kedmi_gan_losses")
    logits, expected = torch.tensor(values["d_logits_fake"]), values["inversion"]
    labels = torch.tensor(expected["labels"])
    realism = real_class_prior(logits.logsumexp(1))
    assert realism.mean().item() == pytest.approx(expected["prior"], rel=1e-5)
    total = realism + 100 * cross_entropy_identity(logits, labels)
    assert total.mean().item() == pytest.approx(expected["total_lambda_100"], rel=1e-5)


def test_the_prior_loss_stays_finite_and_asks_for_more_realism():
    scores = torch.tensor([-300.0, 0.0, 300.0], requires_grad=True)
    loss = real_class_prior(scores)
    torch.testing.assert_close(loss, torch.tensor([300.0, math.log(2), 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert (gradient <= 0).all() and gradient[0] == -1


# whole inversions


@pytest.mark.parametrize("clip", [None, 0.7])
def test_the_inversion_follows_the_official_loop_of_one_group(clip):
    kedmi, generator, target = attack(group=3, clip=clip), prior(), victim()
    _, rng = items(3, 2)
    mu, log_var = torch.zeros(3, 6, requires_grad=True), torch.ones(3, 6, requires_grad=True)
    adam = torch.optim.Adam([mu, log_var], lr=kedmi.lr)

    def latents(mean, variance, noise):
        made = mean + (0.5 * variance).exp() * noise
        return made if clip is None else made.clamp(-clip, clip)

    for step in range(6):
        z = latents(mu, log_var, rng[::2].normal("draw", 6, step=step))
        fake = generator.generate(z)
        energy = generator.discriminator(fake)[1].logsumexp(1)
        realism = F.softplus(energy).mean() - energy.mean()
        identity = F.cross_entropy(target(fake).logits, torch.arange(3))
        adam.zero_grad()
        (realism + 100 * identity).backward()
        adam.step()
    rows = torch.arange(3).repeat_interleave(2)
    expected = latents(mu[rows], log_var[rows], rng.normal("sample", 6))
    torch.testing.assert_close(invert(kedmi, 3, generator), expected.detach(), rtol=0, atol=1e-4)


def test_one_query_per_identity_and_step_whatever_the_restarts():
    kedmi, target = attack(restarts=3), victim()
    labels, rng = items(5, 3)
    found = kedmi.invert(target, prior(), labels, rng, plain_loop)
    assert target.queries == 6 * 5
    assert found.queries.tolist() == [2] * 15


def test_restarts_are_draws_from_the_one_gaussian_learned():
    few, many = attack(restarts=1, steps=4, lr=0.3), attack(restarts=2000, steps=4, lr=0.3)
    drawn = invert(many, 2).view(2, 2000, 6)
    spread, middle = drawn.std(1), drawn.mean(1)
    assert (middle.abs() > 0.3).any()  # mu has moved
    _, rng = items(2, 1)
    noise = (invert(few, 2) - middle) / spread
    torch.testing.assert_close(
        noise, rng.normal("sample", 6), rtol=0, atol=0.15
    )  # 2000 draws: 5 sd of the estimates


def test_groups_are_computed_together_and_matter():
    assert attack().group_size == 2 * 2
    assert not torch.allclose(invert(attack(group=5)), invert(attack()), atol=1e-4)


def test_it_starts_from_mean_zero_and_log_variance_one():
    still = invert(attack(lr=0.0, steps=1))
    _, rng = items(5, 2)
    torch.testing.assert_close(still, torch.tensor(0.5).exp() * rng.normal("sample", 6))


def test_a_clip_clamps_latents_before_the_generator_and_the_final_draws():
    seen = []

    class Watching(KedMIPrior):
        def __init__(self, inner):
            nn.Module.__init__(self)
            self.inner, self.latent_dim = inner, inner.latent_dim

        def generate(self, latents, labels=None):
            seen.append(latents)
            return self.inner.generate(latents, labels)

        def realism(self, images, group=None):
            return self.inner.realism(images, group)

    drawn = invert(attack(clip=1.0), generator=Watching(prior()))
    for latents in (*seen, drawn):
        assert latents.abs().max() == 1.0
    assert plain(OmegaConf.load(CONF_DIR / "attack" / "lomma_kedmi.yaml"))["clip"] == 1.0
    assert invert(attack()).abs().max() > 1.0


def test_the_target_becomes_confident():
    kedmi, target, generator = attack(steps=80, lr=0.1), victim(), prior()
    labels, rng = items(5, 2)
    before = target.confidence(generator.generate(invert(attack(lr=0.0, steps=1))), labels)
    found = kedmi.invert(target, generator, labels, rng, plain_loop).latents
    after = target.confidence(generator.generate(found), labels)
    assert (after > before).all() and after.mean() > 1.3 * before.mean()


def test_the_target_sees_images_after_the_configured_steps_and_the_critic_before():
    kedmi, generator = attack(), prior()
    kedmi.image_to_target = (torch.zeros_like,)
    latents, labels = torch.ones(2, 6), torch.tensor([0, 1])
    losses = kedmi.losses(victim(), generator, latents, labels, items(2, 1)[1], 0)
    identity = F.cross_entropy(victim()(torch.zeros(2, 3, 32, 32)).logits, labels, reduction="none")
    realism = real_class_prior(generator.realism(generator.generate(latents)))
    torch.testing.assert_close(losses, realism + 100 * identity)


class Foreign(Prior):
    latent_dim = 6

    def generate(self, latents, labels=None):
        raise NotImplementedError

    realism = fit = generate


def test_a_prior_with_another_critic_is_refused():
    with pytest.raises(ConfigError, match=r"attack.prior is a Foreign, .* use prior kedmi"):
        invert(attack(), generator=Foreign())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "attack.steps=0 must be at least 1"),
        ({"group": 0}, "attack.group=0 must be at least 1"),
        ({"clip": 0.0}, "attack.clip=0.0 must be positive"),
        ({"restarts": 0}, "attack.restarts=0 must be at least 1"),
    ],
)
def test_settings_that_optimise_nothing_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        attack(**changes)
