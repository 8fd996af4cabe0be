"""Fréchet distance between reconstructions and the private training images of the attacked identities, in
two feature spaces.

Where nothing else is said, only reconstructions that the evaluator takes for the attacked identity count, as
in LOMMA and PLG-MI: the distance says how alike the images are where the attack works. It shrinks with the
number of images, so compare like numbers of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.extractors import Extractor
from midre_exp.metrics.inception import InceptionFeatures, Program


class Cloud(NamedTuple):
    """What a Fréchet distance knows of features [n, d]: their ``mean`` [d] and a ``root`` [at most d, d] of
    their covariance, float64.
    """

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Cloud:
        """Raises Unavailable for a single sample or features that are not finite."""
        if len(features) < 2:
            raise Unavailable("a Fréchet distance needs at least 2 images on either side")
        if not bool(features.isfinite().all()):
            raise Unavailable("some features are not finite")
        exact = features.double()
        mean = exact.mean(0)
        centred = (exact - mean) / (len(exact) - 1) ** 0.5
        # R of the QR decomposition has the covariance of the features in at most d rows.
        return cls(mean, torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred)


def frechet_distance(features_a: Tensor | Cloud, features_b: Tensor | Cloud) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) of features [n, d] and [m, d], n and m at least 2, or
    of their clouds.

    Computed in float64. A and B are the covariances with n - 1. The trace of the root is the sum of the
    singular values of the cross-Gram matrix of the centred features: exact also with fewer samples than
    dimensions, and without the root of a nearly singular matrix. Not negative. Raises Unavailable as
    ``Cloud.of``.
    """
    a, b = (side if isinstance(side, Cloud) else Cloud.of(side) for side in (features_a, features_b))
    means = (a.mean - b.mean).square().sum()
    traces = a.root.square().sum() + b.root.square().sum()
    cross = torch.linalg.svdvals(a.root @ b.root.T).sum()
    return float((means + traces - 2 * cross).clamp(min=0))  # of equal features rounding leaves -1e-13


def cloud(evaluation: Evaluation, extractor: Extractor, features: Callable[[], Tensor]) -> Cloud:
    """That of the private images, as computed before for all attacks, or now of their ``features``."""
    names = ("mean", extractor), ("root", extractor)
    if not all(name in evaluation.shared for name in names):
        evaluation.shared.update(zip(names, Cloud.of(features()), strict=True))
    return Cloud(*(evaluation.shared[name] for name in names))


def _enough(evaluation: Evaluation) -> Tensor:
    """Rows of the successful reconstructions. Raises Unavailable when there are fewer than 2."""
    rows = evaluation.successful.nonzero().squeeze(1)
    if len(rows) < 2:
        raise Unavailable(f"it needs 2 successful reconstructions, the evaluator accepts {len(rows)}")
    return rows


class EvaluatorFid:
    """``fid_evaluator``: the Fréchet distance in the evaluator's penultimate features, which need no further
    weights.

    Comparable only between attacks with the same evaluator.
    """

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The distance and ``fid_images``, the number of successful reconstructions behind it."""
        rows = _enough(evaluation)
        features, private = evaluation.feature_sets()
        known = cloud(evaluation, Extractor("evaluator"), lambda: private)
        return {
            "fid_evaluator": frechet_distance(features[rows], known),
            "fid_images": float(len(rows)),
        }


@dataclass(kw_only=True, eq=False)
class Fid:
    """The Fréchet distance in the 2048 pooled features of torchvision's ImageNet Inception-v3.

    Images in [0, 1] of 299 px (bilinear, antialiased), private ones first brought to the size of the
    reconstructions. Comparable only with itself: LOMMA uses TensorFlow's Inception on washed-out images,
    PLG-MI torchvision's on contrast-stretched ones, PPA pytorch-fid's port of TensorFlow's. The number is
    ``fid`` for successful reconstructions, ``fid_all`` for all, ``fid_ppa`` for all in the official range,
    ``fid_ppa_successful`` for the fourth.
    """

    weights: str | None  # imagenet: torchvision's, downloaded once (104 MB) | a path | None: not measured
    images: Literal["successful", "all"] = "successful"  # as LOMMA and PLG-MI | all selected ones, as PPA
    #: PPA's code hands images in [-1, 1] to an extractor that maps [0, 1] to [-1, 1] once more, so that its
    #: network sees [-3, 1]; True repeats this.
    official_range: bool = False

    def __post_init__(self) -> None:
        if self.images not in ("successful", "all"):
            raise ConfigError(f"metrics: Fid images={self.images} is unknown; use successful or all")
        self.inception = InceptionFeatures(weights=self.weights, official_range=self.official_range)
        self.name = {
            ("successful", False): "fid",
            ("all", False): "fid_all",
            ("all", True): "fid_ppa",
            ("successful", True): "fid_ppa_successful",
        }[self.images, self.official_range]

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The distance. Raises Unavailable without weights and with fewer than 2 reconstructions that
        count.
        """
        self.inception.check(f"metrics.measure.{self.name}.weights")
        rows = _enough(evaluation) if self.images == "successful" else None
        if rows is None and len(evaluation.labels) < 2:
            raise Unavailable(f"it needs 2 reconstructions, there are {len(evaluation.labels)}")
        fake = self.inception.fake(evaluation, rows)
        known = cloud(evaluation, self.inception.extractor, lambda: self.inception.private(evaluation))
        return {self.name: frechet_distance(fake, known)}


@dataclass(kw_only=True, eq=False)
class OfficialFid:
    """The Fréchet distance as an official program computes it (``InceptionFeatures``), to stand beside its
    published numbers: ``fid_ppa_official`` over all selected reconstructions, ``fid_lomma_official`` and
    ``fid_plgmi_official`` over the successful ones. Not comparable with each other.
    """

    #: ppa, lomma: pytorch_fid, the release file of that project in the folder ``checkpoints`` of torch's hub
    #: (``TORCH_HOME``), where it must be put by hand | its path. plgmi: imagenet, torchvision's, downloaded
    #: once (104 MB) | a path. None: not measured
    weights: str | None
    program: Program  # ppa | lomma | plgmi

    #: The config key that chooses the weights.
    _KEYS: ClassVar[dict[str, str]] = {
        "ppa": "fid_weights",
        "lomma": "fid_weights",
        "plgmi": "inception_weights",
    }

    def __post_init__(self) -> None:
        if self.program not in self._KEYS:
            known = ", ".join(filter(None, get_args(Program)))
            raise ConfigError(f"metrics: OfficialFid program={self.program} is unknown; use one of {known}")
        self.inception = InceptionFeatures(weights=self.weights, program=self.program)

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The distance. Raises Unavailable without weights and with fewer than 2 reconstructions that
        count.
        """
        key = self._KEYS[self.program]
        self.inception.check(f"metrics.measure.fid_{self.program}.weights ({key})")
        rows = None if self.program == "ppa" else _enough(evaluation)
        if rows is None and len(evaluation.labels) < 2:
            raise Unavailable(f"it needs 2 reconstructions, there are {len(evaluation.labels)}")
        fake = self.inception.fake(evaluation, rows)
        known = cloud(evaluation, self.inception.extractor, lambda: self.inception.private(evaluation))
        return {f"fid_{self.program}_official": frechet_distance(fake, known)}
