"""The training of PLG-MI's GAN against the official loop (tests/golden/loops/gan_plgmi.npz): its first steps,
whose losses already tell one pass of the discriminator from two.
"""

from __future__ import annotations

import torch

from attacks import max_margin_identity
from midre_exp.priors.gan.cgan import discriminator_step, generator_step
from midre_exp.priors.gan.training import GanTraining
from tests.fidelity.recorded import (
    Recording,
    ToyClassifier,
    draw,
    enlarged,
    gained,
    gan_prior,
    ints,
    pick,
    unif,
)
from tests.golden.fill import fill

STEPS = 2


def test_steps_are_those_of_the_official_program_with_a_pass_for_either_kind_of_picture():
    run = Recording.of("gan_plgmi")
    meta, tag, batch, losses = run.meta, run.tag, run.meta["batch_size"], []
    prior = gan_prior(run, "plgmi", critic="discriminator", double=True)
    gan = GanTraining(
        prior.generator,
        prior.discriminator,
        lr=meta["lr"],
        betas=meta["betas"],
        ema=0,
        device=torch.device("cpu"),
    )
    target = ToyClassifier(meta["classes"])
    fill(target, official=lambda key: f"{tag}/T.{key}")
    gained(target.double(), meta["gains_classifier"])
    images = enlarged(ints(f"{tag}/images", 256, meta["images"], 3, 8, 8).double() / 255, 8)

    def identity(fake, labels, numbers):
        return max_margin_identity(target(fake).logits, labels), torch.zeros(len(labels))

    def drawn(step, turn):
        latents = draw(f"{tag}/latents/{step}/{turn}", batch, meta["latent_dim"]).double()
        return latents, ints(f"{tag}/labels/{step}/{turn}", meta["classes"], batch)

    for step in range(STEPS):
        latents, labels = drawn(step, 0)
        told = generator_step(gan, latents, labels, torch.empty(batch, 0), identity, meta["identity_weight"])
        assert abs(float(told[0]) - run["generator_loss"][step]) < 1e-6
        assert abs(float(told[1]) - run["identity_loss"][step]) < 1e-6
        for turn in range(meta["discriminator_steps"]):
            rows = pick(f"{tag}/batch/real/{meta['discriminator_steps'] * step + turn}", len(images), batch)
            real = images[rows] + unif(f"{tag}/noise/{step}/{turn}", batch, 3, 64, 64).double() / 256
            losses.append(
                float(discriminator_step(gan, real, rows % meta["classes"], *drawn(step, turn + 1)))
            )
    expected = run["critic_losses"][: len(losses)]
    torch.testing.assert_close(torch.tensor(losses).to(expected), expected, rtol=0, atol=1e-6)
