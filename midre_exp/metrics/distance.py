"""Feature distances between reconstructions and the private images of the attacked identity."""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.metrics.base import Evaluation, Unavailable


def nearest_private(features: Tensor, labels: Tensor, private: Tensor, private_labels: Tensor) -> Tensor:
    """Smallest squared L2 distance of each reconstruction to a private training image of its own identity: float64 [n].

    Raises Unavailable when an attacked identity has no private image.
    """
    distances = torch.cdist(
        features.double(), private.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    other = labels[:, None] != private_labels[None, :]
    nearest: Tensor = distances.masked_fill(other, float("inf")).amin(1)
    if not bool(nearest.isfinite().all()):
        raise Unavailable("an attacked identity has no private training image to compare with")
    return nearest


class KnnDistance:
    """KNN distance of LOMMA and PLG-MI: mean over all reconstructions of the smallest squared L2 distance, in the evaluator's penultimate
    features, to the private training images of the attacked identity. Higher is safer.
    """

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """``knn_dist``."""
        nearest = nearest_private(seen.features, seen.labels, seen.private_features, seen.private_labels)
        return {"knn_dist": float(nearest.mean())}
