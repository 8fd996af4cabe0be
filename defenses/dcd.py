"""DCD: a protected person's label is taught to look like somebody else, so that whoever inverts it finds that
other person (Data-Centric Defense, TMLR 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from defenses.base import Defense, Informed, Trained
from defenses.parts.options import check_choice
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Natural, NonNegative, Probability
from midre_exp.seeding import generator
from midre_exp.targets.base import Classifier

#: By which labels the images of a protected person are chosen that get a noisy copy.
CHOICES = ("clean", "released")
#: A count of protected people is at most this part of all, so that unprotected ones remain to compare with.
LARGEST_SHARE = 0.2


class Appended(NamedTuple):
    """Images behind the originals, in this order, each as the row of what it is a copy of."""

    surrogates: Tensor  #: int64 [s], rows of the other people
    surrogate_labels: Tensor  #: int64 [s], the protected people whom they are to replace
    noisy_surrogates: bool  #: whether each has one noisy copy of the same label
    noisy: Tensor  #: int64 [m], rows of the originals
    noisy_labels: Tensor  #: int64 [m]


def part_of(share: float, count: int) -> int:
    """``share`` of ``count`` images, rounded down."""
    return int(round(share * count, 9))  # 0.29 of 100 images is 29 and not a floating point error below it


def other_labels(labels: Tensor, classes: int, draws: torch.Generator) -> Tensor:
    """A random class in place of each of ``labels`` int64 [n], all but its own equally likely."""
    drawn = torch.randint(classes - 1, labels.shape, generator=draws)
    return drawn + (drawn >= labels).long()


def with_noise(images: Tensor, std: float, draws: torch.Generator) -> Tensor:
    """``images`` uint8 [n, ...] with normal noise of ``std`` in units of [0, 1], clamped and cut off to 8
    bits as released, which moves them down by half a grey level.
    """
    noise = torch.randn(images.shape, generator=draws)
    return ((images.float() / 255 + std * noise).clamp(0, 1) * 255).byte()


@dataclass(kw_only=True, eq=False)
class DCD(Defense):
    """Training images for protected people c, each with a surrogate s(c) among other people: images of s(c)
    under label c, noisy copies of them, and images of c under other labels, whole and noisy.

    "Data-Centric Defense" (TMLR, November 2024).
    """

    #: Labels; or how many: the first so many, at most a fifth of all and at least one. [] or 0: nobody.
    protected: Natural | Sequence[Natural]
    other_people: Count | None  # surrogates are drawn among the first so many of them; null: among all
    mislabelled: Probability  # share of a protected person's images that get another person's label
    surrogate_images: Count | None  # of each surrogate, its first, repeated; null: all of them, once
    surrogate_noise: NonNegative  # std of the noise of surrogates' copies; 0: no noisy copies at all
    noise: NonNegative  # std of the noise of protected people's own copies
    noisy_mislabelled: Probability  # share of these copies that get another person's label
    chosen_by: str  # clean | released: which images of a protected person get a noisy copy

    def __post_init__(self) -> None:
        check_choice("dcd.chosen_by", self.chosen_by, CHOICES)
        self._people: ImageSet | None = None

    @property
    def label(self) -> str:
        return f"DCD {self.protected if isinstance(self.protected, int) else len(self.protected)}"

    def people(self, classes: int) -> list[int]:
        """The labels of the protected people among ``classes``. Raises ConfigError for one that there is
        not.
        """
        if isinstance(self.protected, int):
            most = max(1, round(LARGEST_SHARE * classes))
            return list(range(min(self.protected, most)))
        if unknown := sorted({label for label in self.protected if not 0 <= label < classes}):
            raise ConfigError(
                f"defense.dcd.protected names the label {unknown[0]}, and the private people are 0 to "
                f"{classes - 1}"
            )
        if len(set(self.protected)) < len(self.protected):
            raise ConfigError("defense.dcd.protected names a label twice; name each once")
        return [*self.protected]

    def on_other_people(self, people: ImageSet, *, seed: int) -> None:
        self._people = people

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        """The originals, some under other labels, then what is ``Appended``."""
        if not self.people(train.num_classes):
            return train
        others = self._others(train)
        labels, added = self.composed(train.labels.cpu(), train.num_classes, others.labels.cpu(), seed=seed)
        surrogates = others.images[added.surrogates.to(others.images.device)].cpu()
        images, all_labels = [train.images, surrogates], [labels, added.surrogate_labels]
        if added.noisy_surrogates:
            draws = generator(seed, "dcd", "noise of surrogates")
            images.append(with_noise(surrogates, self.surrogate_noise, draws))
            all_labels.append(added.surrogate_labels)
        draws = generator(seed, "dcd", "noise")
        images.append(with_noise(train.images[added.noisy], self.noise, draws))
        all_labels.append(added.noisy_labels)
        return ImageSet(torch.cat(images), torch.cat(all_labels), train.classes)

    def composed(self, labels: Tensor, classes: int, others: Tensor, *, seed: int) -> tuple[Tensor, Appended]:
        """The labels of the originals int64 [n] as they are trained, of their true ``labels``, and what is
        appended; ``others``: int64 [m], whom each image of other people shows. A pure function of these.
        """
        if classes < 2:
            raise ConfigError("defense.dcd gives images the labels of other people, and there is one person")
        protected = self.people(classes)
        draws = generator(seed, "dcd", "labels")
        trained = labels.clone()
        for person in protected:
            own = (labels == person).nonzero().flatten()
            chosen = own[torch.randperm(len(own), generator=draws)[: part_of(self.mislabelled, len(own))]]
            trained[chosen] = other_labels(labels[chosen], classes, draws)
        rows, shown = self._surrogates(protected, others, seed)
        noisy, noisy_labels = [labels[:0]], [labels[:0]]
        if self.surrogate_noise > 0:  # as released, it turns off the other noise too
            draws = generator(seed, "dcd", "noisy labels")
            by = labels if self.chosen_by == "clean" else trained
            for person in protected:
                own = (by == person).nonzero().flatten()
                given = torch.full_like(own, person)
                moved = torch.randperm(len(own), generator=draws)[: part_of(self.noisy_mislabelled, len(own))]
                given[moved] = other_labels(given[moved], classes, draws)
                noisy.append(own)
                noisy_labels.append(given)
        return trained, Appended(
            rows, shown, self.surrogate_noise > 0, torch.cat(noisy), torch.cat(noisy_labels)
        )

    def _surrogates(self, protected: Sequence[int], others: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Rows of the images that are injected and the labels they get, person by person, copy by copy."""
        known = others.unique()[: self.other_people]
        if len(known) < len(protected):
            raise ConfigError(
                f"defense.dcd gives each of {len(protected)} protected people another person in their place, "
                f"and there are {len(known)} other people; raise defense.dcd.other_people or protect fewer"
            )
        order = torch.randperm(len(known), generator=generator(seed, "dcd", "surrogates"))
        of_each = [(others == who).nonzero().flatten() for who in known[order[: len(protected)]]]
        kept = [rows[: self.surrogate_images] for rows in of_each]
        copies = 1
        if self.surrogate_images is not None:
            copies = math.ceil(sum(map(len, of_each)) / (self.surrogate_images * len(protected)))
        pairs = zip(kept, protected, strict=True)
        given = [(rows.repeat(copies), torch.full((copies * len(rows),), person)) for rows, person in pairs]
        return torch.cat([rows for rows, _ in given]), torch.cat([labels for _, labels in given])

    def _others(self, train: ImageSet) -> ImageSet:
        if self._people is None:
            raise ConfigError("defense.dcd needs images of other people and was given none (data.others)")
        ours, theirs = (tuple(one.images.shape[1:]) for one in (train, self._people))
        if ours != theirs:
            raise ConfigError(
                f"defense.dcd puts images of other people of {theirs[-1]} px among private ones of "
                f"{ours[-1]} px; give them one size (data.others.size)"
            )
        return self._people

    def summary(self, trained: Trained) -> Mapping[str, Any]:
        """Whom it protects, and how many images it was trained with."""
        train = trained.train
        protected = self.people(train.num_classes)
        if not protected:
            return {}
        others = self._others(train).labels.cpu()
        labels, added = self.composed(train.labels.cpu(), train.num_classes, others, seed=trained.seed)
        injected = len(added.surrogates)
        return {
            "protected": protected,
            "images": {
                "originals": len(train),
                "mislabelled": int((labels != train.labels.cpu()).sum()),
                "surrogates": injected,
                "noisy_surrogates": injected if added.noisy_surrogates else 0,
                "noisy": len(added.noisy),
            },
        }

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="what a protected label was taught to look like cannot be told from the person by the "
            "network alone, so the attack is the plain one"
        )
