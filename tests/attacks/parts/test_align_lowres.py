"""AlignMI's averaged loops at low resolution, put together from our parts, against the official numbers.

The released KedMI loop steps its optimiser twice with each gradient of PAA and adds 5 to the deviation of
every draw. Both stand here alone, and in no attack of ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.losses import feature_regulariser, logit_identity, real_class_prior
from attacks.parts.expectation import Expectation
from attacks.parts.optimisers import nesterov_step
from midre_exp.seeding import ItemRNG
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


def identity(images: Tensor, labels: Tensor) -> Tensor:
    features = (images.flatten(1) @ F.T).tanh()
    return 100 * (logit_identity(features @ C.T, labels) + feature_regulariser(features, MEAN))


def realism(images: Tensor) -> Tensor:
    return (images.flatten(1) @ D.T).logsumexp(1)


def averaged(
    images: Tensor,
    tag: str,
    step: int,
    sigma: float,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    scale: bool,
) -> Tensor:
    """The mean loss over recorded noisy copies, whose range is that of the batch; ``scale``: each batch of
    copies then fills [0, 1].
    """

    def noisy(copies: Tensor, rng: ItemRNG, name: str, number: int) -> Tensor:
        parts = []
        for j, part in enumerate(copies.split(len(LABELS))):
            width = (part.max() - part.min()).detach()
            part = part + sigma * width * draw(f"{tag}.img.{COPIES * number + j}", *part.shape)
            parts.append(filling(part) if scale else part)
        return torch.cat(parts)

    expectation = Expectation(copies=COPIES, views=[noisy], search=True, optimisation=True, selection=True)
    rng, labels = ItemRNG(0, "test", items=torch.arange(len(LABELS))), LABELS.repeat(COPIES)
    return expectation.of(images, rng, "copies", step, lambda copies, _: loss(copies, labels))


def filling(images: Tensor) -> Tensor:
    """A batch moved to [0, 1] by its extremes, which are constants for the gradient."""
    low, high = images.min().detach(), images.max().detach()
    return (images - low) / (high - low)


def kedmi(*, paa: bool) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance before each draw, [3, 2, 6], and the last latents."""
    tag = "kedmi_optimize_paa" if paa else "kedmi_optimize"
    gaussian, velocity = torch.stack((torch.zeros(6), torch.ones(6))), torch.zeros(2, 6)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return real_class_prior(realism(images)) + identity(images, labels)

    def latents(gaussian: Tensor, call: int) -> Tensor:
        mu, log_var = gaussian
        return (draw(f"{tag}.z.{call}", 3, 6) * ((log_var / 2).exp() + 5) + mu).clamp(-1, 1)

    told = [gaussian]
    for step in range(2):
        gaussian = gaussian.detach().requires_grad_()
        images = pictures(torch.sigmoid, latents(gaussian, step))
        each = averaged(images, tag, step, 0.05, loss, scale=False) if paa else loss(images, LABELS)
        (gradient,) = torch.autograd.grad(each.mean(), gaussian)
        gaussian = gaussian.detach()
        for _ in range(2 if paa else 1):
            velocity = 0.9 * velocity + gradient
            gaussian = gaussian - 0.01 * velocity
        told.append(gaussian)
    return torch.stack(told), latents(gaussian, 2)


def gmi(*, paa: bool, raw: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    z, velocity = torch.tensor(GOLDEN["gmi"]["start"]), torch.zeros(3, 6)
    for step in range(2):
        z = z.detach().requires_grad_()
        images = pictures(raw, z)
        if paa:
            each = averaged(images, "gmi_optimize_paa", step, 0.003, identity, scale=True)
        else:
            each = identity(filling(images), LABELS)
        (gradient,) = torch.autograd.grad(each.mean(), z)
        z, velocity = nesterov_step(z.detach(), velocity, gradient, lr=0.02, momentum=0.9)
        z = z.clamp(-1, 1)
    return z


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("paa", [False, True])
def test_kedmi_leads_where_the_official_loop_does(paa):
    told, last = kedmi(paa=paa)
    name = "paa" if paa else "plain"
    close(told, GOLDEN["kedmi"][f"{name}_mu_logvar_before_each_draw"])
    close(last, GOLDEN["kedmi"][f"{name}_final_z"])


def test_gmi_leads_where_the_official_loop_does():
    close(gmi(paa=False), GOLDEN["gmi"]["plain_after_2"])
    close(gmi(paa=True), GOLDEN["gmi"]["paa_after_2"])
    close(gmi(paa=True, raw=torch.sigmoid), GOLDEN["gmi"]["paa_after_2_sigmoid_generator"])
