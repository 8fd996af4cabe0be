"""CutMix: a box of every training image shows another image of the batch, and the labels mix by area (Yun et
al. 2019; MIDRE Table 4).

Batch transforms act in the order of the defense list. List an erasing defense after this one: the mixed image
is erased then, which is closest to the released order, where erasing comes last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.base import Batch, Defense, Informed, PictureView, TrainingProgress
from defenses.parts.options import check_flag
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Positive, Probability
from midre_exp.seeding import ItemRNG, moved
from midre_exp.targets.base import Classifier


def symmetric_beta(alpha: float, radius: Tensor, angle: Tensor) -> Tensor:
    """Beta(alpha, alpha) from two independent uniform numbers in [0, 1) of one shape; exact for every alpha >
    0.

    z = sqrt(radius^(-1/alpha) - 1) cos(2 pi angle) is Student's t with 2 alpha degrees of freedom over sqrt(2
    alpha) (Bailey 1994), and (1 + z / sqrt(1 + z^2)) / 2 then has the law asked for. No rejection, so the
    host never waits for the device.
    """
    log_power = radius.log() / alpha
    cosine = (2 * math.pi * angle).cos()
    # Both sides of the fraction times radius^(1/alpha), which may be 0 where z would overflow.
    squared = -log_power.expm1() * cosine**2
    return (1 + cosine.sign() * (squared / (log_power.exp() + squared)).sqrt()) / 2


def sample_boxes(
    n: int, height: int, width: int, *, alpha: float, p: float, per_batch: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One box per image by the law of ``boxes``, (top, bottom, left, right), each int64 [n] on the CPU."""
    numbers = torch.rand(5, 1 if per_batch else n, generator=generator).expand(5, n)
    return boxes(numbers, height, width, alpha=alpha, p=p)


def boxes(
    numbers: Tensor, height: int, width: int, *, alpha: float, p: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One box per column of ``numbers`` [5, n], uniform in [0, 1): (top, bottom, left, right), each int64
    [n]; bottom and right lie outside the box.

    Each side is sqrt(1 - lambda) of the image's, lambda from Beta(alpha, alpha), in whole pixels from the
    centre, which is uniform in the image; what leaves the image is cut off. With probability 1 - p a box is
    empty.
    """
    radius, angle, down, right, chance = numbers
    reach = (1 - symmetric_beta(alpha, radius, angle)).sqrt() / 2 * (chance < p)
    edges = []
    for place, length in ((down, height), (right, width)):
        centre, half = (place * length).long(), (reach * length).long()
        edges += [(centre - half).clamp(min=0), (centre + half).clamp(max=length)]
    return edges[0], edges[1], edges[2], edges[3]


def paste_boxes(
    images: Tensor, others: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor
) -> tuple[Tensor, Tensor]:
    """``images`` [n, c, h, w] showing ``others`` in the boxes (int64 [n] each), and the share of each that
    stays visible, float32 [n].
    """
    height, width = images.shape[-2:]
    row, column = (torch.arange(length, device=images.device) for length in (height, width))
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    mixed = torch.where(rows[:, None, :, None] & columns[:, None, None, :], others, images)
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


@dataclass(kw_only=True, eq=False)
class CutMix(Defense):
    """CutMix (Yun et al. 2019): x_a outside a box, x_b within it, labels l y_a + (1 - l) y_b; l is the
    visible share, of law Beta(alpha, alpha) but for what the border cuts off.
    """

    couples_images = True

    alpha: Positive  # of the Beta law, > 0; 1 makes the share uniform
    p: Probability  # probability of mixing; 0 is no defense
    per_batch: bool  # one box, and one decision by p, for the whole batch instead of one for each image
    num_classes: int | None = field(init=False, default=None)  # of the data, noted in on_dataset

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, (int, float)) or not 0 < self.alpha < math.inf:
            raise ConfigError(
                f"defense.cutmix.alpha={self.alpha} must be a positive number; 1 makes the share uniform"
            )
        if not isinstance(self.p, (int, float)) or not 0 <= self.p <= 1:
            raise ConfigError(f"defense.cutmix.p={self.p} is no probability; give a number from 0 to 1")
        check_flag("cutmix.per_batch", self.per_batch)

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        """Note how many classes the data has: the width of the soft labels, whatever head another defense
        gives the model.
        """
        self.num_classes = train.num_classes
        return train

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Mix each image with another of the batch, found by one random permutation.

        ``soft_labels`` [n, k] weigh the classes by their visible area (images that came with soft labels pass
        on both of theirs); ``labels`` become the classes with the largest weight, which is what a training
        accuracy can be counted against.
        """
        if self.p == 0:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        if self.num_classes is None:
            raise RuntimeError("CutMix learns the number of classes in on_dataset, which was not called")
        n, _, height, width = batch.images.shape
        drawn = sample_boxes(
            n, height, width, alpha=self.alpha, p=self.p, per_batch=self.per_batch, generator=generator
        )
        edges = [moved(edge, batch.images.device) for edge in drawn]
        # Sorting noise permutes without the host reading anything back.
        partner = moved(torch.rand(n, generator=generator).argsort(), batch.images.device)
        images, visible = paste_boxes(batch.images, batch.images[partner], *edges)
        own = batch.soft_labels
        if own is None:
            own = F.one_hot(batch.labels, self.num_classes).float()
        soft = own[partner].lerp(own, visible[:, None].to(own))
        erased = batch.erased
        if erased is not None:
            erased, _ = paste_boxes(erased, erased[partner], *edges)
        return replace(batch, images=images, labels=soft.argmax(1), soft_labels=soft, erased=erased)

    def informed(self, model: Classifier) -> Informed:
        if self.p == 0:
            return Informed(reason="nothing is mixed, so the attack is the plain one")
        return Informed(
            views=(PastedView(self),),
            reason="the target has seen faces with a box of another face, so boxes of random pictures of the "
            "prior are pasted by the same law",
        )


class PastedView(PictureView):
    """A box of a random picture of the attacker's prior in every image, each image's by its own stream.

    The attacker has no private images to mix, and another image of its batch would make an item depend on its
    company. The loss goes on asking for the item's label, however little of the item stays visible.
    """

    def __init__(self, defense: CutMix):
        self.defense = defense

    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """As ``View``."""
        if self.pictures is None:
            raise RuntimeError("an attack draws pictures in prepare, which was not called")
        numbers = rng.uniform(f"{name} box", 5, step=step).T
        edges = boxes(numbers, *images.shape[-2:], alpha=self.defense.alpha, p=self.defense.p)
        chosen = (len(self.pictures) * rng.uniform(f"{name} picture", 1, step=step)[:, 0]).long()
        return paste_boxes(images, self.pictures.to(images)[chosen], *edges)[0]

    def __repr__(self) -> str:
        return f"{self.defense.label} with pictures of the prior"
