"""The splits of the literature as functions of plain lists: which identities are private, which of their
images are held out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from midre_exp.errors import DataError
from midre_exp.seeding import derive

Rows = list[int]


def ninety_ten(count: int, *, seed: int = 42, share: float = 0.9) -> tuple[Rows, Rows]:
    """PPA's split of ``count`` images: a permutation by numpy's legacy generator, the first int(share *
    count) for training.
    """
    order = np.random.RandomState(seed).permutation(count).tolist()
    cut = int(share * count)
    return order[:cut], order[cut:]


def most_frequent(identities: Sequence[int], keep: int) -> list[int]:
    """PPA's CelebA selection: the ``keep`` identities with most images, ties in order of first appearance;
    label = position.
    """
    ranked = [identity for identity, _ in Counter(identities).most_common()]  # stable among equal counts
    if len(ranked) < keep:
        raise DataError(
            f"the identity file names {len(ranked)} identities, {keep} are wanted; lower "
            "data.private.identities"
        )
    return ranked[:keep]


def frequent_by_number(identities: Sequence[int], keep: int, least: int) -> list[int]:
    """The GMI family's CelebA selection: of the identities with at least ``least`` images the ``keep`` lowest
    numbers; label = position.
    """
    counts = Counter(identities)
    candidates = sorted(identity for identity, count in counts.items() if count >= least)
    if len(candidates) < keep:
        raise DataError(
            f"{len(candidates)} identities have at least {least} images, {keep} are wanted; "
            "complete the identity file or lower data.private.identities"
        )
    return candidates[:keep]


def hold_out_per_class(
    names: Sequence[str], labels: Sequence[int], *, share: float, seed: int
) -> tuple[Rows, Rows]:
    """Rows for training and testing: of each class with c images floor((1 - share) * c) train, drawn by
    (seed, name), not by order.

    Rows keep the order of ``names``. At least one image of a class is held out if it has two.
    """
    rank = {row: derive(seed, "hold out", names[row]) for row in range(len(names))}
    by_class: dict[int, Rows] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(label, []).append(row)
    train: Rows = []
    for rows in by_class.values():
        # 1e-9: 0.9 * 30 must not be floored to 26
        count = max(1, min(int((1 - share) * len(rows) + 1e-9), len(rows) - 1))
        train += sorted(rows, key=rank.__getitem__)[:count]
    chosen = set(train)
    return sorted(train), [row for row in range(len(names)) if row not in chosen]


def drawn(names: Sequence[str], count: int, *, seed: int) -> Rows:
    """``count`` rows drawn by (seed, name), in the order of ``names``; all of them if there are fewer."""
    ranked = sorted(range(len(names)), key=lambda row: derive(seed, "draw", names[row]))
    return sorted(ranked[:count])
