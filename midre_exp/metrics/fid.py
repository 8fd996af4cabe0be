"""Fréchet distance between reconstructions and the private training images of the attacked identities, in two
feature spaces.

Where nothing else is said, only reconstructions that the evaluator takes for the attacked identity count, as
in LOMMA and PLG-MI: the distance says how alike the pictures are where the attack works. It shrinks with the
number of images, so compare like numbers of them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.inception import InceptionFeatures


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)) of features [n, d] and [m, d], n and m at least 2, in float64.

    A and B are the covariances with n - 1. The trace of the root is the sum of the singular values of the
    cross-Gram matrix of the centred features: exact also with fewer samples than dimensions, and without the
    root of a nearly singular matrix. Not negative. Raises Unavailable for a single sample or features that
    are not finite.
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


def _enough(seen: Evaluation) -> Tensor:
    """Rows of the successful reconstructions. Raises Unavailable when there are fewer than 2."""
    rows = seen.successful.nonzero().squeeze(1)
    if len(rows) < 2:
        raise Unavailable(f"it needs 2 successful reconstructions, the evaluator accepts {len(rows)}")
    return rows


class EvaluatorFid:
    """``fid_evaluator``: the Fréchet distance in the evaluator's penultimate features, which need no further
    weights.

    Comparable only between attacks judged by the same evaluator.
    """

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The distance and ``fid_images``, the number of successful reconstructions behind it."""
        rows = _enough(seen)
        return {
            "fid_evaluator": frechet_distance(seen.features[rows], seen.private_features),
            "fid_images": float(len(rows)),
        }


class Fid:
    """The Fréchet distance in the 2048 pooled features of torchvision's ImageNet Inception-v3.

    Images in [0, 1] of 299 px (bilinear, antialiased), private ones first brought to the size of the
    reconstructions. Comparable only with itself: LOMMA uses TensorFlow's Inception on washed-out images,
    PLG-MI torchvision's on contrast-stretched ones, PPA pytorch-fid's port of TensorFlow's. ``weights``:
    ``imagenet`` for torchvision's, downloaded once (104 MB); a path; or None, which leaves the metric out.
    ``images``: ``successful`` reconstructions as in LOMMA and PLG-MI, or ``all`` (all selected ones) as in
    PPA. ``official_range``: PPA's code hands pictures in [-1, 1] to an extractor that maps [0, 1] to [-1, 1]
    once more, so that its network sees [-3, 1]; True repeats this. The number is ``fid`` for successful ones,
    ``fid_all`` for all, ``fid_ppa`` for all in the official range, ``fid_ppa_successful`` for the fourth.
    """

    def __init__(
        self,
        *,
        weights: str | None,
        images: Literal["successful", "all"] = "successful",
        official_range: bool = False,
    ):
        if images not in ("successful", "all"):
            raise ConfigError(f"metrics: Fid images={images} is unknown; use successful or all")
        self.features = InceptionFeatures(weights=weights, official_range=official_range)
        self.images = images
        self.name = {
            ("successful", False): "fid",
            ("all", False): "fid_all",
            ("all", True): "fid_ppa",
            ("successful", True): "fid_ppa_successful",
        }[images, official_range]

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The distance. Raises Unavailable without weights and with fewer than 2 reconstructions that count."""
        self.features.check(f"metrics.measure.{self.name}.weights")
        rows = _enough(seen) if self.images == "successful" else None
        if rows is None and len(seen.labels) < 2:
            raise Unavailable(f"it needs 2 reconstructions, there are {len(seen.labels)}")
        return {self.name: frechet_distance(self.features.fake(seen, rows), self.features.private(seen))}
