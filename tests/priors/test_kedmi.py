from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from midre_exp.data.base import to_float
from midre_exp.priors import build_network
from midre_exp.priors.gan.kedmi_gan import (
    discriminator_loss,
    discriminator_step,
    entropy,
    feature_matching,
    generator_loss,
    generator_step,
    supervised_loss,
    unsupervised_loss,
)
from midre_exp.priors.gan.kedmi_networks import KedMIDiscriminator, MinibatchDiscrimination
from midre_exp.priors.gan.training import GanTraining
from midre_exp.priors.kedmi import KedMIPrior
from midre_exp.runtime import Runtime
from tests.golden.fill import fill, golden, golden_images, official_shapes, shapes_of
from tests.priors.small import CLASSES, Colours, public, same, small, victim

CPU = torch.device("cpu")


def gan_of(prior: KedMIPrior) -> GanTraining:
    return GanTraining(prior.generator, prior.discriminator, lr=1e-2, betas=(0.5, 0.9), ema=0, device=CPU)


# the discriminator


def test_keys_their_order_and_shapes_are_the_official_ones():
    ours, official = shapes_of(build_network("kedmi_discriminator")), official_shapes("kedmi_discriminator")
    assert list(ours.items()) == list(official.items())


def test_the_filled_official_network_counts_the_images_of_a_batch_exactly():
    network = fill(build_network("kedmi_discriminator"), double=True)
    images = golden_images(64).double()
    with torch.no_grad():
        features, logits = network(images)
        assert features.shape == (2, 4096) and logits.shape == (2, 1000)
        views = (features @ network.mbd1.T.reshape(4096, -1)).view(2, 64, 50)
        near = (-(views[0] - views[1]).abs().sum(1)).exp()
        together = torch.cat([features, near.expand(2, -1)], 1)
        torch.testing.assert_close(logits, network.fc_layer(together), rtol=1e-9, atol=1e-9)


def test_minibatch_discrimination_equals_a_loop_over_pairs_of_each_group():
    draws = torch.Generator().manual_seed(0)
    layer = MinibatchDiscrimination(5, 3, 2).double()
    features = 0.3 * torch.randn(8, 5, generator=draws, dtype=torch.float64)
    for group, parts in ((None, [range(8)]), (3, [range(3), range(3, 6), range(6, 8)]), (20, [range(8)])):
        expected = torch.zeros(8, 3, dtype=torch.float64)
        for part in parts:
            for i in part:
                for j in part:
                    if i != j:
                        gap = torch.einsum("d,dkc->kc", features[i] - features[j], layer.T)
                        expected[i] += (-gap.abs().sum(1)).exp()
        found = layer(features, group)
        assert torch.equal(found[:, :5], features)
        torch.testing.assert_close(found[:, 5:], expected)
        assert (found[:, 5:] > 0).any()


def test_a_group_is_scored_as_if_it_came_alone_and_features_never_see_the_batch():
    network = small("kedmi").discriminator
    network.mbd1.T.data *= 0.05
    images = torch.rand(7, 3, 32, 32)
    features, logits = network(images, 3)
    alone = [network(part) for part in images.split(3)]
    torch.testing.assert_close(features, torch.cat([f for f, _ in alone]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, torch.cat([k for _, k in alone]), rtol=1e-4, atol=1e-5)
    whole_features, whole_logits = network(images)
    torch.testing.assert_close(whole_features, features)
    assert not torch.allclose(whole_logits, logits, atol=1e-4)


@pytest.mark.parametrize(("size", "features"), [(32, 2 * 4 * 4), (64, 2 * 4 * 16)])
def test_other_sizes_keep_the_layers(size, features):
    network = KedMIDiscriminator(num_classes=5, width=2, image_size=size, kernels=3, kernel_dims=2)
    found, logits = network(torch.rand(2, 3, size, size))
    assert found.shape == (2, features) and logits.shape == (2, 5)
    assert list(shapes_of(network)) == list(official_shapes("kedmi_discriminator"))


# losses


def test_the_losses_match_the_golden_numbers():
    expected = golden("kedmi_gan_losses")
    values = {k: torch.tensor(v) for k, v in expected.items() if isinstance(v, list)}
    labelled, real, fake = (values[f"d_logits_{name}"] for name in ("labelled", "unlabelled", "fake"))
    soft = values["target_logits_on_labelled"].softmax(1)
    found, wanted = values["g_features_fake"], values["g_features_real"]
    assert supervised_loss(labelled, soft).item() == pytest.approx(
        expected["d_loss_supervised_soft_ce"], rel=1e-5
    )
    assert unsupervised_loss(real, fake).item() == pytest.approx(expected["d_loss_unsupervised"], rel=1e-5)
    total = discriminator_loss(labelled, soft, real, fake)
    assert total.item() == pytest.approx(expected["d_loss_total"], rel=1e-5)
    assert feature_matching(found, wanted).item() == pytest.approx(expected["g_feature_matching"], rel=1e-5)
    assert entropy(fake).item() == pytest.approx(expected["g_entropy_sum"], rel=1e-5)
    whole = generator_loss(found, wanted, fake, 1e-4)
    assert whole.item() == pytest.approx(expected["g_loss_total"], rel=1e-5)


def test_gradients_separate_real_from_fake_and_make_one_class_claim_an_image():
    real, fake = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    real_gradient, fake_gradient = torch.autograd.grad(unsupervised_loss(real, fake), (real, fake))
    assert (real_gradient < 0).all() and (fake_gradient > 0).all()
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy(logits), logits)
    assert gradient[0, 0] < 0 < gradient[0, 1]  # minimised: the larger one grows


def test_without_entropy_weight_only_the_features_are_matched():
    features, others, logits = torch.randn(3, 4, 5)
    assert torch.equal(generator_loss(features, others, logits, 0.0), feature_matching(features, others))
    assert feature_matching(features, features.flip(0)).item() == pytest.approx(0, abs=1e-7)


# steps


def test_a_discriminator_step_equals_three_batches_scored_one_by_one():
    prior, draws = small("kedmi").double(), torch.Generator().manual_seed(0)
    prior.discriminator.mbd1.T.data *= 0.05
    real = torch.rand(8, 3, 32, 32, generator=draws, dtype=torch.float64)
    latents = torch.randn(4, 6, generator=draws, dtype=torch.float64)
    soft = torch.randn(4, CLASSES, generator=draws, dtype=torch.float64).softmax(1)
    critic = prior.discriminator
    fake = prior.generator.train()(latents).detach()
    loss = discriminator_loss(critic(real[:4])[1], soft, critic(real[4:])[1], critic(fake)[1])
    parameters = list(critic.parameters())
    expected = torch.autograd.grad(loss, parameters)

    gan = gan_of(prior)
    losses = discriminator_step(gan, real, soft, latents)
    assert losses.sum().item() == pytest.approx(loss.item(), rel=1e-9)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)
    assert all(p.grad is None for p in gan.generator.parameters())


def test_a_generator_step_moves_the_generator_alone_down_its_loss():
    prior, draws = small("kedmi").double(), torch.Generator().manual_seed(0)
    real = torch.rand(4, 3, 32, 32, generator=draws, dtype=torch.float64)
    latents = torch.randn(4, 6, generator=draws, dtype=torch.float64)
    gan = gan_of(prior)
    features, logits = prior.discriminator(prior.generator(latents))
    loss = generator_loss(features, prior.discriminator(real)[0], logits, 0.1)
    parameters = list(prior.generator.parameters())
    expected = torch.autograd.grad(loss, parameters)
    before = [p.clone() for p in prior.discriminator.parameters()]

    found = generator_step(gan, real, latents, entropy_weight=0.1)
    assert found.item() == pytest.approx(loss.item(), rel=1e-9)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-7, atol=1e-12)
    assert all(torch.equal(p, b) for p, b in zip(prior.discriminator.parameters(), before, strict=True))


# training


def test_another_seed_or_group_gives_another_prior(tmp_path):
    priors = [small("kedmi", steps=3), small("kedmi", steps=3), small("kedmi", steps=3, group=2)]
    for index, prior in enumerate(priors):
        prior.discriminator.mbd1.T.data *= 0.05  # else everything is far from everything
        prior.fit(public(size=32), victim(), seed=index % 2, work=tmp_path / str(index), runtime=Runtime())
    assert not same(*priors[:2]) and not same(priors[0], priors[2])


def test_the_three_passes_are_shuffled_on_their_own(tmp_path, monkeypatch):
    seen = []

    def watch(gan, real, soft_labels, latents, **options):
        seen.append((real, soft_labels))
        return discriminator_step(gan, real, soft_labels, latents, **options)

    monkeypatch.setattr("midre_exp.priors.kedmi.discriminator_step", watch)
    small("kedmi", steps=2).fit(public(size=32), victim(), seed=0, work=tmp_path, runtime=Runtime())
    real, soft = seen[0]
    torch.testing.assert_close(soft, Colours()(real[:8]).logits.softmax(1))  # of the labelled half
    assert not torch.equal(real[:8], real[8:])


def test_the_discriminator_learns_the_answers_of_the_target(tmp_path):
    images = public(60, 32)
    images.images[:20, 0] //= 2
    images.images[20:40, 1] //= 2
    prior = small("kedmi", steps=60, critic_steps=10, width=4, lr=3e-3)
    prior.fit(images, victim(scale=40), seed=0, work=tmp_path, runtime=Runtime())
    shown = to_float(images.images)
    soft = Colours(40)(shown).logits.softmax(1)
    with torch.no_grad():
        _, logits = prior.discriminator(shown, 8)
    # the target's own entropy is the least possible; knowing nothing is log 3
    assert supervised_loss(logits, soft) < 0.5 * (-(soft * soft.log()).sum(1).mean() + 3**0.5)
    assert (logits.argmax(1) == soft.argmax(1)).float().mean() > 0.8


def test_realism_is_the_logsumexp_within_a_group():
    prior = small("kedmi")
    prior.discriminator.mbd1.T.data *= 0.05
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(prior.realism(images), prior.discriminator(images)[1].logsumexp(1))
    torch.testing.assert_close(prior.realism(images, 2)[:2], prior.realism(images[:2]))
    real = F.softplus(prior.realism(images)) - prior.realism(images)
    assert (real > 0).all()
