"""Do a loaded classifier's labels follow another order of the identities than the data's?

A network trained elsewhere numbers its classes as its own loader sorted them. Where that is another order, it
is at chance here though it knows everybody: its answers are then the labels of a permutation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from midre_exp.targets.chance import Chance

_ENOUGH = 2.0  # times the accuracy that the data's own order gives
_LEVEL = 1e-4  # how improbable so many hits must be by chance, several orders being tried
_NEARLY = 0.8  # of what the best of all permutations explains
_BEST = 75.0  # percent; the best of all permutations explains half of so few images by chance


def likely_order(predicted: Tensor, labels: Tensor, classes: Sequence[str], key: str | None) -> str | None:
    """One sentence for the permutation of classes under which most of ``predicted`` int64 [n] are the
    ``labels`` int64 [n]; None where no permutation makes sense of them.

    Known conventions are tried before the best assignment of all. ``key`` chooses the order of the data; None
    where it is fixed.
    """
    count = len(classes)
    if not len(labels) or int(predicted.max()) >= count:
        return None
    table = torch.zeros(count, count, dtype=torch.int64)  # the label here, the class there
    table.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    own = _accuracy(table, torch.arange(count))
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    best = torch.empty(count, dtype=torch.int64)
    best[torch.from_numpy(rows)] = torch.from_numpy(columns)
    most = _accuracy(table, best)
    for name, remedy, order in _conventions(classes, key):
        accuracy = _accuracy(table, order)
        if accuracy >= _NEARLY * most and _is_knowledge(accuracy, own, labels, count):
            return _sentence(own, accuracy, name, remedy)
    # chosen among all permutations, so it must explain most of the images, several of each class
    if len(labels) >= 2 * count and most >= _BEST and _is_knowledge(most, own, labels, count):
        shown = ", ".join(f"{classes[i]} is its class {int(best[i])}" for i in range(min(4, count)))
        return _sentence(own, most, "an order of their own", f"{_file(key)} ({shown}, …)")
    return None


def _conventions(classes: Sequence[str], key: str | None) -> list[tuple[str, str, Tensor]]:
    """Orders that loaders use: the class there of each label here."""
    count = len(classes)
    here, head = torch.arange(count), "the file's labels do not begin with 0, so permute the rows of its head"
    by_name = sorted(range(count), key=lambda i: classes[i])
    by_number = sorted(range(count), key=lambda i: _natural(classes[i]))
    named = {
        name: _file(None) if key is None else f"add {key}={name}" for name in ("alphabetical", "natural")
    }
    return [
        ("alphabetical order", named["alphabetical"], _ranks(by_name)),
        ("natural order", named["natural"], _ranks(by_number)),
        ("reversed order", _file(key), here.flip(0)),
        ("an order that begins with the last", head, (here + 1) % count),
        ("an order that begins with the second", head, (here - 1) % count),
    ]


def _file(key: str | None) -> str:
    if key is None:
        return "the data set fixes its order, so permute the rows of the file's head"
    return f"give {key}=FILE with the names in its order"


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def _ranks(order: list[int]) -> Tensor:
    ranks = torch.empty(len(order), dtype=torch.int64)
    ranks[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    return ranks


def _accuracy(table: Tensor, order: Tensor) -> float:
    """Percent of the images whose class there is that of their label."""
    return 100 * float(table.gather(1, order[:, None]).sum()) / float(table.sum())


def _is_knowledge(accuracy: float, own: float, labels: Tensor, classes: int) -> bool:
    return accuracy > _ENOUGH * own and Chance.of(labels, classes).p_value(accuracy) < _LEVEL


def _sentence(own: float, accuracy: float, name: str, remedy: str) -> str:
    return f"acc {own:.1f} %, but {accuracy:.1f} % if labels follow {name}: {remedy}"
