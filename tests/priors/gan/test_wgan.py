from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.config import CONF_DIR
from midre_exp.priors.base import initial_prior
from midre_exp.priors.gan.base import Gan, Shuffled
from midre_exp.priors.gan.wgan import (
    critic_loss,
    critic_step,
    generator_loss,
    gradient_norms,
    gradient_penalty,
    wasserstein,
)
from midre_exp.priors.gmi import Critic, Generator
from midre_exp.runtime import Runtime
from midre_exp.weights import checkpoint
from tests.golden.fill import check_summary, fill, golden

CPU = torch.device("cpu")


def small(**changes):
    """The prior of conf/attack/prior/gmi.yaml, made tiny."""
    node = {
        **OmegaConf.to_container(OmegaConf.load(CONF_DIR / "attack" / "prior" / "gmi.yaml"), resolve=False),
        "image_size": 16,
        "latent_dim": 6,
        "width": 4,
        "batch_size": 8,
        "steps": 30,
        **changes,
    }
    return initial_prior(node)


def public(n: int = 40, size: int = 16) -> ImageSet:
    images = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    return ImageSet(images.to(torch.uint8), torch.zeros(n, dtype=torch.int64), ("somebody",))


@dataclass(frozen=True)
class Killed(Runtime):
    """Is interrupted before the given step, as by Ctrl-C."""

    at: int = 0

    def bar(self, steps, title, total=None, done=0):
        for step in steps:
            if step == self.at:
                raise KeyboardInterrupt
            yield step


@dataclass
class Recorder:
    steps: list[int] = field(default_factory=list)
    grids: list[tuple[int, torch.Size]] = field(default_factory=list)

    def log(self, values, step):
        self.steps.append(step)

    def images(self, name, images, step):
        self.grids.append((step, images.shape))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


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
    gan = Gan(
        fill(Generator(), double=True),
        fill(Critic(), double=True),
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
    prior = small()
    gan = Gan(prior.generator, prior.critic, lr=1e-2, betas=(0.5, 0.9), ema=0, device=CPU)
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
    prior = small()
    gan = Gan(prior.generator, prior.critic, lr=0.0, betas=(0.5, 0.9), ema=0, device=CPU)
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


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "gp_every": 2, "critic_steps": 2}])
def test_a_killed_training_continues_to_the_same_bytes(tmp_path, changes):
    whole, broken, continued = small(**changes), small(**changes), small(**changes)
    runtime = Runtime(checkpoint_every=15)
    numbers = whole.fit(public(), None, seed=3, work=tmp_path / "whole", runtime=runtime)
    work = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        broken.fit(public(), None, seed=3, work=work, runtime=Killed(checkpoint_every=15, at=17))
    assert checkpoint.load(work / "wgan.pt")["step"] == 15
    assert not same(broken, whole)
    assert continued.fit(public(), None, seed=3, work=work, runtime=runtime) == numbers
    assert same(continued, whole)


def test_another_seed_gives_another_prior(tmp_path):
    priors = [small(steps=3), small(steps=3)]
    for seed, prior in enumerate(priors):
        prior.fit(public(), None, seed=seed, work=tmp_path / str(seed), runtime=Runtime())
    assert not same(*priors)


@pytest.mark.parametrize(("steps", "count"), [(None, 2 * 5), (4, 4)])
def test_steps_override_epochs_of_whole_batches(tmp_path, steps, count):
    prior = small(epochs=2, steps=steps)
    prior.fit(public(41), None, seed=0, work=tmp_path, runtime=Runtime(checkpoint_every=count))
    saved = checkpoint.load(tmp_path / "wgan.pt")
    assert saved["step"] == count
    assert saved["generator_steps"] == count // 5


def test_the_averaged_generator_gets_its_own_batch_statistics(tmp_path):
    plain, averaged = small(steps=10, critic_steps=1), small(steps=10, critic_steps=1, ema=0.5)
    for name, prior in (("plain", plain), ("averaged", averaged)):
        prior.fit(public(), None, seed=0, work=tmp_path / name, runtime=Runtime())
    assert not torch.equal(plain.generator.l1[0].weight, averaged.generator.l1[0].weight)
    inputs = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    hidden = averaged.generator.l1[0](inputs)
    statistics = averaged.generator.l1[1]
    # 2560 calibration draws: the deviation of a mean is 2 % of a standard deviation, of a variance 3 %
    assert ((statistics.running_mean - hidden.mean(0)).abs() < 0.12 * hidden.std(0)).all()
    torch.testing.assert_close(statistics.running_var, hidden.var(0), rtol=0.2, atol=0)


def test_a_trained_prior_is_in_eval_mode_with_images_and_scores_per_latent(tmp_path):
    prior = small(steps=2)
    prior.fit(public(), None, seed=0, work=tmp_path, runtime=Runtime())
    assert not any(module.training for module in (prior.generator, prior.critic))
    images = prior.generate(torch.randn(3, 6))
    assert images.shape == (3, 3, 16, 16)
    assert prior.realism(images).shape == (3,)


def test_training_reports_numbers_and_samples_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr("midre_exp.priors.gan.wgan.LOG_EVERY", 4)
    monkeypatch.setattr("midre_exp.priors.gan.wgan.SAMPLES_EVERY", 6)
    shown, silent = small(steps=13), small(steps=13)
    tracker = Recorder()
    shown.fit(public(), None, seed=0, work=tmp_path / "a", runtime=Runtime(tracker=tracker))
    assert tracker.steps == [4, 8, 12]
    assert tracker.grids == [(6, (64, 3, 16, 16)), (12, (64, 3, 16, 16))]
    monkeypatch.setattr("midre_exp.priors.gan.wgan.SAMPLES_EVERY", 100)
    silent.fit(public(), None, seed=0, work=tmp_path / "b", runtime=Runtime())
    assert same(shown, silent)  # looking changes nothing


def test_training_moves_the_samples_towards_the_images(tmp_path):
    colours = torch.tensor([220, 60, 130], dtype=torch.uint8).view(1, 3, 1, 1).expand(64, 3, 16, 16)
    images = ImageSet(colours.contiguous(), torch.zeros(64, dtype=torch.int64), ("red",))
    prior = small(steps=150, critic_steps=2, lr=2e-3)
    prior.fit(images, None, seed=0, work=tmp_path, runtime=Runtime())
    with torch.no_grad():
        mean = prior.generate(torch.randn(64, 6, generator=torch.Generator().manual_seed(0))).mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([220, 60, 130]) / 255, rtol=0, atol=0.15)


def test_published_weights_replace_training(tmp_path):
    source, prior = small(), small(seed=1)
    paths = {}
    for name in ("generator", "critic"):
        network = fill(source.get_submodule(name))
        paths[name] = str(tmp_path / f"{name}.tar")
        torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, paths[name])
    prior = small(seed=1, pretrained=paths)
    assert not same(source, prior)
    assert prior.fit(public(2), None, seed=0, work=tmp_path, runtime=Runtime()) == {}
    assert same(source, prior)
    missing = small(pretrained={**paths, "critic": str(tmp_path / "nothing.tar")})
    with pytest.raises(CheckpointError, match=r"nothing.tar"):
        missing.fit(public(2), None, seed=0, work=tmp_path, runtime=Runtime())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrained": {"generator": "g.tar", "critic": None}}, "prior.pretrained needs .*only generator"),
        ({"steps": 0}, "prior.steps=0 must be at least 1"),
        ({"epochs": 0}, "prior.epochs=0"),
        ({"critic_steps": 0}, "prior.critic_steps=0"),
        ({"gp_every": 0}, "prior.gp_every=0"),
        ({"image_size": 24}, "prior.image_size=24"),
    ],
)
def test_a_prior_that_cannot_be_trained_is_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        small(**changes)


@pytest.mark.parametrize(
    ("images", "changes", "words"),
    [
        (public(7), {}, "prior.batch_size=8 must lie between 1 and the 7 public images"),
        (public(7), {"steps": None}, "prior.batch_size=8 must lie between 1 and the 7 public images"),
        (public(40, size=32), {}, "prior.image_size=16, but the public images have 32x32 pixels"),
        (public(), {"lr": 1e30, "steps": 4}, "diverged before step 4; lower attack.prior.lr"),
    ],
)
def test_unusable_public_images_and_divergence_are_user_errors(tmp_path, images, changes, words):
    with pytest.raises(ConfigError, match=words):
        small(**changes).fit(images, None, seed=0, work=tmp_path, runtime=Runtime())
