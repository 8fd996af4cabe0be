"""Attack accuracy: how often an independent evaluator recognises the attacked identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.plan.ranges import Count
from midre_exp.seeding import generator
from midre_exp.targets.predict import predicted_classes


def attack_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Percent of reconstructions whose label [n] is among the ``k`` largest of ``logits`` [n, classes]."""
    return 100 * float(topk_hits(logits, labels, k).mean())


def topk_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the ``k`` largest logits: float64 [n] of 0 and 1. Raises DivergedError for
    answers that are not finite, which have no order.
    """
    predicted_classes(logits)
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double()


def label_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax of each label [n] under ``logits`` [n, classes]: float64 [n] in [0, 1]."""
    return logits.double().softmax(1).gather(1, labels[:, None]).squeeze(1)


def accuracy_by_restart(hits: Tensor, labels: Tensor, restarts: Tensor, group: int) -> Tensor:
    """Share of ``hits`` [n] per batch of ``group`` consecutive identities and restart: [batches, restarts] in
    [0, 1], NaN where there are none.

    The published protocol attacks identities in batches of 60 (KedMI, LOMMA and PLG-MI evaluation code).
    """
    columns = int(restarts.max()) + 1
    cell = (labels // group) * columns + restarts
    total = torch.zeros((int(labels.max()) // group + 1) * columns, dtype=torch.float64)
    count = total.clone().index_add_(0, cell, torch.ones_like(hits))
    return (total.index_add_(0, cell, hits) / count).view(-1, columns)


def restart_deviation(table: Tensor) -> float | None:
    """Mean over batches of the sample deviation (n-1) over restarts of an ``accuracy_by_restart``; None with
    fewer than two restarts to compare.

    Batches without any reconstruction are left out, and restarts that a remaining batch lacks.
    """
    rows = table[~table.isnan().all(1)]
    full = rows[:, ~rows.isnan().any(0)]
    return float(full.std(1).mean()) if full.shape[1] > 1 else None


def identity_interval(
    hits: Tensor, labels: Tensor, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``hits`` [n], resampling the identities in ``labels`` [n].

    Restarts of one identity succeed or fail together, so identities, not images, are the independent units.
    """
    classes, position = labels.unique(return_inverse=True)
    total = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, position, hits)
    count = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, position, torch.ones_like(hits))
    pick = torch.randint(len(classes), (draws, len(classes)), generator=generator(seed, "bootstrap"))
    means = total[pick].sum(1) / count[pick].sum(1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


@dataclass(kw_only=True, eq=False)
class AttackAccuracy:
    """Top-``k`` attack accuracy in percent, as numbers named after ``att_acc<k>``.

    ``att_acc1``: mean over all reconstructions. ``att_acc1_batch_std``: mean over batches of ``group``
    identities of the sample deviation (n-1) over restarts, the figure behind the ± of the low-resolution
    papers (KedMI and PLG-MI print the mean variance). ``att_acc1_std``: sample deviation over restarts of the
    accuracy over all identities. ``att_acc1_low``/``att_acc1_high``: 95 % bootstrap interval over identities.

    Of an attack that selects, all these are of what it selected (the number PPA reports), deviations over as
    many places as every identity has; and ``att_acc1_unfiltered`` is the mean over everything it made.
    """

    k: Count  # the label counts among as many largest logits
    group: Count  # consecutive identities per batch of the deviation (published: 60)

    def __post_init__(self) -> None:
        if self.k < 1 or self.group < 1:
            raise ConfigError(f"metrics: AttackAccuracy k={self.k} and group={self.group} must be at least 1")

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The accuracy and its uncertainty; deviations need two restarts. Raises Unavailable with fewer than
        ``k`` classes.
        """
        classes = evaluation.logits.shape[1]
        if classes < self.k:
            raise Unavailable(
                f"top-{self.k} accuracy needs at least {self.k} classes, the evaluator has {classes}"
            )
        hits = topk_hits(evaluation.logits, evaluation.labels, self.k)
        low, high = identity_interval(hits, evaluation.labels)
        shares = {"": float(hits.mean()), "_low": low, "_high": high}
        if evaluation.unfiltered is not None:
            shares["_unfiltered"] = float(topk_hits(*evaluation.unfiltered, self.k).mean())
        for name, deviation in self._deviations(evaluation, hits).items():
            if deviation is not None:
                shares[name] = deviation
        return {f"att_acc{self.k}{name}": 100 * share for name, share in shares.items()}

    def _deviations(self, evaluation: Evaluation, hits: Tensor) -> dict[str, float | None]:
        labels, restarts = evaluation.labels, evaluation.restarts
        if evaluation.unfiltered is not None:  # a selection may leave identities with unequal numbers
            common = restarts < int(labels.unique(return_counts=True)[1].min())
            labels, restarts, hits = labels[common], restarts[common], hits[common]
        groups = {"_batch_std": self.group, "_std": int(labels.max()) + 1}
        return {
            name: restart_deviation(accuracy_by_restart(hits, labels, restarts, group))
            for name, group in groups.items()
        }


class Confidence:
    """How strongly the networks agree with the attacked identity: mean softmax of the label, in [0, 1].

    ``confidence_target``: the attacked target, on the kept images as it sees them; ``confidence_evaluator``:
    the evaluator. Each also over the reconstructions the evaluator takes for the identity alone,
    ``confidence_target_hits`` and ``confidence_evaluator_hits``, which are left out when there is none. All
    over what the attack selected, if it selects.
    """

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The means; those of the target only where the attack kept its confidence."""
        confidences = {"evaluator": label_confidence(evaluation.logits, evaluation.labels)}
        if evaluation.confidence is not None:
            confidences["target"] = evaluation.confidence.double()
        numbers = {}
        for name, values in confidences.items():
            numbers[f"confidence_{name}"] = float(values.mean())
            if bool(evaluation.successful.any()):
                numbers[f"confidence_{name}_hits"] = float(values[evaluation.successful].mean())
        return numbers
