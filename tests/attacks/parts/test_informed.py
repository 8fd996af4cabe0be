"""What an attack does with what it knows of a defense: golden numbers of erasing in the loop, losses, scores,
and whose confidence is told.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

import attacks
from attacks.losses import CrossEntropy, MaxMargin, OfLogits, Poincare, max_margin_identity
from attacks.parts.expectation import Expectation
from attacks.parts.gradient_attack import COPIES
from defenses import Batch, TrainingProgress, build_defense, compose, erase_squares
from defenses.parts.margins import margins, negative_margin
from midre_exp.attack_run import run_attack
from midre_exp.defense import Informed
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, plain
from midre_exp.priors.base import Prior
from midre_exp.seeding import ItemRNG
from midre_exp.surrogates.base import initial_surrogates
from midre_exp.targets.base import Classifier
from midre_exp.threat import Victim
from tests.golden.fill import golden

GOLDEN = golden("eot_erasing")
LABELS = torch.tensor(GOLDEN["labels"])
BOXES = torch.tensor(GOLDEN["boxes_values"])  # [copy, item, 3]


def state(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)


WEIGHTS = 0.15 * torch.from_numpy(state("eot.T").standard_normal((5, 192)))
IMAGES = torch.from_numpy(state("eot.x").uniform(size=(2, 3, 8, 8)))


def logits(images: Tensor) -> Tensor:
    return (2 * images - 1).flatten(1).tanh() @ WEIGHTS.T


def recorded(images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
    """The recorded squares, painted with 0.485, 0.456, 0.406 of [-1, 1]."""
    fill = (torch.tensor([0.485, 0.456, 0.406], dtype=images.dtype) + 1) / 2
    return erase_squares(images, *BOXES.flatten(0, 1).unbind(1), fill)


def mean(ask, images: Tensor = IMAGES) -> Tensor:
    expectation = Expectation(
        copies=len(BOXES), views=[recorded], search=True, optimisation=True, selection=True
    )
    rng = ItemRNG(0, "test", items=torch.arange(len(images)))
    return expectation.of(images, rng, "copies", 0, lambda copies, _: ask(copies))


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("cross_entropy", CrossEntropy()), ("poincare", Poincare(xi=1e-4)), ("margin", MaxMargin())],
)
def test_loss_and_gradient_are_means_over_erased_copies(name: str, loss: OfLogits) -> None:
    expected = GOLDEN["losses"][name]
    images = IMAGES.clone().requires_grad_()
    by_item = mean(lambda copies: loss.loss(logits(copies), LABELS.repeat(len(BOXES))), images)
    close(by_item, expected["mean_loss"])
    copies = recorded(IMAGES.repeat(len(BOXES), 1, 1, 1), ItemRNG(0, "test", items=torch.arange(2)), "", 0)
    each = loss.loss(logits(copies), LABELS.repeat(len(BOXES)))
    close(each.view(len(BOXES), -1), expected["loss_by_copy"])
    (gradient,) = torch.autograd.grad(by_item.sum(), images)
    close(gradient.flatten(1).norm(dim=1), expected["gradient_norm_by_item"])
    close(gradient[0, 0], expected["gradient_of_item0_channel0"])


def test_search_and_selection_go_by_the_mean_probability_over_erased_copies() -> None:
    probabilities = mean(lambda copies: logits(copies).softmax(1))
    close(probabilities, GOLDEN["mean_probabilities"])
    close(probabilities.gather(1, LABELS[:, None])[:, 0], GOLDEN["selection_score_by_item"])


def test_a_margin_is_minus_the_loss_of_its_class_and_ties_have_none() -> None:
    drawn = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    drawn[0, :2] = 7.0
    expected = torch.stack([-max_margin_identity(drawn, torch.full((6,), c)) for c in range(5)], 1)
    assert torch.equal(margins(drawn), expected)
    labels = torch.arange(6) % 5
    assert torch.equal(negative_margin(drawn, labels), max_margin_identity(drawn, labels))
    assert margins(drawn)[0, 0] == 0


def changed(images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
    return images + 0.1 * rng.normal(name, *images.shape[1:], step=step)


def halved(images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
    return images / 2


COPIED = {
    "_target_": "attacks.Expectation",
    "copies": 3,
    "views": [{"_target_": "attacks.GaussianNoise", "sigma": 0.1, "range_of": "scale"}],
    "search": False,
    "optimisation": True,
    "selection": False,
}


def test_its_own_expectation_says_how_many_copies_and_where_and_the_views_of_the_defense_come_last() -> None:
    known = Informed(views=(changed, halved))
    plain = attacks.build_attack("gmi", informed=True)
    assert plain.averaging is None
    plain.inform(known)
    everywhere = (plain.averaging.search, plain.averaging.optimisation, plain.averaging.selection)
    assert plain.averaging.copies == COPIES == 8 and everywhere == (True, True, True)
    own = attacks.build_attack("gmi", informed=True, expectation=COPIED)
    for _ in range(2):  # as often as it is told
        own.inform(known)
    averaging = own.averaging
    assert (averaging.copies, averaging.search, averaging.selection) == (3, False, False)
    assert [*averaging.views[1:]] == [changed, halved] and isinstance(
        averaging.views[0], attacks.GaussianNoise
    )
    assert own.told()["places"] == ["optimisation"] and own.told()["copies"] == 3
    own.inform(Informed())
    assert own.averaging is own.expectation


@pytest.mark.parametrize("name", ["brepmi", "lokt"])
def test_an_attack_on_labels_says_why_it_cannot_be_informed(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"attack\.informed=true .* sees labels alone; use attack\.informed=false"
    ):
        attacks.build_attack(name, informed=True)
    with pytest.raises(ConfigError, match="cannot use what is known"):
        attacks.build_attack(name).inform(Informed())


class Colours(Classifier):
    """A target of four colours of quarters, whose answers are ``times`` as sure."""

    head_name = "layer"

    def __init__(self, times: float = 1.0) -> None:
        super().__init__()
        self.set_normalisation(0.5, 0.5)
        self.layer = nn.Linear(12, 4)
        drawn = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
        self.layer.weight.data, self.layer.bias.data = drawn, -drawn.sum(1) / 2
        self.times, self.shown = times, 0

    def stages(self):
        yield "pool", lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1)

    def forward(self, images, taps=()):
        self.shown += len(images)
        output = super().forward(images, taps)
        return output._replace(logits=self.times * output.logits)


class Pixels(Prior):
    latent_dim = 48

    def generate(self, latents, labels=None):
        return latents.view(-1, 3, 4, 4).sigmoid()

    def realism(self, images):
        return images.flatten(1).mean(1)

    def fit(self, public, victim=None, **options):
        raise NotImplementedError


def gmi(**options) -> attacks.GMI:
    return attacks.build_attack("gmi", **{"identities": 2, "restarts": 2, "steps": 3, "lr": 0.5, **options})


def carried_out(attack, network, deployed=None, *, work=None):
    victim = Victim.of(network, 4)
    return run_attack(attack, victim, Pixels(), deployed=deployed, work=work), victim


def test_the_loss_that_a_defense_names_is_that_of_an_attack_built_with_it() -> None:
    informed = gmi(informed=True)
    informed.inform(build_defense("nls").informed(Colours()))
    found, _ = carried_out(informed, Colours())
    expected, _ = carried_out(gmi(identity_loss={"_target_": "attacks.MaxMargin"}), Colours())
    for name, value in expected.tensors().items():
        assert torch.equal(found.tensors()[name], value), name


def test_lomma_asks_target_and_students_by_the_loss_that_a_defense_names() -> None:
    teacher, student = Colours(), Colours(times=-0.5)
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "surrogates" / "lomma.yaml"))
    surrogates = initial_surrogates({**node, "seed": 0, "students": []}, num_classes=4)
    surrogates.networks["one"] = student
    surrogates.feature_mean = torch.zeros(12)
    images, labels = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 3])
    rng = ItemRNG(0, "test", items=torch.arange(3))
    own = attacks.LogitLoss(criterion="logit", regulariser=0.0, p_reg="mean")
    found = own.with_loss(max_margin_identity)(Victim.of(teacher, 4), surrogates, images, labels, rng, 0)
    both = [max_margin_identity(network(images).logits, labels) for network in (teacher, student)]
    torch.testing.assert_close(found, torch.stack(both).mean(0))
    assert own.given is None


def test_the_confidence_that_is_told_is_that_of_the_deployed_target() -> None:
    deployed, asked = Victim.of(Colours(), 4), Colours(times=3.0)
    found, victim = carried_out(gmi(), asked, deployed)
    alone, same = carried_out(gmi(), Colours(times=3.0))
    assert torch.equal(found.latents, alone.latents) and victim.queries == same.queries
    of_deployed = deployed.confidence(found.images.float() / 255, found.labels)
    torch.testing.assert_close(found.confidence, of_deployed)
    assert not torch.allclose(found.confidence, alone.confidence)
    assert deployed.queries == 2 * 4  # looks in the end, of which none is the attack's
    assert int(found.queries.sum()) == victim.queries == asked.shown


def test_pictures_that_a_view_pastes_come_of_the_prior_and_are_the_same_in_every_shard(tmp_path) -> None:
    attack, pasted = gmi(informed=True), []
    for folder in ("one", "two"):
        known = build_defense("cutmix").informed(Colours())
        attack.inform(known)
        carried_out(attack, Colours(), work=tmp_path / folder)
        pasted.append(known.views[0].pictures)
    assert torch.equal(*pasted) and pasted[0].shape == (64, 3, 4, 4)
    assert 0 <= pasted[0].min() < pasted[0].max() <= 1
    with pytest.raises(RuntimeError, match="prepare"):
        build_defense("cutmix").informed(Colours()).views[0](pasted[0], ItemRNG(0, items=LABELS), "x", 0)


def test_steps_divided_by_the_copies_cost_the_queries_of_the_plain_attack() -> None:
    shorter = {"copies": 3, "views": [], "search": True, "optimisation": True, "selection": True}
    informed = gmi(informed=True, steps=2, expectation={"_target_": "attacks.Expectation", **shorter})
    informed.inform(build_defense("midre").informed(Colours()))
    _, plain = carried_out(gmi(steps=6), Colours())
    _, ours = carried_out(informed, Colours())
    assert ours.queries == plain.queries == 6 * 4


def test_the_defense_that_the_docs_show_tells_its_attacker_the_law_of_its_training() -> None:
    text = (CONF_DIR.parent / "docs" / "informed.md").read_text()
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    defense = names["Brightness"]()
    known = compose(own=defense).informed(Colours())
    assert known.told()["views"] == ["darkened"] and not known.silent
    images = torch.ones(4000, 3, 2, 2)
    batch = Batch(images, torch.zeros(4000, dtype=torch.long), torch.arange(4000))
    progress = TrainingProgress(epoch=0, epochs=1)
    trained = defense.on_batch(batch, Colours(), progress, torch.Generator().manual_seed(0)).images
    ours = known.views[0](images, ItemRNG(0, "test", items=torch.arange(4000)), "copies", 0)
    for power in (1, 2):
        torch.testing.assert_close((trained**power).mean(), (ours**power).mean(), rtol=0, atol=0.02)
