"""BiDO: hidden layers shall depend little on the image and much on the label (Peng et al. 2022).

Dependence is measured between the images of a batch, on matrices of kernel values, so a batch holds several
images of each of few identities: shuffled batches of many classes would have nearly no two images of one
class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.defense import Batch, Defense, Sampler, TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.seeding import generator
from midre_exp.targets.base import Classifier, Output

#: Added to the diagonal before inverting, times the batch size (released code).
RIDGE = 1e-5
LABEL_KERNELS = ("linear", "gaussian", "imq")
RECIPES = ("own", "shared")


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows of ``x`` [m, ...], flattened: [m, m] >= 0, at least in
    single precision.
    """
    rows = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    with torch.autocast(x.device.type, enabled=False):
        rows = rows - rows.detach().mean(0)  # changes no distance, and the differences below cancel less
        products = rows @ rows.T
    lengths = products.diagonal()
    return (lengths[:, None] + lengths - 2 * products).abs()


def gaussian_gram(x: Tensor, *, sigma: float) -> Tensor:
    """exp(-D / (2 sigma^2 d)) with D the squared distances between the rows of ``x`` [m, ...] of d numbers
    each; float64 [m, m].
    """
    return (-squared_distances(x).double() / (2 * sigma**2 * x[0].numel())).exp()


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


def nhsic(gram: Tensor, other: Tensor) -> Tensor:
    """What the paper calls HSIC, by its code the normalised cross-covariance: trace(R R'), R = A (A + 1e-5 m
    I)^-1, A = K (I - 1/m).

    ``gram``, ``other``: float64 [..., m, m]; returns [...] between 0 and m - 1. Raises ConfigError for m = 1.
    """
    return _nhsic_of(_resolvent(gram), _resolvent(other))


def coco(gram: Tensor, other: Tensor) -> Tensor:
    """COCO as released: sqrt of the Frobenius norm (in the textbook the largest singular value) of
    (HKH)(HLH), over m.

    ``gram``, ``other``: float64 [..., m, m]; returns [...] >= 0. Raises ConfigError for m = 1.
    """
    return _coco_of(_centred(gram), _centred(other))


def _rows_centred(gram: Tensor) -> Tensor:
    if gram.shape[-1] < 2:
        raise ConfigError(
            "defense.bido compares the images of a batch and got a batch of one; use batches of several images"
        )
    return gram - gram.mean(-1, keepdim=True)


def _resolvent(gram: Tensor) -> Tensor:
    a = _rows_centred(gram)
    ridge = RIDGE * a.shape[-1] * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    # A and the inverse commute. Without the check of the solution, for which the host would wait for the
    # device.
    solution: Tensor = torch.linalg.solve_ex(a + ridge, a).result
    return solution


def _nhsic_of(r: Tensor, other: Tensor) -> Tensor:
    return (r * other.mT).sum((-2, -1))


def _centred(gram: Tensor) -> Tensor:
    a = _rows_centred(gram)
    return a - a.mean(-2, keepdim=True)


def _coco_of(a: Tensor, other: Tensor) -> Tensor:
    # The fourth root has no slope at 0, where all images of a batch look alike to a collapsed layer.
    return (a @ other).square().sum((-2, -1)).clamp(min=1e-60) ** 0.25 / a.shape[-1]


#: Each measure as what is done once to every matrix, and what is done to a pair of results.
MEASURES: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "hsic": (_resolvent, _nhsic_of),
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

    def __init__(self, labels: Tensor, *, identities: int, images: int, seed: int):
        self.labels = labels.cpu()
        self.identities = identities
        self.images = images
        self.seed = seed
        self.counts = self.labels.bincount()
        if (able := int((self.counts >= images).sum())) < identities:
            raise ConfigError(
                f"defense.bido fills a batch with {images} images each of {identities} identities, but the training set has "
                f"only {able} identities with that many images; lower defense.bido.ids_per_batch or images_per_id"
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


class BiDO(Defense):
    """Bilateral dependency optimisation (Peng et al. 2022).

    Adds lambda_x d(X, Z) - lambda_y d(Z, Y) for every tapped layer Z, X the normalised batch and Y its
    labels. ``measure``: ``hsic`` or ``coco``; ``lambda_x``, ``lambda_y`` >= 0 and ``taps`` (stages of the
    target): None takes the entry for ``target`` of the mapping beside them; ``sigma`` > 0: width of the
    Gaussian kernels; ``label_kernel``: see ``label_gram``. ``images_per_id`` and ``ids_per_batch`` shape the
    batches; None fills the recipe's batch size. ``recipe``: ``own`` trains with Adam at ``lr`` and what
    follows, ``shared`` as the target says. Raises ConfigError for a value outside these and for a target
    without an entry.
    """

    couples_images = True

    def __init__(
        self,
        *,
        target: str,
        measure: str,
        lambda_x: float | None,
        lambda_y: float | None,
        lambdas_by_target: Mapping[str, Sequence[float]],
        taps: Sequence[str] | None,
        taps_by_target: Mapping[str, Sequence[str]],
        sigma: float,
        label_kernel: str,
        images_per_id: int,
        ids_per_batch: int | None,
        recipe: str,
        lr: float,
        weight_decay: float,
        epochs: int,
        batch_size: int,
        milestones: Sequence[int],
        gamma: float,
    ):
        for key, value, accepted in (
            ("measure", measure, tuple(MEASURES)),
            ("label_kernel", label_kernel, LABEL_KERNELS),
            ("recipe", recipe, RECIPES),
        ):
            if value not in accepted:
                raise ConfigError(f"defense.bido.{key}={value} is unknown; use one of {', '.join(accepted)}")
        for key, given, table in (
            ("lambda_x", lambda_x, lambdas_by_target),
            ("lambda_y", lambda_y, lambdas_by_target),
            ("taps", taps, taps_by_target),
        ):
            if given is None and target not in table:
                raise ConfigError(
                    f"defense.bido.{key} has no default for target {target}; set defense.bido.{key}"
                )
        self.lambda_x, self.lambda_y = (
            lambdas_by_target[target][place] if given is None else given
            for place, given in enumerate((lambda_x, lambda_y))
        )
        self.stages = tuple(taps_by_target[target] if taps is None else taps)
        self.by_target = taps is None
        if not self.stages:
            raise ConfigError("defense.bido.taps is empty; name at least one stage of the target")
        for key, number in (("lambda_x", self.lambda_x), ("lambda_y", self.lambda_y), ("sigma", sigma)):
            if not isinstance(number, (int, float)) or not 0 <= number < math.inf:
                raise ConfigError(f"defense.bido.{key}={number} must be a number from 0 on")
        if sigma == 0:
            raise ConfigError("defense.bido.sigma=0 gives the kernels no width; the published value is 5")
        for key, count in (
            ("images_per_id", images_per_id),
            ("ids_per_batch", 1 if ids_per_batch is None else ids_per_batch),
        ):
            if not isinstance(count, int) or count < 1:
                raise ConfigError(f"defense.bido.{key}={count} must be a whole number of at least 1")
        self.measure = measure
        self.sigma = sigma
        self.label_kernel = label_kernel
        self.images_per_id = images_per_id
        self.ids_per_batch = ids_per_batch
        self.own_recipe = (
            None
            if recipe == "shared"
            else {
                "epochs": epochs,
                "batch_size": batch_size if ids_per_batch is None else ids_per_batch * images_per_id,
                "drop_last": True,
                "optimizer": {"_target_": "torch.optim.Adam", "lr": lr, "weight_decay": weight_decay},
                "scheduler": {
                    "_target_": "torch.optim.lr_scheduler.MultiStepLR",
                    "milestones": list(milestones),
                    "gamma": gamma,
                },
            }
        )
        self.exclusive = frozenset({"sampler"} if recipe == "shared" else {"sampler", "optimizer"})  # type: ignore[misc]  # by option

    @property
    def label(self) -> str:
        """``BiDO-HSIC`` or ``BiDO-COCO`` with lambda_x and lambda_y."""
        return f"BiDO-{self.measure.upper()} [{self.lambda_x:g}, {self.lambda_y:g}]"

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        """Identity-balanced batches; an incomplete one is always left out, because the measures scale with
        its size.
        """
        identities = self.ids_per_batch or batch_size // self.images_per_id
        if identities * self.images_per_id < 2:
            raise ConfigError(
                f"defense.bido.images_per_id={self.images_per_id} makes no batch of several images from recipe.batch_size={batch_size}; "
                "lower it, or set defense.bido.ids_per_batch"
            )
        return IdentityBatches(labels, identities=identities, images=self.images_per_id, seed=seed)

    def taps(self, model: Classifier) -> Sequence[str]:
        """The layers, and the network's input where it counts. Of a target's default layers those that a
        reduced network has.
        """
        if not (self.lambda_x or self.lambda_y):
            return ()
        if self.by_target:
            known = {name for name, _ in model.stages()}
            self.stages = tuple(stage for stage in self.stages if stage in known) or self.stages
        return ("input", *self.stages) if self.lambda_x else self.stages

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe with BiDO's own optimiser, schedule, length and batches, or as it is with ``shared``."""
        return recipe if self.own_recipe is None else {**recipe, **self.own_recipe}

    def extra_losses(self, output: Output, batch: Batch, progress: TrainingProgress) -> Mapping[str, Tensor]:
        """Two terms for each layer, ``x_<stage>`` and ``y_<stage>``; those of a zero weight are left out.

        The sign of collapse is ``x_<stage>`` falling to 0. Labels mixed by another defense enter as they are
        mixed.
        """
        if not (self.lambda_x or self.lambda_y):
            return {}
        prepare, compare = MEASURES[self.measure]
        hidden = prepare(
            torch.stack([gaussian_gram(output.taps[stage], sigma=self.sigma) for stage in self.stages])
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
            for stage, value in zip(self.stages, values.float(), strict=True)
        }
