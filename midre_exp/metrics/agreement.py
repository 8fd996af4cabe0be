"""How far raters agree beyond chance: Cohen's kappa of two, Fleiss' of more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def kappa(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    """Kappa of ``ratings``, for each item the answer of each rater in the same order: Cohen's (1960) of two
    raters, whose own habits make chance, Fleiss' (1971) of more. None where it is not defined: for fewer than
    two raters, no item, or when every rater gave one and the same answer throughout.
    """
    raters = len(ratings[0]) if ratings else 0
    if any(len(answers) != raters for answers in ratings):
        raise ValueError("every item needs an answer of every rater")
    if raters < 2:
        return None
    return _cohen(ratings) if raters == 2 else _fleiss(ratings)


def _cohen(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    items = len(ratings)
    first, second = (Counter(answers[rater] for answers in ratings) for rater in (0, 1))
    observed = sum(a == b for a, b in ratings) / items
    return _beyond(observed, sum(first[answer] * second[answer] for answer in first) / items**2)


def _fleiss(ratings: Sequence[Sequence[Hashable]]) -> float | None:
    items, raters = len(ratings), len(ratings[0])
    pairs = raters * (raters - 1)
    counts = [Counter(answers) for answers in ratings]
    observed = sum((sum(n * n for n in count.values()) - raters) / pairs for count in counts) / items
    shares = [n / (items * raters) for n in sum(counts, Counter()).values()]
    return _beyond(observed, sum(share**2 for share in shares))


def _beyond(observed: float, chance: float) -> float | None:
    return None if chance == 1 else (observed - chance) / (1 - chance)
