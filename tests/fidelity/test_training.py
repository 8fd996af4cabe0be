"""Trainings of classifiers against plain loops after the released trainers: the same weights, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import build_defense, compose
from defenses.parts.erasing import sample_squares
from midre_exp.data.base import Dataset, ImageSet
from midre_exp.seeding import derive, generator
from midre_exp.targets.assemble import assemble
from midre_exp.targets.training.batch import Shuffled
from midre_exp.targets.training.train import train_classifier
from tests.fidelity.recorded import quiet

pytestmark = pytest.mark.fidelity

EPOCHS, SIZE, CLASSES = 8, 32, 4
MODEL = {"_target_": "midre_exp.targets.VGG16", "image_size": SIZE, "width": 0.125}
ADAM: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 8,
    "drop_last": False,
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [4, 6], "gamma": 0.1},
    "augment": [],
    "select": "last",
}
SGD: dict[str, Any] = {
    **ADAM,
    "drop_last": True,
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    "scheduler": None,
}


class Noise(Dataset):
    """Four classes of coloured noise, 7 images each: the last batch of 8 is incomplete."""

    def load(self, part: str) -> ImageSet:
        labels = torch.arange(CLASSES).repeat(7 if part == "train" else 2)
        drawn = torch.Generator().manual_seed(len(labels))
        noise = torch.randint(0, 160, (len(labels), 3, SIZE, SIZE), generator=drawn)
        tints = torch.randint(0, 96, (CLASSES, 3), generator=torch.Generator().manual_seed(5))
        images = (noise + tints[labels][:, :, None, None]).byte()
        return ImageSet(images, labels, tuple("abcd"))

    def fingerprint(self, role: object) -> dict[str, Any]:
        return {}


def ours(recipe: Mapping[str, Any], **defenses: Any) -> dict[str, Tensor]:
    """The state dict after ``train_classifier``."""
    settings = {"name": "vgg16", "model": MODEL, "weights": None, "recipe": recipe}
    with tempfile.TemporaryDirectory() as work:
        trained = train_classifier(
            settings,
            Noise(),
            compose(**defenses or {"nodef": build_defense("nodef")}),
            seed=3,
            work=Path(work),
            runtime=quiet(),
            title="fidelity",
        )
    return trained.model.state_dict()


#: Network, images [n, 3, h, w] in [0, 1], labels, epoch: the loss of a batch.
Loss = Callable[[Any, Tensor, Tensor, int], Tensor]


def cross_entropy(model: Any, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
    return nn.CrossEntropyLoss()(model(images).logits, labels)


def plain(
    recipe: Mapping[str, Any],
    *,
    loss: Loss = cross_entropy,
    change: Callable[[Tensor, int, int], Tensor] = lambda images, epoch, number: images,
    each_epoch: Callable[[Any, int], None] = lambda model, epoch: None,
    defense: Any = None,
) -> dict[str, Tensor]:
    """The same by the loop every released trainer has: an optimiser, batches, a scheduler per epoch."""
    settings = {"name": "vgg16", "model": MODEL, "weights": None, "recipe": recipe}
    made = compose(it=defense or build_defense("nodef"))
    model = assemble(settings, CLASSES, made, seed=3, weights=None)
    options = {key: value for key, value in recipe["optimizer"].items() if key != "_target_"}
    kind = torch.optim.Adam if "Adam" in recipe["optimizer"]["_target_"] else torch.optim.SGD
    optimiser = kind(model.parameters(), **options)
    scheduler = None
    if recipe["scheduler"] is not None:
        milestones, gamma = (recipe["scheduler"][key] for key in ("milestones", "gamma"))
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma)
    train = Noise().load("train")
    order = Shuffled(len(train), batch_size=recipe["batch_size"], drop_last=recipe["drop_last"], seed=3)
    for epoch in range(recipe["epochs"]):
        torch.manual_seed(derive(3, "epoch", epoch))  # of a head that draws
        each_epoch(model, epoch)
        model.train()
        for number, rows in enumerate(order.batches(epoch)):
            images = change(train.images[rows].float() / 255, epoch, number)
            optimiser.zero_grad()
            loss(model, images, train.labels[rows], epoch).backward()
            optimiser.step()
        if scheduler is not None:
            scheduler.step()
    return dict(model.state_dict())


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Fail, naming the first, where a tensor differs in any bit."""
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_adam_with_steps_of_the_rate():
    same(ours(ADAM), plain(ADAM))


def test_sgd_without_the_incomplete_batch():
    same(ours(SGD), plain(SGD))


def test_midre():
    """Squares are set pixel by pixel to the released fill, in the space in which it was released."""
    midre = build_defense("midre")
    generators: dict[int, torch.Generator] = {}

    def erase(images: Tensor, epoch: int, number: int) -> Tensor:
        # of the training's own stream: one per epoch, batch after batch
        drawn = generators.setdefault(epoch, generator(3, "batches", epoch))
        numbers = torch.rand(3, len(images), generator=drawn)
        boxes = sample_squares(numbers, SIZE, SIZE, a_l=0.1, a_h=0.4, area="uniform", rounding="round")
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in STATISTICS)
        literal = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        erased = images.clone()
        for image, top, left, side in zip(erased, *(box.tolist() for box in boxes), strict=True):
            image[:, top : top + side, left : left + side] = literal * std + mean
        return erased

    model = assemble(
        {"name": "vgg16", "model": MODEL, "weights": None, "recipe": ADAM},
        CLASSES,
        compose(it=midre),
        seed=3,
        weights=None,
    )
    STATISTICS = [model.mean.flatten().tolist(), model.std.flatten().tolist()]
    same(ours(ADAM, midre=midre), plain(ADAM, change=erase))


def test_nls():
    """The released criterion, (1 - a) nll + a mean of all, and its schedule over the epochs."""

    def smoothed(model: Any, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        half, three_quarters = EPOCHS // 2, 3 * EPOCHS // 4
        if epoch < half:
            alpha = 0.0
        else:
            alpha = -0.05 * (1 if epoch >= three_quarters else (epoch + 1 - half) / (EPOCHS - half))
        logits = model(images).logits
        if not alpha:
            return F.cross_entropy(logits, labels)
        log_probabilities = F.log_softmax(logits, -1)
        nll = -log_probabilities.gather(-1, labels[:, None]).squeeze(1)
        smooth = -log_probabilities.mean(-1)
        return ((1 - alpha) * nll + alpha * smooth).mean()

    same(ours(ADAM, nls=build_defense("nls")), plain(ADAM, loss=smoothed))


def test_mid():
    """An epoch of the released bottleneck and penalty on the same noise. Its logarithm is written otherwise,
    so that weights agree to rounding, which later epochs of this tiny network would amplify.
    """
    recipe = {**SGD, "epochs": 1}
    mid = build_defense("mid")

    def bottleneck(model: Any, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        state = torch.get_rng_state()
        features = model(images).features
        torch.set_rng_state(state)
        mu, raw = model.head.statistics(features).chunk(2, 1)
        std = F.softplus(raw - 5)
        logits = model.head.classifier(mu + std * torch.randn(mu.shape))
        kl = -0.5 * (1 + 2 * std.log() - mu.square() - std.square()).sum(1).mean()
        return F.cross_entropy(logits, labels) + mid.beta * kl

    first, second = ours(recipe, mid=mid), plain(recipe, loss=bottleneck, defense=build_defense("mid"))
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-5, atol=2e-6, msg=name)


def test_a_training_whose_rate_falls_an_epoch_later_differs():
    """What makes these comparisons worth something: they see a single step of the schedule."""
    later = {**ADAM, "scheduler": {**ADAM["scheduler"], "milestones": [5, 6]}}
    with pytest.raises(AssertionError):
        same(ours(ADAM), plain(later))
