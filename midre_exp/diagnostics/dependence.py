"""How much the features of a target depend on the image and on the label: HSIC, as BiDO measures it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.diagnostics.base import Finding, Subject, Work
from midre_exp.diagnostics.intervals import flat, measured
from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Unavailable
from midre_exp.plan.ranges import Count, Positive

#: Added to the diagonal before inverting, times the batch size (released code).
RIDGE = 1e-5


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


def nhsic(gram: Tensor, other: Tensor) -> Tensor:
    """What the paper calls HSIC, by its code the normalised cross-covariance: trace(R R'), R = A (A + 1e-5 m
    I)^-1, A = K (I - 1/m).

    ``gram``, ``other``: float64 [..., m, m]; returns [...] between 0 and m - 1. Raises ConfigError for m = 1.
    """
    return nhsic_of(resolvent(gram), resolvent(other))


def rows_centred(gram: Tensor) -> Tensor:
    """K (I - 1/m). Raises ConfigError for m = 1."""
    if gram.shape[-1] < 2:
        raise ConfigError(
            "defense.bido compares the images of a batch and got a batch of one; use batches of several "
            "images"
        )
    return gram - gram.mean(-1, keepdim=True)


def resolvent(gram: Tensor) -> Tensor:
    """R of ``nhsic``."""
    a = rows_centred(gram)
    ridge = RIDGE * a.shape[-1] * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    # A and the inverse commute. Without the check of the solution, for which the host would wait for the
    # device.
    solution: Tensor = torch.linalg.solve_ex(a + ridge, a).result
    return solution


def nhsic_of(r: Tensor, other: Tensor) -> Tensor:
    """The trace of two results of ``resolvent``."""
    return (r * other.mT).sum((-2, -1))


@dataclass(kw_only=True, eq=False)
class Dependence:
    """HSIC(X, Z) and HSIC(Z, Y) of every stage with weights and of the features Z, with the normalised images
    X and the labels Y, in double precision, the mean over batches.

    A value counts, about, the images of a batch that differ: batch size and which images it holds are fixed,
    or two targets could not be compared. Features may depend less on the image and leak as much (AT-AT
    reports that defenses do not lower HSIC).
    """

    part: str  # train | test: which images
    batches: Count  # how many
    batch_size: Count  # images in each (official: 128)
    sigma: Positive  # width of the Gaussian kernels (official: 5)

    def __post_init__(self) -> None:
        if self.part not in ("train", "test"):
            raise ConfigError(f"diagnostics: Dependence part={self.part} is unknown; use train or test")
        if self.batch_size < 2:
            raise ConfigError("diagnostics: Dependence batch_size=1 compares nothing; use 64 or more")

    def __call__(self, subject: Subject) -> Finding:
        count = len(subject.part(self.part)) // self.batch_size
        if not count:
            raise Unavailable(
                f"there are {len(subject.part(self.part))} {self.part} images, less than a batch of "
                f"{self.batch_size}"
            )
        batches = min(count, self.batches)
        chosen = subject.shuffled(self.part)[: batches * self.batch_size].split(self.batch_size)
        taps = list(subject.model.stage_blocks())
        each = [self._of_batch(subject, some, taps) for some in chosen]
        places = [*taps, "features"]
        xz, zy = (torch.stack([found[side] for found in each]) for side in (0, 1))  # [batches, places]
        told = {
            place: {
                "xz": measured(xz[:, number]),
                "zy": measured(zy[:, number]),
            }
            for number, place in enumerate(places)
        }
        means = {"xz": measured(xz.mean(1)), "zy": measured(zy.mean(1))}
        numbers = {**flat("hsic_xz", means["xz"]), **flat("hsic_zy", means["zy"])}
        block = {
            "part": self.part,
            "images": batches * self.batch_size,
            "batch": self.batch_size,
            **means,
            "by_stage": told,
        }
        return Finding(block, numbers)

    def work(self, train: int, test: int) -> Work:
        count = {"train": train, "test": test}[self.part] // self.batch_size
        return Work(min(count, self.batches) * self.batch_size)

    @torch.no_grad()
    def _of_batch(self, subject: Subject, rows: Tensor, taps: list[str]) -> tuple[Tensor, Tensor]:
        images, labels = subject.shown(self.part, rows)
        output = subject.model(images, ("input", *taps))
        hidden = [*(output.taps[name] for name in taps), output.features]
        grams = torch.stack([gaussian_gram(each.double(), sigma=self.sigma) for each in hidden])
        own = resolvent(grams)
        x = resolvent(gaussian_gram(output.taps["input"].double(), sigma=self.sigma))
        targets = F.one_hot(labels, output.logits.shape[1]).double()
        y = resolvent(targets @ targets.T)
        return nhsic_of(own, x).cpu(), nhsic_of(own, y).cpu()
