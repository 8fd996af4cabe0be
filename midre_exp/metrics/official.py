"""Numbers as official programs print them where ours differ on purpose, to stand beside published ones. Their
names end in ``_official``; nothing of ours is chosen by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midre_exp.data.base import to_float
from midre_exp.errors import ConfigError
from midre_exp.metrics.accuracy import accuracy_by_restart, attack_accuracy, topk_hits
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.distance import knn_distance
from midre_exp.plan.ranges import Count

_BATCH = 256


@dataclass(kw_only=True, eq=False)
class LastSeedAccuracy:
    """``att_acc<k>_last_seed_official``: the top-``k`` accuracy that LOMMA's evaluation prints for k = 5. It
    is the mean over batches of ``group`` identities of the last restart alone, because one of two names for
    the accuracy of a restart is never added up; ``att_acc5`` is the mean over all restarts.
    """

    k: Count  # the label counts among as many largest logits (published: 5)
    group: Count  # consecutive identities per batch (published: 60)

    def __post_init__(self) -> None:
        if self.k < 1 or self.group < 1:
            raise ConfigError(
                f"metrics: LastSeedAccuracy k={self.k} and group={self.group} must be at least 1"
            )

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The percentage. Raises Unavailable with fewer than ``k`` classes."""
        classes = evaluation.logits.shape[1]
        if classes < self.k:
            raise Unavailable(
                f"top-{self.k} accuracy needs at least {self.k} classes, the evaluator has {classes}"
            )
        hits = topk_hits(evaluation.logits, evaluation.labels, self.k)
        table = accuracy_by_restart(hits, evaluation.labels, evaluation.restarts, self.group)
        return {f"att_acc{self.k}_last_seed_official": 100 * float(table[:, -1].nanmean())}


class StretchedKnnDistance:
    """``knn_dist_stretched_official``: the KNN distance as PLG-MI's evaluation computes it, of
    reconstructions that were ``stretched`` when they were written as PNG. The private images were not.
    """

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The mean. Raises Unavailable as ``KnnDistance``, and without an evaluator."""
        _, private = evaluation.feature_sets()
        if evaluation.judge is None:
            raise Unavailable("stretched images need an evaluator")
        parts = torch.arange(len(evaluation.images)).split(_BATCH)
        seen = [evaluation.judge.look(stretched(evaluation.images[part]))[1] for part in parts]
        distance = knn_distance(torch.cat(seen), evaluation.labels, private, evaluation.private_labels)
        return {"knn_dist_stretched_official": distance}


class RebuiltEvaluator:
    """``att_acc1_rebuilt_official``, ``att_acc5_rebuilt_official`` and ``delta_eval_rebuilt_official``: PPA's
    numbers by the evaluator as PPA's and IF-GMI's code rebuild it (``Judge.rebuilt``). Nothing of an
    evaluator that has no ``transform_input``: there both are the same.
    """

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The percentages, top-5 with at least 5 classes, and the distance where there are private images and
        features.
        """
        rebuilt = None if evaluation.judge is None else evaluation.judge.rebuilt()
        if rebuilt is None:
            return {}
        logits, features = rebuilt.look(evaluation.images)
        failed = evaluation.logits.isneginf()  # an attack that knows it failed succeeds by no accident
        logits = logits.masked_fill(failed, -torch.inf)
        numbers = {
            f"att_acc{k}_rebuilt_official": attack_accuracy(logits, evaluation.labels, k)
            for k in (1, 5)
            if k <= logits.shape[1]
        }
        rows = evaluation.private_rows
        if len(rows) and features.shape[1]:
            seen = [
                rebuilt.look(evaluation.private_images[part], as_they_are=True)[1]
                for part in rows.split(_BATCH)
            ]
            numbers["delta_eval_rebuilt_official"] = knn_distance(
                features, evaluation.labels, torch.cat(seen), evaluation.private_labels
            )
        return numbers


def stretched(images: Tensor) -> Tensor:
    """``images`` [n, 3, h, w], uint8 or float, as torchvision's ``save_image(normalize=True)`` writes them
    one by one: each from its least value to its largest over all channels, rounded to uint8.
    """
    exact = images if images.is_floating_point() else to_float(images)
    low, high = exact.amin((1, 2, 3), keepdim=True), exact.amax((1, 2, 3), keepdim=True)
    share = (exact.clamp(low, high) - low) / (high - low).clamp(min=1e-5)
    return share.mul(255).add(0.5).clamp(0, 255).to(torch.uint8)
