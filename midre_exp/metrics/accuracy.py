"""Attack accuracy: how often an independent evaluator recognises the attacked identity in its reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.seeding import generator


def topk_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the ``k`` largest logits: float64 [n] of 0 and 1."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).double()


def batch_table(hits: Tensor, labels: Tensor, restarts: Tensor, group: int) -> Tensor:
    """Accuracy per (batch of ``group`` consecutive identities, restart): [batches, restarts] in [0, 1].

    The published protocol attacks identities in batches of 60 (KedMI, LOMMA and PLG-MI evaluation code).
    """
    cell = (labels // group) * (int(restarts.max()) + 1) + restarts
    columns = int(restarts.max()) + 1
    total = torch.zeros((int(labels.max()) // group + 1) * columns, dtype=torch.float64)
    count = total.clone().index_add_(0, cell, torch.ones_like(hits))
    return (total.index_add_(0, cell, hits) / count).view(-1, columns)


def identity_interval(
    hits: Tensor, labels: Tensor, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``hits``, resampling identities.

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


def mean_deviation(table: Tensor) -> float | None:
    """Mean over rows of the sample deviation over columns of a ``batch_table``; None with fewer than two
    columns to compare.

    Batches without any reconstruction are left out, and restarts that a remaining batch lacks.
    """
    rows = table[~table.isnan().all(1)]
    full = rows[:, ~rows.isnan().any(0)]
    return float(full.std(1).mean()) if full.shape[1] > 1 else None


class AttackAccuracy:
    """Top-``k`` attack accuracy in percent, as numbers named after ``att_acc<k>``.

    ``att_acc1``: mean over all reconstructions. ``att_acc1_batch_std``: mean over batches of ``group``
    identities of the sample deviation (n-1) over restarts, the figure behind the ± of the low-resolution
    papers (KedMI and PLG-MI print the mean variance). ``att_acc1_std``: sample deviation over restarts of the
    accuracy over all identities. ``att_acc1_low``/``att_acc1_high``: 95 % bootstrap interval over identities.

    Of an attack that selects, all these are of what it selected (the number PPA reports), deviations over as
    many places as every identity has; and ``att_acc1_unfiltered`` is the mean over everything it made.
    """

    def __init__(self, *, k: int, group: int):
        if k < 1 or group < 1:
            raise ConfigError(f"metrics: AttackAccuracy k={k} and group={group} must be at least 1")
        self.k, self.group = k, group

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The accuracy and how sure it is; deviations need two restarts. Raises Unavailable with fewer than
        ``k`` classes.
        """
        if seen.logits.shape[1] < self.k:
            raise Unavailable(
                f"top-{self.k} accuracy needs at least {self.k} classes, the evaluator has {seen.logits.shape[1]}"
            )
        hits = topk_hits(seen.logits, seen.labels, self.k)
        low, high = identity_interval(hits, seen.labels)
        percent = {"": float(hits.mean()), "_low": low, "_high": high}
        if seen.unfiltered is not None:
            percent["_unfiltered"] = float(topk_hits(*seen.unfiltered, self.k).mean())
        for name, deviation in self._deviations(seen, hits).items():
            if deviation is not None:
                percent[name] = deviation
        return {f"att_acc{self.k}{name}": 100 * value for name, value in percent.items()}

    def _deviations(self, seen: Evaluation, hits: Tensor) -> dict[str, float | None]:
        labels, restarts = seen.labels, seen.restarts
        if seen.unfiltered is not None:  # a selection may leave identities with unequal numbers
            common = restarts < int(labels.unique(return_counts=True)[1].min())
            labels, restarts, hits = labels[common], restarts[common], hits[common]
        groups = {"_batch_std": self.group, "_std": int(labels.max()) + 1}
        return {
            name: mean_deviation(batch_table(hits, labels, restarts, group)) for name, group in groups.items()
        }


class Confidence:
    """How sure the networks are of the attacked identity: mean softmax of the label, in [0, 1].

    ``confidence_target``: the attacked target, on the kept pictures as it sees them;
    ``confidence_evaluator``: the evaluator. Each also over the reconstructions the evaluator takes for the
    identity alone, ``confidence_target_hits`` and ``confidence_evaluator_hits``, which are left out when
    there is none. All over what the attack selected, if it selects.
    """

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """The means; those of the target only where the attack kept its confidence."""
        of_label = seen.logits.double().softmax(1).gather(1, seen.labels[:, None]).squeeze(1)
        sure = {"evaluator": of_label}
        if seen.confidence is not None:
            sure["target"] = seen.confidence.double()
        numbers = {}
        for name, values in sure.items():
            numbers[f"confidence_{name}"] = float(values.mean())
            if bool(seen.successful.any()):
                numbers[f"confidence_{name}_hits"] = float(values[seen.successful].mean())
        return numbers
