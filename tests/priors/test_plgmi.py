from __future__ import annotations

import pytest
import torch

from attacks.losses import cross_entropy_identity, max_margin_identity
from midre_exp.data.base import ImageSet
from midre_exp.data.transforms.view import NUMBERS
from midre_exp.errors import ConfigError
from midre_exp.priors.gan.cgan import (
    discriminator_step,
    generator_step,
    hinge_discriminator,
    hinge_generator,
)
from midre_exp.priors.gan.training import GanTraining
from midre_exp.priors.plgmi import select
from midre_exp.runtime import Runtime
from midre_exp.threat import Threat, Victim
from tests.golden.fill import golden
from tests.priors.small import Colours, public, small, victim

CPU = torch.device("cpu")


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
    prior = small("plgmi", steps=1)
    fit(prior, tmp_path)
    images = public().images.float().div(255).mean((2, 3))
    assert torch.equal(prior.selection, chosen_one_by_one((12 * images).softmax(1), 5))
    assert {"selection", "confidence"} <= set(prior.state_dict())
    assert ((prior.confidence > 0.3) & (prior.confidence <= 1)).all()
    assert (small("plgmi").selection == -1).all()


def test_the_target_is_shown_what_the_attack_would_show_it(tmp_path):
    sizes = set()

    class Watching(Colours):
        def forward(self, images, taps=()):
            sizes.add(tuple(images.shape[-2:]))
            return super().forward(images, taps)

    resize = [{"_target_": "midre_exp.data.transforms.Resize", "size": 20}]
    prior = small("plgmi", steps=1, image_to_target=resize)
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
    return GanTraining(prior.generator, prior.discriminator, **options)


def test_a_discriminator_step_leaves_the_generator_alone_and_does_not_ask_the_target():
    prior = small("plgmi")
    gan = gan_of(prior)
    before = {name: p.clone() for name, p in prior.named_parameters()}
    labels = torch.randint(3, (2, 6))
    discriminator_step(gan, torch.rand(6, 3, 16, 16), labels[0], torch.randn(6, 6), labels[1])
    for name, parameter in prior.named_parameters():
        generator = name.startswith("generator")
        assert (parameter.grad is None) == generator
        assert torch.equal(parameter, before[name]) == generator, name


def test_a_generator_step_leaves_the_discriminator_alone_and_follows_both_losses():
    prior = small("plgmi")
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


def test_the_averaged_generator_gets_its_own_batch_statistics(tmp_path):
    plain, averaged = small("plgmi", steps=5), small("plgmi", steps=5, ema=0.5)
    for name, prior in (("plain", plain), ("averaged", averaged)):
        fit(prior, tmp_path / name)
    assert not torch.equal(plain.generator.l1.weight, averaged.generator.l1.weight)
    inputs = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    hidden = averaged.generator.l1(inputs).view(4000, -1, 16).transpose(1, 2).flatten(0, 1)
    statistics = averaged.generator.get_submodule("block2.b1")
    # 2560 calibration draws: the deviation of a mean is 2 % of a standard deviation, of a variance 3 %
    assert ((statistics.running_mean - hidden.mean(0)).abs() < 0.12 * hidden.std(0)).all()
    torch.testing.assert_close(statistics.running_var, hidden.var(0), rtol=0.2, atol=0)


def test_training_teaches_the_generator_what_the_target_takes_for_each_class(tmp_path):
    colours = torch.tensor([[220, 60, 40], [50, 210, 60], [30, 60, 230]], dtype=torch.uint8)
    images = colours.repeat_interleave(20, 0)[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    portraits = ImageSet(images, torch.zeros(60, dtype=torch.int64), ("somebody",))
    options = {"lr": 2e-2, "identity_weight": 1, "discriminator_steps": 1}  # quick, not stable
    prior = small("plgmi", steps=40, width=4, batch_size=12, **options)
    numbers = prior.fit(portraits, victim(), seed=0, work=tmp_path, runtime=Runtime())
    assert prior.selection.tolist() == [[19, 18, 17, 16, 15], [39, 38, 37, 36, 35], [59, 58, 57, 56, 55]]
    labels = torch.arange(3).repeat_interleave(8)
    with torch.no_grad():
        drawn = prior.generate(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), labels)
    assert (drawn.mean((2, 3)).argmax(1) == labels).all()
    assert numbers["taken_for_label"] > 0.5


def test_no_image_without_a_label_and_no_discriminator_needed():
    with pytest.raises(ConfigError, match="images of given labels"):
        small("plgmi").generate(torch.randn(3, 6))
    assert small("plgmi", pretrained={"generator": "g.tar", "discriminator": None}).published_files
