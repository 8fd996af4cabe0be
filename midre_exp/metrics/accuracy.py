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


class AttackAccuracy:
    """Top-1 and top-5 attack accuracy in percent.

    ``att_acc1``, ``att_acc5``: mean over all reconstructions. ``att_acc1_batch_std``: mean over batches of ``group`` identities of the
    sample deviation (n-1) over restarts, the figure behind the ± of the low-resolution papers. ``att_acc1_std``: sample deviation over restarts of
    the accuracy over all identities. ``att_acc1_low``/``att_acc1_high``: 95 % bootstrap interval over identities. Likewise for top-5.
    """

    def __init__(self, *, group: int):
        if group < 1:
            raise ConfigError(f"metrics: AttackAccuracy group={group} must be at least 1")
        self.group = group

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """All accuracies; deviations are left out with a single restart, top-5 with fewer than five classes."""
        numbers: dict[str, float] = {}
        for k in (1, 5):
            if seen.logits.shape[1] < k:
                raise Unavailable(
                    f"top-{k} accuracy needs at least {k} classes, the evaluator has {seen.logits.shape[1]}"
                )
            hits = topk_hits(seen.logits, seen.labels, k)
            name = f"att_acc{k}"
            numbers[name] = 100 * float(hits.mean())
            low, high = identity_interval(hits, seen.labels)
            numbers[f"{name}_low"], numbers[f"{name}_high"] = 100 * low, 100 * high
            if int(seen.restarts.max()) > 0:
                table = batch_table(hits, seen.labels, seen.restarts, self.group)
                numbers[f"{name}_batch_std"] = 100 * float(table.std(1).mean())
                overall = batch_table(hits, seen.labels, seen.restarts, int(seen.labels.max()) + 1)
                numbers[f"{name}_std"] = 100 * float(overall.std(1).mean())
        return numbers
