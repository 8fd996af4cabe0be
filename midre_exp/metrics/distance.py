"""Feature distances between reconstructions and the private images of the attacked identity."""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.grouping import distances, rows_of, together


def nearest_private(features: Tensor, labels: Tensor, private: Tensor, private_labels: Tensor) -> Tensor:
    """Smallest squared L2 distance of each reconstruction to a private training image of its own identity:
    float64 [n].

    ``features`` [n, d] with ``labels`` int64 [n]; ``private`` [m, d] with ``private_labels`` int64 [m].
    Raises Unavailable when an attacked identity has no private image.
    """
    classes = labels.unique()
    fakes, is_fake = rows_of(labels, classes)
    reals, is_real = rows_of(private_labels, classes)
    if not bool(is_real.any(1).all()):
        raise Unavailable("an attacked identity has no private training image to compare with")
    nearest = torch.empty(len(labels), dtype=torch.float64)
    for part in together(fakes, reals, features.shape[1]):
        apart = distances(features[fakes[part]].double(), private[reals[part]].double()).square()
        closest = apart.masked_fill(~is_real[part, None], torch.inf).amin(2)
        nearest[fakes[part][is_fake[part]]] = closest[is_fake[part]]
    return nearest


class KnnDistance:
    """KNN distance of LOMMA and PLG-MI: mean over all reconstructions of the smallest squared L2 distance, in
    the evaluator's penultimate features, to the private training images of the attacked identity. Higher is
    safer.
    """

    name = "knn_dist"

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The mean under the class's ``name``. Raises Unavailable when an attacked identity has no private
        image.
        """
        nearest = nearest_private(seen.features, seen.labels, seen.private_features, seen.private_labels)
        return {self.name: float(nearest.mean())}


class EvaluatorDistance(KnnDistance):
    """``delta_eval`` of PPA: the same rule, under the name it has there. PPA's evaluator is an Inception-v3,
    its features the 2048 pooled ones, not normalised. Higher is safer; comparable only between attacks judged
    by the same evaluator.
    """

    name = "delta_eval"
