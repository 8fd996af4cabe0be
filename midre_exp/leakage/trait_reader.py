"""A reader of known traits: a network that is shown public faces whose traits are known, and then says of any
face which it sees. What it cannot read in photographs, no reconstruction can be blamed for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import KnownTraits
from midre_exp.leakage.network import FaceNetwork, Pictures
from midre_exp.leakage.training import Course, fit
from midre_exp.runtime import Runtime


class Layout(NamedTuple):
    """Which outputs of a reader are which trait: numbers first, one each, then of kinds one of each class."""

    numbers: tuple[str, ...]
    kinds: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, known: KnownTraits) -> Layout:
        """For these traits."""
        kinds = tuple((name, len(names)) for name, (names, _) in known.kinds.items())
        return cls(tuple(known.numbers), kinds)

    @property
    def outputs(self) -> int:
        """How many there are."""
        return len(self.numbers) + sum(classes for _, classes in self.kinds)

    def columns(self) -> dict[str, slice]:
        """Those of each kind."""
        found, start = {}, len(self.numbers)
        for name, classes in self.kinds:
            found[name] = slice(start, start + classes)
            start += classes
        return found


def train(
    images: Tensor | Pictures,
    known: KnownTraits,
    *,
    pixels: int,
    course: Course,
    work: Path,
    runtime: Runtime,
) -> FaceNetwork:
    """A reader of the traits ``known`` of ``images`` uint8 [n, 3, h, w]: it answers numbers in units of their
    deviation in these people, of kinds the logits. Minimised is the mean squared error of a number where it
    shows plus the cross entropy of a kind in units of guessing, both as means over traits. Raises
    DivergedError.
    """
    layout = Layout.of(known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(course.seed, "trait reader", "weights"))
        network = FaceNetwork(pixels=pixels, outputs=layout.outputs, normed=False)
    device = runtime.device
    truth = {name: standardised(known.numbers[name], known.shows[name]) for name in layout.numbers}
    numbers = torch.stack([*truth.values()], 1).to(device)
    shows = torch.stack([known.shows[name] for name in layout.numbers], 1).float().to(device)
    weights = shows / shows.mean(0).clamp_min(1 / len(images))
    classes = {name: known.kinds[name][1].to(device) for name, _ in layout.kinds}
    guesses = {name: guess_of(known.kinds[name][1]) for name, _ in layout.kinds}
    columns = layout.columns()
    runtime.numerics.reorder(network)
    call = runtime.numerics.call(network)

    def loss(shown: Tensor, rows: Tensor) -> Tensor:
        told = call(shown).float()
        wrong: Tensor = (told[:, : len(layout.numbers)] - numbers[rows]).square() * weights[rows]
        total: Tensor = wrong.mean()
        for name, place in columns.items():
            told_wrong = F.cross_entropy(told[:, place], classes[name][rows])
            total = total + told_wrong / (guesses[name] * len(columns))
        return total

    fit(
        network,
        images,
        loss,
        course,
        key="traits",
        mirrors=False,  # where a mole is, is a trait
        title="training a reader of traits",
        work=work,
        runtime=runtime,
    )
    return network


def standardised(values: Tensor, shows: Tensor) -> Tensor:
    """Float [n] in units of the deviation of those that show, about their mean."""
    some = values[shows].double()
    if len(some) < 2 or float(some.std()) == 0:
        return torch.zeros_like(values)
    return ((values - some.mean()) / some.std()).float()


def guess_of(classes: Tensor) -> float:
    """The cross entropy of somebody who knows how frequent each class is, int64 [n]."""
    shares = torch.bincount(classes).double() / len(classes)
    return max(0.05, float(-(shares * shares.clamp_min(1e-12).log()).sum()))


class Readings(NamedTuple):
    """What a reader sees in some people."""

    numbers: dict[str, Tensor]  # float [people]
    kinds: dict[str, Tensor]  # int64 [people], the class


def readings(answers: Tensor, layout: Layout, labels: Tensor, people: int) -> Readings:
    """Of people 0, 1, .. from a reader's answers [n, outputs] to pictures that show ``labels`` int64 [n]: the
    mean of a number, of a kind the class of the largest mean log probability. Each needs a picture.
    """

    def mean(values: Tensor) -> Tensor:
        total = torch.zeros(people, values.shape[1]).index_add(0, labels, values.float())
        return total / torch.bincount(labels, minlength=people)[:, None]

    numbers = mean(answers[:, : len(layout.numbers)])
    return Readings(
        dict(zip(layout.numbers, numbers.unbind(1), strict=True)),
        {name: mean(answers[:, place].log_softmax(1)).argmax(1) for name, place in layout.columns().items()},
    )


def by_person(known: KnownTraits, labels: Tensor, people: int) -> KnownTraits:
    """What is true of people 0, 1, .. from photographs of them, which all tell the same."""
    order = labels.argsort(stable=True)
    first = torch.searchsorted(labels[order], torch.arange(people))
    return known.of_rows(order[first])


def names_of(known: KnownTraits) -> Mapping[str, str]:
    """Number or kind, by trait."""
    return {**dict.fromkeys(known.numbers, "number"), **dict.fromkeys(known.kinds, "kind")}
