from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.losses import max_margin_identity
from attacks.plgmi import PLGMI
from midre_exp.data.transforms.view import NUMBERS
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import Prior
from midre_exp.run import run
from midre_exp.seeding import ItemRNG
from midre_exp.store.store import Store
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.golden.fill import golden


def attack(**changes) -> PLGMI:
    """The attack of conf/attack/plgmi.yaml, on 2 identities."""
    node = plain(without(OmegaConf.load(CONF_DIR / "attack" / "plgmi.yaml"), "defaults", "name", "judged"))
    return build({**node, "identities": 2, **changes})


OFF = {
    "_target_": "midre_exp.data.transforms.RandomView",
    "saturation": False,
    **dict.fromkeys(("brightness", "contrast", "jitter_p", "flip_p", "degrees", "rotation_p"), 0),
    "scale": [1, 1],
}


class Pixels(Prior):
    """Latents are pixels before a sigmoid; a label lights one colour."""

    latent_dim = 48

    def generate(self, latents, labels=None):
        light = nn.functional.one_hot(labels, 3).to(latents.dtype)[:, :, None, None]
        return (latents.view(-1, 3, 4, 4) + 0.1 * light).sigmoid()

    def realism(self, images):
        raise NotImplementedError  # PLG-MI asks nobody how real an image is

    def fit(self, public, victim, **options):
        raise NotImplementedError


class Linear(nn.Module):
    """A target of 3 classes on 4x4 images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 3)
        nn.init.zeros_(self.layer.bias)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, images, taps=()):
        features = images.flatten(1)
        return Output(self.layer(features), features)


def victim():
    return Victim.of(Linear(), 3, Threat.WHITE_BOX)


def plain_loop(steps, state):
    return range(steps)


plain_loop.show = lambda **_: None


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def invert(plgmi: PLGMI, n: int = 3, target=None) -> Tensor:
    return plgmi.invert(target or victim(), Pixels(), torch.arange(n) % 3, rng(n), plain_loop)


# the loss


def test_max_margin_matches_the_golden_numbers():
    expected = golden("plgmi_losses")
    logits = torch.tensor(expected["logits"], requires_grad=True)
    labels = torch.tensor(expected["labels"])
    losses = max_margin_identity(logits, labels)
    pairs = torch.tensor(expected["max_margin"]["per_sample_target_and_best_other"])
    torch.testing.assert_close(losses.detach(), pairs[:, 1] - pairs[:, 0])
    assert losses.mean().item() == pytest.approx(expected["max_margin"]["value"], rel=1e-5)
    losses.mean().backward()
    torch.testing.assert_close(logits.grad, torch.tensor(expected["max_margin"]["grad_wrt_logits"]))


def test_the_sum_over_two_views_matches_the_golden_number():
    expected = golden("plgmi_losses")["inversion_two_views"]
    labels = torch.tensor(golden("plgmi_losses")["labels"])
    first, second = (torch.tensor(x) for x in (golden("plgmi_losses")["logits"], expected["view2_logits"]))
    total = max_margin_identity(first, labels) + max_margin_identity(second, labels)
    assert total.mean().item() == pytest.approx(expected["value"], rel=1e-5)


def test_the_margin_ignores_a_shift_of_all_logits_and_is_negative_when_the_label_wins():
    logits = torch.tensor([[4.0, 1.0, 0.0], [-2.0, -1.0, -5.0]])
    losses = max_margin_identity(logits, torch.tensor([0, 2]))
    assert losses.tolist() == [-3.0, 4.0]
    torch.testing.assert_close(max_margin_identity(logits + 7, torch.tensor([0, 2])), losses)


# inversions


def test_without_random_views_it_follows_torchs_adam_on_twice_the_mean_loss():
    latents = rng(3).normal("start", 48).requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=0.1)
    labels = torch.arange(3)
    for _ in range(20):
        loss = 2 * max_margin_identity(victim()(Pixels().generate(latents, labels)).logits, labels).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = invert(attack(steps=20, view=OFF, reference_batch=3))
    torch.testing.assert_close(found, latents.detach(), rtol=0, atol=2e-4)
    # Adam is scale free: another reference batch moves the latents by its eps alone
    torch.testing.assert_close(invert(attack(steps=20, view=OFF)), found, rtol=0, atol=1e-3)


def test_the_objective_is_the_sum_over_views_drawn_from_each_items_stream():
    plgmi = attack()
    latents, labels = rng(3).normal("start", 48), torch.arange(3)
    images = Pixels().generate(latents, labels)
    losses = plgmi.losses(victim(), Pixels(), latents, labels, rng(3), 5)
    views = [plgmi.view(images, rng(3).uniform(f"view {i}", NUMBERS, step=5)) for i in range(2)]
    assert not torch.allclose(*views)
    expected = sum(max_margin_identity(victim()(seen).logits, labels) for seen in views)
    torch.testing.assert_close(losses, expected)
    later = plgmi.losses(victim(), Pixels(), latents, labels, rng(3), 6)
    assert not torch.allclose(later, losses)  # each step draws anew


def test_the_target_becomes_confident_and_sees_every_view():
    plgmi, target = attack(steps=40, views=3), victim()
    labels = torch.arange(3)
    found = invert(plgmi, target=target)
    assert target.queries == 40 * 3 * 3
    before = target.confidence(plgmi.render(Pixels(), rng(3).normal("start", 48), labels), labels)
    after = target.confidence(plgmi.render(Pixels(), found, labels), labels)
    assert (after > before).all()
    assert (after > 0.9).all()


def test_the_steps_to_the_target_follow_the_view():
    plgmi = attack(views=1)
    plgmi.image_to_target = (lambda images: 1 - images,)
    latents, labels = rng(3).normal("start", 48), torch.arange(3)
    view = plgmi.view(Pixels().generate(latents, labels), rng(3).uniform("view 0", NUMBERS))
    expected = max_margin_identity(victim()(1 - view).logits, labels)
    found = plgmi.losses(victim(), Pixels(), latents, labels, rng(3), 0)
    torch.testing.assert_close(found, expected)


def test_cross_entropy_is_an_option():
    loss = {"_target_": "attacks.CrossEntropy"}
    plgmi = attack(identity_loss=loss, view=OFF, views=1)
    latents, labels = rng(3).normal("start", 48), torch.arange(3)
    logits = victim()(Pixels().generate(latents, labels)).logits
    expected = nn.functional.cross_entropy(logits, labels, reduction="none")
    found = plgmi.losses(victim(), Pixels(), latents, labels, rng(3), 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["steps", "views", "reference_batch"])
def test_settings_that_optimise_nothing_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"attack.{name}=0 must be at least 1"):
        attack(**{name: 0})


def test_a_whole_run_trains_its_prior_against_the_target_and_leaves_a_record(tiny, stocked):
    settings = tiny("attack=plgmi", "attack.prior.width=2", "attack.prior.per_class=4")
    record = json.loads(run(settings).read_text())
    assert record["queries"] == 4 * 2 * 3 * 2  # identities x restarts x steps x views
    assert 0 <= record["metrics"]["att_acc1"] <= 100
    assert "Inception weights" in record["missing"]["fid"]
    prior = Store(settings["paths"]["store"]).find("prior", record["artifacts"]["prior"])
    chosen = prior.tensors("weights")["selection"]
    assert chosen.shape == (4, 4)
    assert 0 <= chosen.min() <= chosen.max() < 32
