"""The training of PLG-MI's GAN against the official loop (tests/golden/loops/gan_plgmi.npz): its first steps,
whose losses already tell one pass of the discriminator from two.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from attacks import max_margin_identity
from midre_exp.priors.gan.cgan import discriminator_step, generator_step
from midre_exp.priors.gan.plgmi_networks import PLGMIDiscriminator, PLGMIGenerator
from midre_exp.priors.gan.training import GanTraining
from tests.golden.fill import fill
from tests.golden.loops.read import integers, loop, normal, picked, uniform

KNOWN = loop("gan_plgmi")
META = KNOWN["meta"]
TAG, CLASSES = META["tag"], META["classes"]
STEPS = 2


def probe(network: nn.Module, entries: list[str]) -> torch.Tensor:
    """Sum, norm and a fixed product of every entry."""
    values = {key: value.detach().numpy().ravel() for key, value in network.state_dict().items()}

    def numbers(key: str) -> list[float]:
        state = np.random.RandomState(zlib.crc32(f"probe.{key}".encode()) & 0x7FFFFFFF)
        value = values[key]
        return [value.sum(), np.linalg.norm(value), value @ state.standard_normal(value.size)]

    return torch.tensor([numbers(key) for key in entries], dtype=torch.float64)


def filled(network: nn.Module, part: str) -> nn.Module:
    return fill(network, official=lambda key: f"{TAG}/{part}.{key}", double=True)


def test_steps_are_those_of_the_official_program_with_a_pass_for_either_kind_of_picture():
    sizes = {"num_classes": CLASSES, "width": META["width"], "image_size": 64}
    generator = filled(PLGMIGenerator(latent_dim=META["latent_dim"], **sizes), "G")
    discriminator = filled(PLGMIDiscriminator(**sizes), "D")
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        start = torch.from_numpy(KNOWN[f"{name}_start"])
        torch.testing.assert_close(probe(network, META[f"{name}_entries"]), start, rtol=0, atol=1e-6)
    gan = GanTraining(
        generator, discriminator, lr=META["lr"], betas=META["betas"], ema=0, device=torch.device("cpu")
    )
    target = filled(Toy(), "T")
    with torch.no_grad():
        target.fc.weight *= META["gains_classifier"]["fc.weight"]
    images = integers(f"{TAG}/images", 256, META["images"], 3, 8, 8).double() / 255
    images = images.repeat_interleave(8, 2).repeat_interleave(8, 3)
    batch, losses = META["batch_size"], []

    def identity(fake, labels, numbers):
        return max_margin_identity(target(fake), labels), torch.zeros(len(labels))

    def drawn(step, turn):
        latents = normal(f"{TAG}/latents/{step}/{turn}", batch, META["latent_dim"]).double()
        return latents, integers(f"{TAG}/labels/{step}/{turn}", CLASSES, batch)

    for step in range(STEPS):
        latents, labels = drawn(step, 0)
        told = generator_step(gan, latents, labels, torch.empty(batch, 0), identity, META["identity_weight"])
        assert abs(float(told[0]) - KNOWN["generator_loss"][step]) < 1e-6
        assert abs(float(told[1]) - KNOWN["identity_loss"][step]) < 1e-6
        for turn in range(META["discriminator_steps"]):
            rows = picked(f"{TAG}/batch/real/{META['discriminator_steps'] * step + turn}", len(images), batch)
            real = images[rows] + uniform(f"{TAG}/noise/{step}/{turn}", batch, 3, 64, 64).double() / 256
            losses.append(float(discriminator_step(gan, real, rows % CLASSES, *drawn(step, turn + 1))))
    np.testing.assert_allclose(losses, KNOWN["critic_losses"][: len(losses)], rtol=0, atol=1e-7)


class Toy(nn.Module):
    """The target of the golden loops: a convolution, GELU, the mean of 16 fields, a linear head."""

    def __init__(self, width: int = 12, classes: int = CLASSES):
        super().__init__()
        self.c = nn.Conv2d(3, width, 5, stride=4, padding=2)
        self.fc = nn.Linear(16 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(F.adaptive_avg_pool2d(F.gelu(self.c(images)), 4).flatten(1))
        return logits
