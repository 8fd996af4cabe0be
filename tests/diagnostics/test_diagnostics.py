"""Each diagnostic on targets of which the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from defenses import Defense, TrapMID, compose
from midre_exp.data.base import Dataset, ImageSet
from midre_exp.diagnostics import AutoPGD, Calibration, Dependence, MembershipInference, RobustAccuracy
from midre_exp.diagnostics.alignment import align
from midre_exp.diagnostics.base import Subject, diagnose
from midre_exp.diagnostics.calibration import calibration_error
from midre_exp.diagnostics.intervals import measured
from midre_exp.diagnostics.membership import inference
from midre_exp.diagnostics.robustness import disagreements
from midre_exp.diagnostics.shadows import ShadowImages, kept_by, pooled, shadowed
from midre_exp.diagnostics.trap import trapped
from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Unavailable
from midre_exp.priors.base import Prior
from midre_exp.seeding import generator, normal
from midre_exp.targets.base import Classifier, Output
from tests.priors.small import small

CLASSES = 3
TRAP = {
    "alpha": 0.02,
    "beta": 0.2,
    "step": 0.01,
    "triggers": "trained",
    "discriminator": True,
    "augment": "shared",
}


class Network(Classifier):
    """Which third of the image is the brightest, by logits that ``answer`` makes of the means."""

    head_name = "fc"

    def __init__(self, scale: float = 20.0):
        super().__init__()
        self.set_normalisation(0.0, 1.0)
        self.fc = nn.Linear(CLASSES, CLASSES)
        self.fc.weight.data, self.fc.bias.data = scale * torch.eye(CLASSES), torch.zeros(CLASSES)

    def stages(self):
        return [("thirds", self.thirds)]

    def stage_blocks(self):
        return {"thirds": ()}

    def thirds(self, x: Tensor) -> Tensor:
        return x.mean((1, 2)).view(len(x), CLASSES, -1).mean(2)


class Saturated(Network):
    """Logits so far apart that the cross entropy has no gradient."""

    def __init__(self):
        super().__init__(scale=1e6)


class Rounded(Network):
    """Gradients that are shattered: of 16 levels of the image, with random small slopes between them."""

    def forward(self, images: Tensor, taps=()) -> Output:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(int(images.sum() * 1e5)))
        return super().forward((images * 16).round() / 16 + 1e-3 * noise * images, taps)


class Random(Network):
    """Another answer each time."""

    def forward(self, images: Tensor, taps=()) -> Output:
        output = super().forward(images, taps)
        return output._replace(logits=output.logits + 0.05 * torch.randn_like(output.logits))


def pictures(count: int, seed: int, contrast: float = 0.05) -> ImageSet:
    """Grey noise with one third brighter by up to ``contrast``."""
    random = generator(seed, "pictures")
    labels = torch.arange(count) % CLASSES
    images = 0.45 + 0.1 * torch.rand(count, 3, 6, 6, generator=random)
    lift = contrast * torch.rand(count, generator=random)
    for third in range(CLASSES):
        images[labels == third, :, :, 2 * third : 2 * third + 2] += lift[labels == third, None, None, None]
    return ImageSet((images * 255).round().to(torch.uint8), labels, ("a", "b", "c"))


def subject(model: Classifier | None = None, count: int = 60) -> Subject:
    network = (Network() if model is None else model).eval().requires_grad_(False)
    return Subject(
        model=network, train=pictures(count, 0), test=pictures(count, 1), device=torch.device("cpu")
    )


def curve(**changes) -> RobustAccuracy:
    own = {"eps": [0, 1, 2, 4, 16], "steps": 8, "images": 40, "reference": 2, "answers": 3}
    return RobustAccuracy(**{**own, **changes})


def test_no_change_is_clean_accuracy_and_a_linear_target_falls_where_algebra_says():
    asked = subject()
    found = curve()(asked)
    points = {point["eps"]: point["value"] for point in found.told["points"]}
    assert points[0] == found.told["clean"]["value"] and found.told["images"] == 40
    # of a linear target the sign of the gradient is the best there is: the margin falls by 2 eps
    rows = asked.shuffled("test")[:40]
    images, labels = asked.shown("test", rows)
    means = asked.model(images).features
    own = means.gather(1, labels[:, None]).squeeze(1)
    margin = own - means.scatter(1, labels[:, None], -1).amax(1)
    for eps in (1, 2, 4, 16):
        most = 100 * float((margin > 2.001 * eps / 255).double().mean())
        least = 100 * float((margin > 4.001 * eps / 255).double().mean())
        assert least <= points[eps] <= 100 * float((margin > 0).double().mean())
        assert points[eps] >= most or points[eps] >= least
    assert points[16] == 0 and not found.alarms
    assert (
        found.numbers["robust@2"] == points[2] and found.told["area"]["low"] <= found.numbers["robust_area"]
    )
    assert 1 < found.numbers["robust_eps_half"] < 16


def test_the_curve_does_not_depend_on_how_many_images_go_at_once():
    whole, few = subject(), subject()
    few.at_once.rows = 7
    assert curve()(whole).told == curve()(few).told


def test_auto_pgd_is_no_weaker_than_pgd_and_the_same_in_parts():
    found = AutoPGD(ce=[2], dlr=[2], steps=20, images=40, answers=1)(subject())
    weak = curve()(subject()).numbers["robust@2"]
    assert found.numbers["apgd_ce@2"] <= weak and found.numbers["apgd_dlr@2"] <= weak
    few = subject()
    few.at_once.rows = 7
    assert AutoPGD(ce=[2], dlr=[2], steps=20, images=40, answers=1)(few).told == found.told


def test_a_saturated_target_is_no_robust_one():
    found = curve()(subject(Saturated()))
    assert any("gradient of nothing but zeros" in sentence for sentence in found.alarms)
    honest = AutoPGD(ce=[], dlr=[16], steps=20, images=40, answers=1)(subject(Saturated()))
    assert found.numbers["robust@16"] > 50 and honest.numbers["apgd_dlr@16"] == 0
    (told,) = disagreements({**found.numbers, **honest.numbers})
    assert "AutoPGD with the loss dlr leaves" in told
    assert not disagreements({**found.numbers, "apgd_ce@16": found.numbers["robust@16"] - 1})


def test_shattered_gradients_are_told():
    assert curve(steps=20)(subject(Rounded())).alarms


def test_a_target_that_answers_at_random_is_asked_several_times():
    torch.manual_seed(0)
    told = curve()(subject(Random())).told
    assert (told["answers"], told["mean_network"]) == (3, False)
    assert curve()(subject()).told["answers"] == 1
    mean = replace(subject(Random()), steady=Network().eval)
    told = curve()(mean).told
    assert (told["answers"], told["mean_network"]) == (1, True)
    assert told["points"] == curve()(subject()).told["points"]


@pytest.mark.parametrize(("changes", "told"), [({"eps": [2, 1]}, "must rise"), ({"reference": 3}, "none of")])
def test_a_curve_that_cannot_be_drawn(changes, told):
    with pytest.raises(ConfigError, match=told):
        curve(**changes)


def test_calibration_of_a_target_that_knows_what_it_knows():
    random = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(20000, generator=random, dtype=torch.float64)
    right = torch.rand(20000, generator=random, dtype=torch.float64) < confidence
    each = torch.ones(1, 20000, dtype=torch.float64)
    assert float(calibration_error(confidence, right, 15, each)) < 0.02
    assert float(calibration_error(confidence, torch.ones_like(right), 15, each)) == pytest.approx(
        0.25, abs=0.01
    )
    found = Calibration(bins=[15, 10])(subject())
    ece = found.told["ece"]
    assert ece["15"]["low"] <= ece["15"]["value"] <= ece["15"]["high"] or ece["15"]["low"] == 0
    assert found.numbers["ece"] == ece["15"]["value"]
    # of a target that is calibrated resampling adds to the error, which is then too large by as much
    logits = torch.stack([(confidence / (1 - confidence)).log(), torch.zeros(20000, dtype=torch.float64)], 1)
    few = subject()
    few._known["test"] = torch.cat([logits[:60], torch.full((60, 1), -50.0, dtype=torch.float64)], 1)
    few.test.labels[:] = (~right[:60]).long()
    told = Calibration(bins=[15])(few).told["ece"]["15"]
    assert told["debiased"] < told["value"] and told["low"] == 0
    assert found.told["images"] == 60


def test_losses_of_strangers_tell_nothing():
    random = torch.Generator().manual_seed(0)
    members, others = torch.randn(400, generator=random), torch.randn(300, generator=random)
    told = inference(members, others, [0.1])
    assert told["auc"]["low"] < 50 < told["auc"]["high"] and told["advantage"]["low"] < 6
    known = inference(members + 3, others, [0.1])
    assert known["auc"]["low"] > 95 and known["tpr@0.1"]["value"] > 85
    same = inference(torch.zeros(5), torch.zeros(7), [])
    assert same["auc"]["value"] == 50 and same["advantage"]["value"] == 0


def test_members_are_those_with_small_losses():
    asked = subject()
    asked._known["train"] = 50 * torch.eye(CLASSES, dtype=torch.float64)[asked.train.labels]
    found = MembershipInference(rates=[0.001])(asked)
    assert found.numbers["mia_auc"] > 95 and "tpr@0.001" in found.told["missing"]
    assert found.told["at_mean_train_loss"]["true_positive"] >= 0


def test_features_that_show_the_label_alone_depend_on_the_image_less():
    measure = Dependence(part="train", batches=2, batch_size=24, sigma=5)

    class OneHot(Network):
        def thirds(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(
                super().thirds(x).argmax(1), CLASSES
            ).float() + 1e-6 * super().thirds(x)

    plain, told = measure(subject()), measure(subject(OneHot()))
    assert told.numbers["hsic_zy"] > plain.numbers["hsic_zy"]
    assert set(plain.told["by_stage"]) == {"thirds", "features"} and plain.told["images"] == 48
    assert plain.told["by_stage"]["features"]["xz"]["value"] <= 23


def test_too_few_images_are_a_reason_and_no_number():
    found = diagnose(subject(), {"hsic": Dependence(part="test", batches=1, batch_size=64, sigma=5)})
    assert (
        found.missing == {"hsic": "there are 60 test images, less than a batch of 64"} and not found.numbers
    )


@pytest.mark.parametrize("name", ["gmi", "plgmi", "stylegan2"])
def test_alignment_with_every_kind_of_prior(name):
    prior = small(name)
    assert isinstance(prior, Prior)
    prior.freeze()
    size = prior.image_size

    class Linear(Network):
        """Its gradient is the same everywhere."""

        def forward(self, images: Tensor, taps=()) -> Output:
            weight = normal(generator(0, "weight"), CLASSES, 3 * size * size)
            return Output(images.flatten(1) @ weight.T, images.flatten(1))

    model = Linear().eval().requires_grad_(False)
    told = align(model, prior, (), images=3, classes=CLASSES, loss="cross_entropy", seed=0)
    assert told["images"] == 3 and told["pixels"] == 3 * size**2 and 0 < told["rank"] <= prior.latent_dim
    # a random direction: as much along the pictures as chance says
    assert told["ratio"]["value"] == pytest.approx(told["chance"], rel=0.5)
    assert told == align(model, prior, (), images=3, classes=CLASSES, loss="cross_entropy", seed=0)


def test_an_interval_holds_the_mean_of_what_it_was_drawn_from():
    told = measured(torch.arange(100) < 30, scale=100)
    assert told["value"] == 30 and 20 < told["low"] < 26 and 34 < told["high"] < 40


def test_every_image_is_left_out_by_some_shadow_and_equally_often():
    labels = torch.arange(40) % 4
    trained_on = torch.zeros(40, dtype=torch.bool)
    for identity in range(4):
        trained_on[(labels == identity).nonzero().squeeze(1)[:6]] = True
    kept = torch.stack([kept_by(labels, trained_on, number, 0) for number in range(5)])
    assert all(int(one[labels == identity].sum()) == 6 for one in kept for identity in range(4))
    assert (~kept).sum(0).tolist() == [2] * 40
    assert not torch.equal(kept, torch.stack([kept_by(labels, trained_on, n, 1) for n in range(5)]))


class Parts(Dataset):
    def __init__(self):
        self.parts = {"train": pictures(24, 0), "test": pictures(12, 1)}

    def load(self, part):
        return self.parts[part]

    def fingerprint(self, role):
        return {}


def test_a_shadow_is_trained_on_other_images_of_the_same_people():
    first, second = (ShadowImages(Parts(), number, 0) for number in range(2))
    train, test = first.load("train"), first.load("test")
    assert len(train) == 24 and len(test) == 12 and train.classes == ("a", "b", "c")
    assert train.labels.bincount().tolist() == [8, 8, 8]
    assert not torch.equal(train.images, second.load("train").images)


def test_lira_knows_a_target_that_remembers():
    class Remembers(Network):
        """Sure of the images that it was shown, by their exact pixels."""

        def __init__(self, shown: Tensor):
            super().__init__()
            self.shown = {row.tobytes() for row in (shown.numpy())}

        def forward(self, images: Tensor, taps=()) -> Output:
            output = super().forward(images, taps)
            rows = (images * 255).round().to(torch.uint8).numpy()
            known = torch.tensor([3.0 if row.tobytes() in self.shown else 1.0 for row in rows])
            return output._replace(logits=output.logits * known[:, None])

    private = Parts()
    every, trained_on = pooled(private.load("train"), private.load("test"))
    assert len(every) == 36 and int(trained_on.sum()) == 24
    shadows = [Remembers(ShadowImages(private, number, 0).load("train").images) for number in range(6)]
    target, cpu = Remembers(private.load("train").images), torch.device("cpu")
    told, numbers = shadowed(target, shadows, private, seed=0, rates=[0.5], device=cpu)
    assert (told["shadows"], told["with"], told["without"]) == (6, 4, 2)
    forgetful = Remembers(private.load("train").images[:0])
    nothing, _ = shadowed(forgetful, shadows, private, seed=0, rates=[], device=cpu)
    assert numbers["lira_auc"] > nothing["online"]["auc"]["value"] + 10
    with pytest.raises(Unavailable, match="2 shadows leave images that none of them was trained without"):
        shadowed(target, shadows[:2], private, seed=0, rates=[], device=cpu)


class Plain(Defense):
    """Without triggers."""


def test_traps_are_told_from_people():
    asked = subject(Network())

    def triggered(images: Tensor, classes: Tensor) -> Tensor:
        """A bright third, whatever the image."""
        shown = torch.zeros_like(images)
        for third in range(CLASSES):
            shown[classes == third, :, :, 2 * third : 2 * third + 2] = 1
        return shown

    traps = triggered(asked.shown("test", torch.arange(9))[0], asked.test.labels[:9])
    told, numbers = trapped(
        asked.model, triggered, asked.train, asked.test, (traps * 255).to(torch.uint8), asked.device
    )
    assert numbers["trap_cosine"] == pytest.approx(1) and numbers["trap_caught"] == 100
    assert told["clean"]["cosine"]["value"] < 0.8 and told["triggered"]["class"]["value"] == 100
    assert told["reconstructions"]["images"] == 9
    as_parts = compose(plain=Plain(), trapmid=TrapMID(**TRAP))
    together = as_parts.triggered({"trapmid.triggers": traps[:3]})
    alone = TrapMID(**TRAP).triggered({"triggers": traps[:3]})
    images, labels = asked.shown("test", torch.arange(5))
    assert together is not None and alone is not None and Defense().triggered({}) is None
    torch.testing.assert_close(together(images, labels), alone(images, labels))
    torch.testing.assert_close(alone(images, labels), 0.98 * images + 0.02 * traps[:3][labels])
