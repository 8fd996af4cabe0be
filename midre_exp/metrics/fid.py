"""Fréchet distance between reconstructions and the private training images of the attacked identities, in
two feature spaces.

Where nothing else is said, only reconstructions that the evaluator takes for the attacked identity count, as
in LOMMA and PLG-MI: the distance says how alike the images are where the attack works. It shrinks with the
number of images, so compare like numbers of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.inception import InceptionFeatures


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) of features [n, d] and [m, d], n and m at least 2.

    Computed in float64. A and B are the covariances with n - 1. The trace of the root is the sum of the
    singular values of the cross-Gram matrix of the centred features: exact also with fewer samples than
    dimensions, and without the root of a nearly singular matrix. Not negative. Raises Unavailable for a
    single sample or features that are not finite.
    """
    if min(len(features_a), len(features_b)) < 2:
        raise Unavailable("a Fréchet distance needs at least 2 images on either side")
    roots = []
    for features in (features_a.double(), features_b.double()):
        if not bool(features.isfinite().all()):
            raise Unavailable("some features are not finite")
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        # R of the QR decomposition has the covariance of the features in at most d rows.
        roots.append(torch.linalg.qr(centred, mode="r").R if len(centred) > centred.shape[1] else centred)
    root_a, root_b = roots
    means = (features_a.double().mean(0) - features_b.double().mean(0)).square().sum()
    traces = root_a.square().sum() + root_b.square().sum()
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return float((means + traces - 2 * cross).clamp(min=0))  # of equal features rounding leaves -1e-13


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
        return {
            "fid_evaluator": frechet_distance(features[rows], private),
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
        return {
            self.name: frechet_distance(
                self.inception.fake(evaluation, rows), self.inception.private(evaluation)
            )
        }
