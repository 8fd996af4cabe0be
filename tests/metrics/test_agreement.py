from __future__ import annotations

import random

import pytest
import torch
from torchmetrics.functional.classification import multiclass_cohen_kappa
from torchmetrics.functional.nominal import fleiss_kappa

from midre_exp.metrics import kappa


def test_two_raters_are_compared_as_cohen_does():
    # 50 proposals: both yes 20, only the first 5, only the second 10, neither 15; 0.70 observed, 0.50 chance
    ratings = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert kappa(ratings) == pytest.approx(0.4)
    # the same observed agreement of 0.60 with two tables of marginals (Landis and Koch's paradox)
    first = [(1, 1)] * 45 + [(1, 0)] * 15 + [(0, 1)] * 25 + [(0, 0)] * 15
    second = [(1, 1)] * 25 + [(1, 0)] * 35 + [(0, 1)] * 5 + [(0, 0)] * 35
    assert kappa(first) == pytest.approx(0.1304, abs=1e-4)
    assert kappa(second) == pytest.approx(0.2593, abs=1e-4)


def test_more_raters_are_compared_as_fleiss_does():
    # 14 psychiatrists, 10 patients, 5 categories: P = 0.378, P_e = 0.213
    counts = [
        *((0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1)),
        *((7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)),
    ]
    ratings = [[place for place, n in enumerate(row) for _ in range(n)] for row in counts]
    assert kappa(ratings) == pytest.approx(0.20993, abs=1e-5)
    assert kappa(ratings) == pytest.approx(float(fleiss_kappa(torch.tensor(counts))), abs=1e-5)


def test_both_agree_with_a_library_on_random_answers():
    draw = random.Random(0)
    for raters in (2, 3, 5):
        ratings = [[draw.choice((0, 0, 1)) for _ in range(raters)] for _ in range(40)]
        if raters == 2:
            a, b = (torch.tensor(column) for column in zip(*ratings, strict=True))
            expected = multiclass_cohen_kappa(a, b, num_classes=2)
        else:
            counts = torch.tensor([[row.count(0), row.count(1)] for row in ratings])
            expected = fleiss_kappa(counts)
        assert kappa(ratings) == pytest.approx(float(expected), abs=1e-5)


def test_no_number_where_there_is_none():
    assert kappa([]) is None and kappa([[1], [0]]) is None
    assert kappa([[1, 1]] * 5) is None and kappa([[1, 1, 1]] * 5) is None
    assert kappa([[1, 1], [0, 0]]) == 1 and kappa([[1, 0], [0, 1]]) == -1
    with pytest.raises(ValueError, match="every rater"):
        kappa([[1, 1], [1]])
