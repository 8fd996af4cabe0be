"""How far images may be changed before a target takes them for another class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from midre_exp.diagnostics.base import Finding, Subject, Work
from midre_exp.diagnostics.intervals import flat, measured
from midre_exp.diagnostics.pgd import LOSSES, auto_pgd, cross_entropies, gradients, pgd
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, NotEmpty, Positive, Range
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import predicted_classes

LEVELS = 255  #: eps is told in these: 1 is one of 255 grey levels
#: A largest change of a pixel, told in these.
Eps = Annotated[float, Range(0, LEVELS)]
#: Points of percent by which robust accuracy must be wrong in one direction before gradients are doubted.
TOLERANCE = 2.0
#: Points of percent by which AutoPGD, which has more steps, must leave less than PGD.
APART = 10.0
#: How far repeated answers of the same image may differ, in shares of their length.
_REPEATED = 1e-4
#: Share of images that are right and whose gradient is nothing but zeros, from which it is told.
_VANISHED = 0.05


@dataclass(kw_only=True, eq=False)
class RobustAccuracy:
    """Percent of test images that are right clean and under PGD, over the largest change of a pixel.

    PGD makes steps of a quarter of eps from the clean image and draws nothing. ``robust_area``: mean over the
    logarithm of eps, one number of the whole curve. ``robust_eps_half``: where half of the clean accuracy is
    left (between two eps on the logarithm). Face classifiers of small images have nothing left at eps of
    8/255: one large eps tells nothing of them.
    """

    eps: Annotated[Sequence[Eps], NotEmpty()]  # in 1/255 of the range of pixels; 0 is clean accuracy
    steps: Count
    images: Count  # of the test images, right or not
    reference: Positive  # one of eps: there, random starts and more steps are tried for alarms
    answers: Count  # of a target that answers at random: how many are averaged

    def __post_init__(self) -> None:
        if sorted(set(self.eps)) != list(self.eps):
            raise ConfigError(f"diagnostics: RobustAccuracy eps={list(self.eps)} must rise, each given once")
        if self.reference not in self.eps:
            raise ConfigError(
                f"diagnostics: RobustAccuracy reference={self.reference:g} is none of its eps "
                f"{list(self.eps)}"
            )

    def __call__(self, subject: Subject) -> Finding:
        rows = subject.shuffled("test")[: self.images].sort().values
        labels = subject.test.labels[rows]
        network, answers = attacked_network(subject, rows, self.answers)
        clean = _over(subject, rows, lambda x, y, _: _clean(network, x, y, answers))
        right, vanished = clean[:, 0].bool(), clean[:, 2].bool()
        points: list[dict[str, Any]] = []
        robust: dict[float, Tensor] = {}
        losses: dict[float, float] = {0.0: float(clean[:, 1].mean())}
        early: dict[float, float] = {}
        for eps in self.eps:
            found = self._attacked(network, subject, rows, eps, answers)
            robust[eps] = right & found[:, 0].bool()
            early[eps] = 100 * float((right & found[:, 2].bool()).double().mean())
            losses[eps] = float(found[:, 1].mean())
            points.append({"eps": eps, **measured(robust[eps], scale=100), "loss": losses[eps]})
        started = self._attacked(network, subject, rows, self.reference, answers, random_start=True)
        random_start = right & started[:, 0].bool()
        area = self._area(torch.stack([robust[eps] for eps in self.eps if eps]).double())
        told: dict[str, Any] = {
            "images": len(rows),
            "steps": self.steps,
            "answers": answers,
            "mean_network": network is not subject.model,
            "clean": measured(right, scale=100),
            "points": points,
            "area": measured(area, scale=100),
            "reference": self.reference,
            "random_start": measured(random_start, scale=100),
            "zero_gradients": 100 * float((vanished & right).double().mean()),
        }
        numbers: dict[str, float] = {}
        for point in points:
            numbers.update(flat(f"robust@{point['eps']:g}", point))
        numbers.update(flat("robust_area", told["area"]))
        half = self._half(float(told["clean"]["value"]), points)
        if half is not None:
            told["eps_half"] = numbers["robust_eps_half"] = half
        alarms = self._alarms(points, losses, early, random_start, robust[self.reference], told, len(labels))
        return Finding(told, numbers, alarms)

    def work(self, train: int, test: int) -> Work:
        shown = min(test, self.images)
        return Work(len(self.eps) * shown, (1 + (len(self.eps) + 1) * self.steps) * shown)

    def _attacked(
        self,
        network: Classifier,
        subject: Subject,
        rows: Tensor,
        eps: float,
        answers: int,
        *,
        random_start: bool = False,
    ) -> Tensor:
        """Right, loss and right early of each image, [n, 3]."""
        size = eps / LEVELS

        def attack(x: Tensor, y: Tensor, rng: ItemRNG) -> Tensor:
            start = x + size * (2 * rng.uniform("start", *x.shape[1:]) - 1) if random_start else None
            found = pgd(
                lambda images: network(images).logits,
                x,
                y,
                eps=size,
                step=size / 4,
                iterations=self.steps,
                start=start,
                answers=answers,
            )
            return torch.stack([found.right.float(), found.loss.float(), found.early.float()], dim=1)

        return _over(subject, rows, attack)

    def _area(self, robust: Tensor) -> Tensor:
        """Of [points, n] the mean over log eps of each image by the trapezoid rule, [n]."""
        grid = torch.tensor([math.log(eps) for eps in self.eps if eps], dtype=torch.float64)
        if len(grid) == 1:
            return robust[0]
        return torch.trapezoid(robust.T, grid) / (grid[-1] - grid[0])

    def _half(self, clean: float, points: Sequence[dict[str, Any]]) -> float | None:
        """Where the curve first comes down to half of the clean accuracy, None where it does not between two
        of its points.
        """
        wanted, last = clean / 2, None
        for point in points:
            if point["eps"] and last is not None and last["value"] > wanted >= point["value"]:
                share = (last["value"] - wanted) / (last["value"] - point["value"])
                low, high = math.log(last["eps"]), math.log(point["eps"])
                return math.exp(low + share * (high - low))
            last = point if point["eps"] else None
        return None

    def _alarms(
        self,
        points: Sequence[dict[str, Any]],
        losses: dict[float, float],
        early: dict[float, float],
        random_start: Tensor,
        robust: Tensor,
        told: dict[str, Any],
        images: int,
    ) -> list[str]:
        """Signs that gradients mislead, after AutoAttack's flags: what ought to help does not."""
        found = []
        for point in points:
            more = point["value"] - early[point["eps"]]
            if more > max(TOLERANCE, 200 / images):
                found.append(
                    f"at eps {point['eps']:g}/255 all {self.steps} steps leave {more:.1f} points more images "
                    "right than a quarter of them: gradients mislead, so the target may be less robust"
                )
        gained = measured(robust.double() - random_start.double(), scale=100)
        if gained["value"] > TOLERANCE and gained["low"] > 0:
            found.append(
                f"at eps {self.reference:g}/255 a random start leaves {gained['value']:.1f} points fewer "
                "images right than the clean one: gradients at the images themselves are masked"
            )
        rising = sorted(losses)
        for low, high in itertools.pairwise(rising):
            if losses[high] < losses[low] - 1e-6 * max(1.0, abs(losses[low])):
                found.append(
                    f"the loss at eps {high:g}/255 is below that at {low:g}/255: a larger ball must not be "
                    "harmless, so gradients mislead"
                )
        if told["zero_gradients"] > 100 * _VANISHED:
            found.append(
                f"{told['zero_gradients']:.1f} % of the images are right and have a gradient of nothing but "
                "zeros: the cross entropy saturates; look at AutoPGD with the loss dlr"
            )
        return found


@dataclass(kw_only=True, eq=False)
class AutoPGD:
    """Percent of test images that are right clean and at every step of AutoPGD, from a random start: points
    that others publish too. The cross entropy at 0.031 of 1 (7.905/255) is the part of AutoAttack that AT-AT
    reports; the difference of logits ratio moves images where the cross entropy has no gradient left.
    """

    ce: Sequence[Eps]  # in 1/255: points under the cross entropy
    dlr: Sequence[Eps]  # under the difference of logits ratio
    steps: Count  # official: 100
    images: Count  # of the test images, right or not
    answers: Count  # of a target that answers at random: how many are averaged

    def __call__(self, subject: Subject) -> Finding:
        rows = subject.shuffled("test")[: self.images].sort().values
        network, answers = attacked_network(subject, rows, self.answers)
        clean = _over(subject, rows, lambda x, y, _: _clean(network, x, y, answers))[:, 0].bool()
        told: list[dict[str, Any]] = []
        numbers: dict[str, float] = {}
        for name, eps in [("ce", eps) for eps in self.ce] + [("dlr", eps) for eps in self.dlr]:
            robust = clean.clone()
            if bool(clean.any()):
                robust[clean] = self._attacked(network, subject, rows[clean], name, eps / LEVELS, answers)
            point = measured(robust, scale=100)
            told.append({"loss": name, "eps": eps, **point})
            numbers.update(flat(f"apgd_{name}@{eps:g}", point))
        block = {
            "images": len(rows),
            "steps": self.steps,
            "answers": answers,
            "mean_network": network is not subject.model,
            "points": told,
        }
        return Finding(block, numbers)

    def work(self, train: int, test: int) -> Work:
        points = len(self.ce) + len(self.dlr)
        return Work(0, (1 + points * (1 + self.steps)) * min(test, self.images))

    def _attacked(
        self, network: Classifier, subject: Subject, rows: Tensor, loss: str, size: float, answers: int
    ) -> Tensor:
        """Which images stay right, bool [n]."""

        def attack(x: Tensor, y: Tensor, rng: ItemRNG) -> Tensor:
            direction = 2 * rng.uniform("start", *x.shape[1:]) - 1
            widest = direction.abs().amax((1, 2, 3), keepdim=True)  # as released: to the side of the box
            found = auto_pgd(
                lambda images: network(images).logits,
                x,
                y,
                eps=size,
                iterations=self.steps,
                loss=LOSSES[loss],
                start=x + size * direction / widest,
                answers=answers,
                stop=True,
            )
            return found.right

        return _over(subject, rows, attack)


def disagreements(numbers: Mapping[str, float]) -> list[str]:
    """Alarms of AutoPGD that leaves clearly less than PGD at the same eps, by the numbers of both."""
    found = []
    for name, value in numbers.items():
        kind, _, eps = name.partition("@")
        if kind not in ("apgd_ce", "apgd_dlr") or f"robust@{eps}" not in numbers:
            continue
        apart = numbers[f"robust@{eps}"] - value
        if apart > APART and numbers.get(f"robust@{eps}_low", 0) > numbers.get(f"{name}_high", 100):
            loss = {"apgd_ce": "the cross entropy", "apgd_dlr": "the loss dlr"}[kind]
            found.append(
                f"robust_accuracy: at eps {eps}/255 AutoPGD with {loss} leaves {apart:.1f} points fewer "
                "images right than PGD: the curve is too high, its gradients are masked"
            )
    return found


def _over(subject: Subject, rows: Tensor, look: Callable[[Tensor, Tensor, ItemRNG], Tensor]) -> Tensor:
    """What ``look`` makes of images, labels and a stream of numbers of each image, some rows at a time."""

    def some(part: Tensor) -> Tensor:
        rng = ItemRNG(0, "diagnostics", "robustness", items=part.to(subject.device))
        return look(*subject.shown("test", part), rng)

    return subject.over(rows, some, "images under attack")


def _clean(network: Classifier, images: Tensor, labels: Tensor, answers: int) -> Tensor:
    """Of clean images, [n, 3]: whether they are right, their loss, whether its gradient is all zeros."""
    gradient, losses, logits = gradients(
        lambda x: network(x).logits, images, labels, cross_entropies, answers
    )
    right = predicted_classes(logits) == labels
    vanished = (gradient.flatten(1) == 0).all(1)
    return torch.stack([right.float(), losses.float(), vanished.float()], dim=1)


def attacked_network(subject: Subject, rows: Tensor, answers: int) -> tuple[Classifier, int]:
    """The network whose robustness is measured, and how many of its answers are averaged: the target and one;
    of a target that answers at random its mean, if that is a network, else the mean of ``answers``.
    """
    images, _ = subject.shown("test", rows[:8])
    if not answers_at_random(subject.model, images):
        return subject.model, 1
    if subject.steady is not None and not answers_at_random(steady := subject.steady(), images):
        return steady, 1
    return subject.model, answers


@torch.no_grad()
def answers_at_random(network: Classifier, images: Tensor) -> bool:
    """Whether it answers the same images differently when it is asked again."""
    first, again = (network(images).logits.double() for _ in range(2))
    return bool(((first - again).norm(dim=1) > _REPEATED * first.norm(dim=1)).any())
