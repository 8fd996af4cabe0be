"""Feature distances between reconstructions and the private images of the attacked identity."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.grouping import distances, rows_of, together


def knn_distance(features: Tensor, labels: Tensor, private: Tensor, private_labels: Tensor) -> float:
    """Mean over reconstructions of ``nearest_private``, the KNN distance of LOMMA and PLG-MI; higher is
    safer.
    """
    return float(nearest_private(features, labels, private, private_labels).mean())


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
    """``knn_dist`` of LOMMA and PLG-MI: ``knn_distance`` in the evaluator's penultimate features."""

    name: ClassVar[str] = "knn_dist"

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The mean under the class's ``name``. Raises Unavailable when an attacked identity has no private
        image and for an evaluator without features.
        """
        features, private = evaluation.feature_sets()
        return {self.name: knn_distance(features, evaluation.labels, private, evaluation.private_labels)}


class EvaluatorDistance(KnnDistance):
    """``delta_eval`` of PPA: the same rule, under the name it has there. PPA's evaluator is an Inception-v3,
    its features the 2048 pooled ones, not normalised. Comparable only between attacks with the same
    evaluator.
    """

    name = "delta_eval"
