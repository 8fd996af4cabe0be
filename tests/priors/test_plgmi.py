from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from attacks.losses import cross_entropy_identity, max_margin_identity
from midre_exp.data.base import ImageSet
from midre_exp.data.transforms.view import NUMBERS
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.config import CONF_DIR
from midre_exp.priors.base import initial_prior
from midre_exp.priors.gan.cgan import (
    ConditionalGan,
    discriminator_step,
    generator_step,
    hinge_discriminator,
    hinge_generator,
)
from midre_exp.priors.plgmi import select
from midre_exp.runtime import Runtime
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from midre_exp.weights import checkpoint
from tests.golden.fill import golden

CPU = torch.device("cpu")
CLASSES = 3


def small(**changes):
    """The prior of conf/attack/prior/plgmi.yaml, made tiny."""
    node = {
        **OmegaConf.to_container(OmegaConf.load(CONF_DIR / "attack" / "prior" / "plgmi.yaml"), resolve=False),
        "image_size": 16,
        "image_to_target": [],
        "latent_dim": 6,
        "width": 2,
        "per_class": 5,
        "batch_size": 6,
        "steps": 20,
        "discriminator_steps": 2,
        **changes,
    }
    return initial_prior(node, num_classes=CLASSES)


class Colours(nn.Module):
    """A target that tells red from green from blue."""

    def forward(self, images, taps=()):
        features = images.mean((2, 3))
        return Output(12 * features, features)


def victim(threat=Threat.WHITE_BOX):
    return Victim.of(Colours(), CLASSES, threat)


def public(n: int = 40, size: int = 16) -> ImageSet:
    images = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    return ImageSet(images.to(torch.uint8), torch.zeros(n, dtype=torch.int64), ("somebody",))


@dataclass(frozen=True)
class Killed(Runtime):
    """Is interrupted before the given step of the training, as by Ctrl-C."""

    at: int = 0

    def bar(self, steps, title, total=None, done=0):
        for step in steps:
            if step == self.at and "training" in title:
                raise KeyboardInterrupt
            yield step


@dataclass
class Recorder:
    steps: list[int] = field(default_factory=list)
    grids: list[tuple[str, int, torch.Size]] = field(default_factory=list)

    def log(self, values, step):
        self.steps.append(step)

    def images(self, name, images, step):
        self.grids.append((name, step, images.shape))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def fit(prior, work, **options):
    return prior.fit(public(), victim(), **{"seed": 3, "work": work, "runtime": Runtime(), **options})


# pseudo-labels


def chosen_one_by_one(probabilities, per_class):
    """The rule, spelled out: sort (probability, row) from the largest down, so the later of equals comes
    first.
    """
    rows = [
        sorted(range(len(probabilities)), key=lambda i, k=k: (float(probabilities[i, k]), i), reverse=True)
        for k in range(probabilities.shape[1])
    ]
    return torch.tensor(rows)[:, :per_class]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_each_class_gets_its_most_probable_images_and_later_ones_of_equals(batch):
    levels = torch.randint(0, 4, (40, 3), generator=torch.Generator().manual_seed(1))  # many ties
    images = (levels.to(torch.uint8) * 60)[:, :, None, None].expand(-1, -1, 2, 2)
    probabilities = (12 * levels * 60 / 255).softmax(1)
    rows, confidence = select(
        lambda x: 12 * (x[:, :, 0, 0] * 255 / 60).round() * 60 / 255, images, 9, Runtime(), batch=batch
    )
    assert torch.equal(rows, chosen_one_by_one(probabilities, 9))
    torch.testing.assert_close(confidence, probabilities.T.gather(1, rows))


def test_an_image_may_serve_several_classes_and_is_shown_once():
    asked = []

    def answer(images):
        asked.append(len(images))
        return torch.zeros(len(images), 4)

    rows, confidence = select(answer, torch.zeros(10, 3, 2, 2, dtype=torch.uint8), 3, Runtime(), batch=4)
    assert rows.tolist() == [[9, 8, 7]] * 4
    assert torch.equal(confidence, torch.full((4, 3), 0.25))
    assert asked == [4, 4, 2]


def test_the_choice_is_kept_with_the_weights(tmp_path):
    prior = small(steps=1)
    fit(prior, tmp_path)
    images = public().images.float().div(255).mean((2, 3))
    assert torch.equal(prior.chosen, chosen_one_by_one((12 * images).softmax(1), 5))
    assert {"chosen", "confidence"} <= set(prior.state_dict())
    assert ((prior.confidence > 0.3) & (prior.confidence <= 1)).all()
    assert (small().chosen == -1).all()


def test_the_target_is_shown_what_the_attack_would_show_it(tmp_path):
    sizes = set()

    class Watching(Colours):
        def forward(self, images, taps=()):
            sizes.add(tuple(images.shape[-2:]))
            return super().forward(images, taps)

    resize = [{"_target_": "midre_exp.data.transforms.Resize", "size": 20}]
    prior = small(steps=1, image_to_target=resize)
    prior.fit(public(), Victim.of(Watching(), 3, Threat.WHITE_BOX), seed=0, work=tmp_path, runtime=Runtime())
    assert sizes == {(20, 20)}


# losses and steps


def test_hinge_and_generator_losses_match_the_golden_numbers():
    expected = golden("plgmi_losses")
    real, fake = (torch.tensor(expected["hinge"][name]) for name in ("d_real", "d_fake"))
    assert hinge_discriminator(real, fake).item() == pytest.approx(
        expected["hinge"]["discriminator_loss"], rel=1e-5
    )
    hinge = hinge_generator(fake)
    assert hinge.item() == pytest.approx(expected["hinge"]["generator_loss"], rel=1e-5)
    identity = max_margin_identity(torch.tensor(expected["logits"]), torch.tensor(expected["labels"])).mean()
    assert (hinge + 0.2 * identity).item() == pytest.approx(expected["generator_total_alpha_0.2"], rel=1e-5)


def gan_of(prior, **changes):
    options = {"lr": 1e-2, "betas": (0.0, 0.9), "ema": 0, "device": CPU, **changes}
    return ConditionalGan(prior.generator, prior.discriminator, **options)


def test_a_discriminator_step_leaves_the_generator_alone_and_does_not_ask_the_target():
    prior = small()
    gan = gan_of(prior)
    before = {name: p.clone() for name, p in prior.named_parameters()}
    labels = torch.randint(3, (2, 6))
    discriminator_step(gan, torch.rand(6, 3, 16, 16), labels[0], torch.randn(6, 6), labels[1])
    for name, parameter in prior.named_parameters():
        generator = name.startswith("generator")
        assert (parameter.grad is None) == generator
        assert torch.equal(parameter, before[name]) == generator, name


def test_a_generator_step_leaves_the_discriminator_alone_and_follows_both_losses():
    prior = small()
    gan = gan_of(prior, lr=0.0)
    latents, labels, numbers = torch.randn(6, 6), torch.randint(3, (6,)), torch.rand(6, NUMBERS)

    def identity(images, labels, numbers):
        losses = cross_entropy_identity(victim()(prior.view(images, numbers)).logits, labels)
        return losses, torch.tensor([True, False, True, False, False, False])

    hinge, loss, taken = generator_step(gan, latents, labels, numbers, identity, 0.2).tolist()
    assert taken == pytest.approx(1 / 3)
    assert all(p.grad is None for p in prior.discriminator.parameters())
    found = {name: p.grad.clone() for name, p in prior.generator.named_parameters()}

    prior.generator.zero_grad()
    prior.discriminator.eval()  # the same power iteration as in the step
    fake = prior.generator(latents, labels)
    scores = prior.discriminator(fake, labels)
    expected = identity(fake, labels, numbers)[0].mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert hinge == pytest.approx(-scores.mean().item(), rel=1e-4)
    (-scores.mean() + 0.2 * expected).backward()
    for name, parameter in prior.generator.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


# training


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "discriminator_steps": 1}])
def test_a_killed_training_continues_to_the_same_bytes(tmp_path, changes):
    whole, broken, continued = small(**changes), small(**changes), small(**changes)
    runtime = Runtime(checkpoint_every=8)
    numbers = fit(whole, tmp_path / "whole", runtime=runtime)
    work = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        fit(broken, work, runtime=Killed(checkpoint_every=8, at=11))
    assert checkpoint.load(work / "cgan.pt")["step"] == 8
    assert not same(broken, whole)
    asked = victim()
    assert fit(continued, work, runtime=runtime) == numbers
    assert same(continued, whole)
    continued.fit(public(), asked, seed=3, work=work, runtime=Runtime(checkpoint_every=1))
    assert asked.queries == 4 * 6  # steps 16 to 19 again, no second labelling
    assert not any(module.training for module in (continued.generator, continued.discriminator))


def test_the_target_is_asked_once_per_public_image_and_once_per_step(tmp_path):
    asked = victim()
    small(steps=4).fit(public(), asked, seed=0, work=tmp_path, runtime=Runtime())
    assert asked.queries == 40 + 4 * 6


def test_another_seed_gives_another_prior(tmp_path):
    priors = [small(steps=2), small(steps=2)]
    for seed, prior in enumerate(priors):
        fit(prior, tmp_path / str(seed), seed=seed)
    assert not same(*priors)


def test_the_averaged_generator_gets_its_own_batch_statistics(tmp_path):
    plain, averaged = small(steps=5), small(steps=5, ema=0.5)
    for name, prior in (("plain", plain), ("averaged", averaged)):
        fit(prior, tmp_path / name)
    assert not torch.equal(plain.generator.l1.weight, averaged.generator.l1.weight)
    inputs = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    hidden = averaged.generator.l1(inputs).view(4000, -1, 16).transpose(1, 2).flatten(0, 1)
    statistics = averaged.generator.get_submodule("block2.b1")
    # 2560 calibration draws: the deviation of a mean is 2 % of a standard deviation, of a variance 3 %
    assert ((statistics.running_mean - hidden.mean(0)).abs() < 0.12 * hidden.std(0)).all()
    torch.testing.assert_close(statistics.running_var, hidden.var(0), rtol=0.2, atol=0)


def test_training_reports_numbers_and_samples_and_looking_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("midre_exp.priors.gan.cgan.LOG_EVERY", 4)
    monkeypatch.setattr("midre_exp.priors.gan.cgan.SAMPLES_EVERY", 6)
    shown, silent, tracker = small(steps=13), small(steps=13), Recorder()
    numbers = fit(shown, tmp_path / "a", runtime=Runtime(tracker=tracker))
    assert tracker.steps == [4, 8, 12]
    size = (64, 3, 16, 16)
    assert tracker.grids == [("chosen", 0, (3, 3, 16, 16)), ("samples", 6, size), ("samples", 12, size)]
    assert set(numbers) == {"discriminator_loss", "generator_loss", "identity_loss", "taken_for_label"}
    monkeypatch.setattr("midre_exp.priors.gan.cgan.SAMPLES_EVERY", 100)
    fit(silent, tmp_path / "b")
    assert same(shown, silent)


def test_training_teaches_the_generator_what_the_target_takes_for_each_class(tmp_path):
    colours = torch.tensor([[220, 60, 40], [50, 210, 60], [30, 60, 230]], dtype=torch.uint8)
    images = colours.repeat_interleave(20, 0)[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    people = ImageSet(images, torch.zeros(60, dtype=torch.int64), ("somebody",))
    options = {"lr": 2e-2, "identity_weight": 1, "discriminator_steps": 1}  # quick, not stable
    prior = small(steps=40, width=4, batch_size=12, **options)
    numbers = prior.fit(people, victim(), seed=0, work=tmp_path, runtime=Runtime())
    assert prior.chosen.tolist() == [[19, 18, 17, 16, 15], [39, 38, 37, 36, 35], [59, 58, 57, 56, 55]]
    labels = torch.arange(3).repeat_interleave(8)
    with torch.no_grad():
        drawn = prior.generate(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), labels)
    assert (drawn.mean((2, 3)).argmax(1) == labels).all()
    assert numbers["taken_for_label"] > 0.5


# what else it offers


def test_images_and_scores_per_latent_and_no_image_without_a_label():
    prior = small().eval()
    images = prior.generate(torch.randn(3, 6), torch.tensor([0, 1, 2]))
    assert images.shape == (3, 3, 16, 16)
    assert images.min() >= -1 and images.max() <= 1
    assert prior.realism(images).shape == (3,)
    with pytest.raises(ConfigError, match="people of given labels"):
        prior.generate(torch.randn(3, 6))


@pytest.mark.parametrize("parts", [("generator",), ("generator", "discriminator")])
def test_published_weights_replace_training(tmp_path, parts):
    source = small()
    paths = {"generator": None, "discriminator": None}
    for name in parts:
        paths[name] = str(tmp_path / f"{name}.tar")
        torch.save({"model": source.get_submodule(name).state_dict()}, paths[name])
    prior = small(seed=1, pretrained=paths)
    assert not same(source.generator, prior.generator)
    assert prior.fit(public(1), None, seed=0, work=tmp_path, runtime=Runtime()) == {}
    assert same(source.generator, prior.generator)
    assert same(source.discriminator, prior.discriminator) == (len(parts) == 2)
    missing = small(pretrained={"generator": str(tmp_path / "nothing.tar"), "discriminator": None})
    with pytest.raises(CheckpointError, match=r"nothing.tar"):
        missing.fit(public(1), None, seed=0, work=tmp_path, runtime=Runtime())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pretrained": {"generator": None, "discriminator": "d.tar"}}, "discriminator without a generator"),
        ({"steps": 0}, "prior.steps=0 must be at least 1"),
        ({"per_class": 0}, "prior.per_class=0"),
        ({"discriminator_steps": 0}, "prior.discriminator_steps=0"),
        ({"image_size": 24}, "prior.image_size=24"),
    ],
)
def test_a_prior_that_cannot_be_trained_is_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        small(**changes)


@pytest.mark.parametrize(
    ("images", "changes", "words"),
    [
        (public(4), {}, "prior.per_class=5 exceeds the 4 public images"),
        (public(), {"batch_size": 16}, "prior.batch_size=16 must lie between 1 and the 15 "),
        (public(40, size=32), {}, "prior.image_size=16, but the public images have 32x32 pixels"),
        (public(), {"lr": 1e30, "steps": 4}, "diverged before step 4; lower attack.prior.lr"),
    ],
)
def test_unusable_public_images_and_divergence_are_user_errors(tmp_path, images, changes, words):
    with pytest.raises(ConfigError, match=words):
        small(**changes).fit(images, victim(), seed=0, work=tmp_path, runtime=Runtime())


def test_a_victim_without_gradients_is_a_user_error(tmp_path):
    for shown in (None, victim(Threat.SCORES), victim(Threat.LABELS)):
        with pytest.raises(ConfigError, match="needs the target's gradients"):
            small().fit(public(), shown, seed=0, work=tmp_path, runtime=Runtime())
