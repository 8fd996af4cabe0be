"""What BiDO and BiDO+ share: hidden layers shall depend little on the image and much on the label.

Dependence is measured between the images of a batch, on matrices of kernel values, so a batch holds several
images of each of few identities: shuffled batches of many classes would have nearly no two images of one
class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from defenses.base import Batch, Classify, Defense, Sampler, TrainingProgress
from defenses.parts.options import check_choice
from midre_exp.diagnostics.dependence import gaussian_gram as gaussian_gram
from midre_exp.diagnostics.dependence import nhsic as nhsic
from midre_exp.diagnostics.dependence import nhsic_of, resolvent, rows_centred, squared_distances
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, LearningRate, Natural, NonNegative, Positive
from midre_exp.seeding import generator
from midre_exp.targets.base import Classifier, Output

LABEL_KERNELS = ("linear", "gaussian", "imq")
TRAININGS = ("own", "shared")


def label_gram(targets: Tensor, *, kernel: str, sigma: float) -> Tensor:
    """Kernel values between labels, float64 [m, m]. ``targets`` [m, k]: one-hot or mixed labels.

    ``linear``: inner products; ``gaussian``: as for images; ``imq``: 1 / sqrt(D + 1). Raises ConfigError for
    another kernel.
    """
    targets = targets.double()
    if kernel == "linear":
        return targets @ targets.T
    if kernel == "gaussian":
        return gaussian_gram(targets, sigma=sigma)
    if kernel == "imq":
        return (squared_distances(targets) + 1).rsqrt()
    raise ConfigError(f"defense.bido.label_kernel={kernel} is unknown; use one of {', '.join(LABEL_KERNELS)}")


def coco(gram: Tensor, other: Tensor) -> Tensor:
    """COCO as released: sqrt of the Frobenius norm (in the textbook the largest singular value) of
    (HKH)(HLH), over m.

    ``gram``, ``other``: float64 [..., m, m]; returns [...] >= 0. Raises ConfigError for m = 1.
    """
    return _coco_of(_centred(gram), _centred(other))


def _centred(gram: Tensor) -> Tensor:
    a = rows_centred(gram)
    return a - a.mean(-2, keepdim=True)


def _coco_of(a: Tensor, other: Tensor) -> Tensor:
    # The fourth root has no slope at 0, where all images of a batch look alike to a collapsed layer.
    return (a @ other).square().sum((-2, -1)).clamp(min=1e-60) ** 0.25 / a.shape[-1]


#: Each measure as what is done once to every matrix, and what is done to a pair of results.
MEASURES: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "hsic": (resolvent, nhsic_of),
    "coco": (_centred, _coco_of),
}


class IdentityBatches:
    """Batches of ``identities`` different identities with ``images`` images each; a pure function of (seed,
    epoch).

    In each epoch the images of an identity are shuffled and cut into groups of ``images``; what is left of it
    waits, so over the epochs all images take turns. Each batch takes one group from the identities that have
    the most groups left, ties broken at random, until too few identities have any. No image comes twice in an
    epoch, and no choice gives more batches; their order is random. Raises ConfigError when the labels do not
    fill a single batch.
    """

    def __init__(self, labels: Tensor, *, identities: int, images: int, seed: int, name: str = "bido"):
        """``name``: of the defense, in mistakes."""
        self.labels = labels.cpu()
        self.identities = identities
        self.images = images
        self.seed = seed
        self.counts = self.labels.bincount()
        if (able := int((self.counts >= images).sum())) < identities:
            raise ConfigError(
                f"defense.{name} fills a batch with {images} images each of {identities} identities, but the "
                f"training set has only {able} identities with that many images; lower "
                f"defense.{name}.ids_per_batch or images_per_id"
            )

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The batches of one epoch, each int64 [identities * images]."""
        random = generator(self.seed, "identity batches", epoch)
        order = torch.randperm(len(self.labels), generator=random)
        order = order[self.labels[order].argsort(stable=True)]  # by identity, shuffled within
        first = self.counts.cumsum(0) - self.counts
        groups = self.counts // self.images
        taken = torch.zeros_like(groups)
        chosen = []
        while True:
            left = groups - taken
            ties = torch.rand(len(left), generator=random, dtype=torch.float64)
            some = (left + ties).topk(self.identities).indices
            if not bool((left[some] > 0).all()):
                break
            chosen.append(first[some] + self.images * taken[some])
            taken[some] += 1
        places = torch.stack(chosen)[:, :, None] + torch.arange(self.images)
        served = order[places.flatten(1)]
        return list(served[torch.randperm(len(served), generator=random)])


@dataclass(kw_only=True, eq=False)
class DependenceLosses(Defense):
    """The terms sum_Z lambda_x d(X, Z) - lambda_y d(Z, Y) beside the base loss, on batches of several images
    of each of few identities.

    X is the normalised batch, Y its labels, Z the output of a hidden layer, d the dependence.
    """

    couples_images = True
    name: ClassVar[str]  # of its options in mistakes

    measure: str  # hsic | coco: the dependence d
    lambda_x: NonNegative  # weight of d(X, Z), >= 0
    lambda_y: NonNegative  # weight of d(Z, Y), >= 0; both 0 is no defense, but for the batches
    stages: Sequence[str] | None  # taps whose output is a Z; None: every stage with weights but the stem
    sigma: Positive  # > 0, width of the Gaussian kernels, in root mean squared distances per number
    label_kernel: str  # linear | gaussian | imq, see label_gram
    images_per_id: Count  # a batch holds so many images of each of its identities
    ids_per_batch: Count | None  # how many identities; None: as many as fill the recipe's batch size
    training: str  # own: Adam and what follows | shared: as the target says
    lr: LearningRate  # of Adam
    weight_decay: NonNegative  # of Adam
    epochs: Count  # of the training
    batch_size: Count  # images, where ids_per_batch is None
    milestones: Sequence[Natural]  # epochs at which the rate falls by gamma
    gamma: Positive  # factor of the rate at each milestone

    def __post_init__(self) -> None:
        check_choice(f"{self.name}.measure", self.measure, MEASURES)
        check_choice(f"{self.name}.label_kernel", self.label_kernel, LABEL_KERNELS)
        check_choice(f"{self.name}.training", self.training, TRAININGS)
        if self.stages is not None and not self.stages:
            raise ConfigError(f"defense.{self.name}.stages is empty; name at least one stage of the target")
        for key in ("lambda_x", "lambda_y", "sigma"):
            number = getattr(self, key)
            if not isinstance(number, (int, float)) or not 0 <= number < math.inf:
                raise ConfigError(f"defense.{self.name}.{key}={number} must be a number from 0 on")
        if self.sigma == 0:
            raise ConfigError(
                f"defense.{self.name}.sigma=0 gives the kernels no width; the published value is 5"
            )
        for key in ("images_per_id", "ids_per_batch"):
            count = getattr(self, key)
            if (count is not None or key == "images_per_id") and (not isinstance(count, int) or count < 1):
                raise ConfigError(f"defense.{self.name}.{key}={count} must be a whole number of at least 1")
        self.exclusive = frozenset({"sampler"} if self.training == "shared" else {"sampler", "optimizer"})
        self._layers = tuple(self.stages or ())

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        """Identity-balanced batches; an incomplete one is always left out, because the measures scale with
        its size.
        """
        identities = self.ids_per_batch or batch_size // self.images_per_id
        if identities * self.images_per_id < 2:
            raise ConfigError(
                f"defense.{self.name}.images_per_id={self.images_per_id} makes no batch of several images "
                f"from recipe.batch_size={batch_size}; lower it, or set defense.{self.name}.ids_per_batch"
            )
        return IdentityBatches(
            labels, identities=identities, images=self.images_per_id, seed=seed, name=self.name
        )

    def taps(self, model: Classifier) -> Sequence[str]:
        """The layers, and the network's input where it counts."""
        if not (self.lambda_x or self.lambda_y):
            return ()
        if self.stages is None:
            known = list(model.stage_blocks())
            self._layers = tuple(name for name in known if name != "stem") or tuple(known)
        return ("input", *self._layers) if self.lambda_x else self._layers

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe with BiDO's own optimiser, schedule, length and batches, or as it is with ``shared``."""
        if self.training == "shared":
            return recipe
        ids, images = self.ids_per_batch, self.images_per_id
        return {
            **recipe,
            "epochs": self.epochs,
            "batch_size": self.batch_size if ids is None else ids * images,
            "drop_last": True,
            "optimizer": {"_target_": "torch.optim.Adam", "lr": self.lr, "weight_decay": self.weight_decay},
            "scheduler": {
                "_target_": "torch.optim.lr_scheduler.MultiStepLR",
                "milestones": list(self.milestones),
                "gamma": self.gamma,
            },
        }

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """Two terms for each layer, ``x_<stage>`` and ``y_<stage>``; those of a zero weight are left out.

        The sign of collapse is ``x_<stage>`` falling to 0. Labels mixed by another defense enter as they are
        mixed.
        """
        if not (self.lambda_x or self.lambda_y):
            return {}
        prepare, compare = MEASURES[self.measure]
        hidden = prepare(
            torch.stack([gaussian_gram(output.taps[stage], sigma=self.sigma) for stage in self._layers])
        )
        terms = {}
        if self.lambda_x:
            images = gaussian_gram(output.taps["input"], sigma=self.sigma)
            terms["x"] = self.lambda_x * compare(hidden, prepare(images))
        if self.lambda_y:
            soft = batch.soft_labels
            targets = F.one_hot(batch.labels, output.logits.shape[1]) if soft is None else soft
            labels = label_gram(targets, kernel=self.label_kernel, sigma=self.sigma)
            terms["y"] = -self.lambda_y * compare(hidden, prepare(labels))
        return {
            f"{side}_{stage}": value
            for side, values in terms.items()
            for stage, value in zip(self._layers, values.float(), strict=True)
        }
