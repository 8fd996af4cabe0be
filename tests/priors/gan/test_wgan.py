from __future__ import annotations

import numpy as np
import pytest
import torch

from midre_exp.data.base import ImageSet
from midre_exp.data.loader import Shuffled
from midre_exp.priors.gan.gmi_networks import GMICritic, GMIGenerator
from midre_exp.priors.gan.training import GanTraining
from midre_exp.priors.gan.wgan import (
    critic_loss,
    critic_step,
    generator_loss,
    gradient_norms,
    gradient_penalty,
    wasserstein,
)
from midre_exp.runtime import Runtime
from tests.golden.fill import check_summary, fill, golden
from tests.priors.small import public, small

CPU = torch.device("cpu")


# losses


def test_wgan_losses_match_the_golden_numbers():
    expected = golden("gmi_losses")["wgan"]
    real, fake = torch.tensor(expected["d_real"]), torch.tensor(expected["d_fake"])
    assert wasserstein(real, fake).item() == pytest.approx(expected["wasserstein"], rel=1e-5)
    loss = critic_loss(real, fake, torch.tensor(0.3), 10)
    assert loss.item() == pytest.approx(expected["d_loss_with_gp_0.3"], rel=1e-5)
    assert generator_loss(fake).item() == pytest.approx(expected["g_loss"], rel=1e-5)


def test_gradient_penalty_matches_the_golden_numbers():
    expected = golden("gradient_penalty")
    real, fake, first, second = (torch.tensor(expected[name]) for name in ("real", "fake", "W1", "w2"))
    alpha = torch.tensor(expected["alpha"]).view(-1, 1, 1, 1)

    def critic(images):
        return (images.flatten(1) @ first.T).tanh() @ second

    norms = gradient_norms(critic, real + alpha * (fake - real))
    torch.testing.assert_close(norms, torch.tensor(expected["per_sample_gradient_norm"]), rtol=1e-5, atol=0)
    penalty = gradient_penalty(critic, real, fake, alpha)
    assert penalty.item() == pytest.approx(expected["value"], rel=1e-5)


def test_gradient_penalty_of_a_linear_critic_has_its_closed_form():
    expected = golden("gradient_penalty")["linear_critic"]
    weight = torch.tensor(expected["w"])
    draws = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 5, 2, 2, 2, generator=draws)
    penalty = gradient_penalty(
        lambda x: x.flatten(1) @ weight, real, fake, torch.rand(5, 1, 1, 1, generator=draws)
    )
    assert penalty.item() == pytest.approx(expected["value"], rel=1e-5)
    assert penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)


def test_gradient_penalty_teaches_the_critic_its_weights():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)  # norm 5: the penalty (5 - 1)^2 falls along -w
    x = torch.zeros(2, 2, 1, 1)
    gradient_penalty(lambda x: x.flatten(1) @ weight, x, x, torch.zeros(2, 1, 1, 1)).backward()
    torch.testing.assert_close(weight.grad, 2 * (5 - 1) * weight.detach() / 5)


# steps


def golden_step_inputs():
    def draw(seed, how, shape):
        values = getattr(np.random.RandomState(seed), how)(size=shape)
        return torch.from_numpy(values.astype(np.float32)).double()

    return (
        draw(0, "uniform", (4, 3, 64, 64)),
        draw(2, "standard_normal", (4, 100)),
        draw(3, "uniform", (4, 1, 1, 1)),
    )


def test_a_whole_critic_step_matches_the_golden_numbers_in_float64():
    expected = golden("gmi_gan_step")
    real, latents, alpha = golden_step_inputs()
    gan = GanTraining(
        fill(GMIGenerator(), double=True),
        fill(GMICritic(), double=True),
        lr=2e-4,
        betas=(0.5, 0.999),
        ema=0,
        device=CPU,
    )
    with torch.no_grad():
        fake = gan.generator(latents)
        check_summary(fake, expected["fake"])
        for images, name in ((real, "d_real"), (fake, "d_fake")):
            assert gan.critic(images).tolist() == pytest.approx(expected[name], rel=1e-6)
    norms = gradient_norms(gan.critic, real + alpha * (fake - real))
    assert norms.tolist() == pytest.approx(expected["gradient_norms"], rel=1e-6)

    distance, penalty = critic_step(gan, real, latents, alpha, gp_weight=10, gp_every=1, step=0).tolist()
    assert distance == pytest.approx(expected["wasserstein"], rel=1e-6)
    assert penalty == pytest.approx(expected["gradient_penalty"], rel=1e-6)
    assert 10 * penalty - distance == pytest.approx(expected["d_loss"], rel=1e-6)
    gradients = {name: p.grad.norm().item() for name, p in gan.critic.named_parameters()}
    official = expected["d_parameter_grad_norms"]
    assert {name: gradients[name] for name in official} == pytest.approx(official, rel=1e-6)


def test_a_critic_step_leaves_the_generator_weights_and_a_generator_step_the_critic_alone():
    prior = small("gmi")
    gan = GanTraining(prior.generator, prior.critic, lr=1e-2, betas=(0.5, 0.9), ema=0, device=CPU)
    real, latents, alpha = torch.rand(8, 3, 16, 16), torch.randn(8, 6), torch.rand(8, 1, 1, 1)
    critic_step(gan, real, latents, alpha, gp_weight=10, gp_every=1, step=0)
    assert all(p.grad is None for p in gan.generator.parameters())
    before = [p.clone() for p in gan.critic.parameters()]
    gradients = [p.grad.clone() for p in gan.critic.parameters()]
    gan.generator_step(generator_loss(gan.critic(gan.generator(latents))))
    assert all(p.grad is not None for p in gan.generator.parameters())
    assert all(torch.equal(p, b) for p, b in zip(gan.critic.parameters(), before, strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(gan.critic.parameters(), gradients, strict=True))


def test_a_rarer_penalty_has_the_same_weight_on_average():
    prior = small("gmi")
    gan = GanTraining(prior.generator, prior.critic, lr=0.0, betas=(0.5, 0.9), ema=0, device=CPU)
    batch = torch.rand(8, 3, 16, 16), torch.randn(8, 6), torch.rand(8, 1, 1, 1)
    always = critic_step(gan, *batch, gp_weight=10, gp_every=1, step=0)[1]
    rare = torch.stack([critic_step(gan, *batch, gp_weight=10, gp_every=3, step=s)[1] for s in range(6)])
    torch.testing.assert_close(rare, always * torch.tensor([3.0, 0, 0, 3, 0, 0]))


# training


def test_every_epoch_shows_every_image_once_in_a_new_order():
    batches = Shuffled(11, 3, seed=0, purpose="epoch", device=CPU)
    epochs = [torch.cat([batches.rows(epoch * 3 + batch) for batch in range(3)]) for epoch in range(2)]
    for rows in epochs:
        assert len(set(rows.tolist())) == 9  # 11 images, batches of 3: two are left out
    assert not torch.equal(*epochs)
    again = Shuffled(11, 3, seed=0, purpose="epoch", device=CPU).rows(4)  # asked for out of order
    assert torch.equal(again, epochs[1][3:6])


def test_the_averaged_generator_gets_its_own_batch_statistics(tmp_path):
    plain, averaged = small("gmi", steps=10, critic_steps=1), small("gmi", steps=10, critic_steps=1, ema=0.5)
    for name, prior in (("plain", plain), ("averaged", averaged)):
        prior.fit(public(), None, seed=0, work=tmp_path / name, runtime=Runtime())
    assert not torch.equal(plain.generator.l1[0].weight, averaged.generator.l1[0].weight)
    inputs = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    hidden = averaged.generator.l1[0](inputs)
    statistics = averaged.generator.l1[1]
    # 2560 calibration draws: the deviation of a mean is 2 % of a standard deviation, of a variance 3 %
    assert ((statistics.running_mean - hidden.mean(0)).abs() < 0.12 * hidden.std(0)).all()
    torch.testing.assert_close(statistics.running_var, hidden.var(0), rtol=0.2, atol=0)


def test_training_moves_the_samples_towards_the_images(tmp_path):
    colours = torch.tensor([220, 60, 130], dtype=torch.uint8).view(1, 3, 1, 1).expand(64, 3, 16, 16)
    images = ImageSet(colours.contiguous(), torch.zeros(64, dtype=torch.int64), ("red",))
    prior = small("gmi", steps=150, critic_steps=2, lr=2e-3)
    prior.fit(images, None, seed=0, work=tmp_path, runtime=Runtime())
    with torch.no_grad():
        mean = prior.generate(torch.randn(64, 6, generator=torch.Generator().manual_seed(0))).mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([220, 60, 130]) / 255, rtol=0, atol=0.15)
