"""AlignMI's averaged attacks at low resolution against the official numbers.

The released KedMI loop steps its optimiser twice with each gradient of PAA and adds 5 to the deviation of
every draw. Both stand here alone, and in no attack of ours; so do noise and extremes of a whole batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.gmi import GMI
from attacks.kedmi import KedMI
from attacks.losses import IdentityLoss, feature_regulariser, logit_identity
from attacks.parts.expectation import Expectation
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import build
from midre_exp.priors.kedmi import KedMIPrior
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.golden.fill import golden

GOLDEN = golden("align_lowres")
LABELS = torch.tensor(GOLDEN["labels"])
COPIES = 50


def draw(key: str, *shape: int) -> Tensor:
    """The golden file's normal numbers."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return torch.from_numpy(state.standard_normal(shape)).float()


A = 0.5 * draw("ked.G", 48, 6)
F, C, D = 0.3 * draw("ked.F", 7, 48), 0.7 * draw("ked.C", 5, 7), 0.3 * draw("ked.D", 4, 48)
MEAN = 0.3 * draw("ked.fm", 7)


def pictures(raw: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return raw(z @ A.T).view(-1, 3, 4, 4)


class Toy(nn.Module):
    """The golden file's target."""

    def forward(self, images, taps=()):
        features = (images.flatten(1) @ F.T).tanh()
        return Output(features @ C.T, features)


class Identity(IdentityLoss):
    """LOMMA's loss, whose feature term is towards ``MEAN``, without its students."""

    def __call__(self, victim, surrogates, images, labels, rng, step):
        output = victim(images)
        return logit_identity(output.logits, labels) + feature_regulariser(output.features, MEAN)


class Critic(KedMIPrior):
    """The golden file's generator and discriminator; ``judged``: how many images a call judged."""

    def __init__(self, raw: Callable[[Tensor], Tensor]):
        nn.Module.__init__(self)
        self.raw, self.latent_dim, self.judged = raw, 6, []

    def generate(self, latents, labels=None):
        return pictures(self.raw, latents)

    def realism(self, images, group=None):
        self.judged.append(len(images))
        return (images.flatten(1) @ D.T).logsumexp(1)


class Started(ItemRNG):
    """Starts at the golden file's latents."""

    def normal(self, name, *shape, step=0):
        return torch.tensor(GOLDEN["gmi"]["start"]) if name == "start" else super().normal(name, *shape)


RNG = Started(0, "test", items=torch.arange(len(LABELS)))


def expectation(choice: str, tag: str, sigma: float, *, scale: bool) -> Expectation:
    """A packaged choice, whose noise is the recorded one and has the range of the batch, as released.
    ``scale``: each batch of copies then fills [0, 1].
    """
    with packaged_configs():
        settings = packaged_composer().settings(["attack=gmi", f"attack/expectation={choice}"])
    node = settings["attack"]["expectation"]
    assert [view["_target_"] for view in node["views"]] == [
        "attacks.GaussianNoise",
        *(["attacks.FillRange"] if scale else []),
    ] and node["views"][0]["sigma"] == sigma

    def noisy(copies: Tensor, rng: ItemRNG, name: str, number: int) -> Tensor:
        parts = []
        for j, part in enumerate(copies.split(len(LABELS))):
            width = (part.max() - part.min()).detach()
            part = part + sigma * width * draw(f"{tag}.img.{COPIES * number + j}", *part.shape)
            parts.append(filling(part) if scale else part)
        return torch.cat(parts)

    made = build({**node, "views": []}, kind=Expectation)
    made.views = [noisy]
    return made


def filling(images: Tensor) -> Tensor:
    """A batch moved to [0, 1] by its extremes, which are constants for the gradient."""
    low, high = images.min().detach(), images.max().detach()
    return (images - low) / (high - low)


def kedmi(*, paa: bool) -> tuple[Tensor, Tensor, list[int]]:
    """Mean and logarithm of the variance before each draw, [3, 2, 6], the last latents, and how many images
    the discriminator judged at once. The loop is the released one, its losses are those of ``attacks.KedMI``.
    """
    tag, prior = "kedmi_optimize_paa" if paa else "kedmi_optimize", Critic(torch.sigmoid)
    averaged = expectation("paa_kedmi", tag, 0.05, scale=False) if paa else None
    values = {"identities": 5, "restarts": 1, "steps": 2, "lr": 0.0, "identity_weight": 100, "clip": 1.0}
    attack = KedMI(**values, group=3, identity_loss=Identity(), expectation=averaged)
    victim = Victim.of(Toy(), 5, Threat.WHITE_BOX)
    gaussian, velocity = torch.stack((torch.zeros(6), torch.ones(6))), torch.zeros(2, 6)

    def latents(gaussian: Tensor, call: int) -> Tensor:
        mu, log_var = gaussian
        return (draw(f"{tag}.z.{call}", 3, 6) * ((log_var / 2).exp() + 5) + mu).clamp(-1, 1)

    told = [gaussian]
    for step in range(2):
        gaussian = gaussian.detach().requires_grad_()
        each = attack.losses(victim, prior, latents(gaussian, step), LABELS, RNG, step)
        (gradient,) = torch.autograd.grad(each.mean(), gaussian)
        gaussian = gaussian.detach()
        for _ in range(2 if paa else 1):
            velocity = 0.9 * velocity + gradient
            gaussian = gaussian - 0.01 * velocity
        told.append(gaussian)
    return torch.stack(told), latents(gaussian, 2), prior.judged


def gmi(*, paa: bool, raw: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """Where ``attacks.GMI`` ends after two steps; the plain one is told to leave out the critic and to fill
    [0, 1] before the target, which the published one does not.
    """
    if paa:
        averaged = expectation("paa_gmi", "gmi_optimize_paa", 0.003, scale=True)
    else:
        averaged = Expectation(
            copies=1, views=[], search=False, optimisation=True, selection=False, critic="nothing"
        )
    values = {"identities": 5, "restarts": 1, "steps": 2, "lr": 0.02, "momentum": 0.9, "clip": 1.0}
    attack = GMI(
        **values,
        identity_weight=100,
        reference_batch=len(LABELS),
        identity_loss=Identity(),
        expectation=averaged,
        image_to_target=() if paa else (filling,),
    )
    prior = Critic(raw)
    found = attack.invert(Victim.of(Toy(), 5, Threat.WHITE_BOX), prior, LABELS, RNG, plain_loop)
    assert not prior.judged
    return found


def plain_loop(steps, state):
    return range(steps)


plain_loop.show = lambda **_: None


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("paa", [False, True])
def test_kedmi_leads_where_the_official_loop_does(paa):
    told, last, judged = kedmi(paa=paa)
    assert judged == [3] * 2 * (COPIES if paa else 1)  # each copy of all images among its like
    name = "paa" if paa else "plain"
    close(told, GOLDEN["kedmi"][f"{name}_mu_logvar_before_each_draw"])
    close(last, GOLDEN["kedmi"][f"{name}_final_z"])


def test_gmi_leads_where_the_official_loop_does():
    close(gmi(paa=False), GOLDEN["gmi"]["plain_after_2"])
    close(gmi(paa=True), GOLDEN["gmi"]["paa_after_2"])
    close(gmi(paa=True, raw=torch.sigmoid), GOLDEN["gmi"]["paa_after_2_sigmoid_generator"])
