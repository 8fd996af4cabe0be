"""The comparisons of records that the paper's claims rest on: each finds its cases among the arenas, whose
``draws`` say how sure it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np

from midre_exp.plan.config import without
from midre_exp.report.claims.intervals import Arena, Numbers, Side
from midre_exp.report.claims.verdicts import Case
from midre_exp.report.tables.comparison import trade_off

#: Stands for OP where bargains are put in order.
NOTHING_PAID = 1e9


def difference(arena: Arena, first: Side, second: Side, metric: str) -> Case:
    """A metric of the first side less that of the second, in points."""
    a, b = first.mean(metric), second.mean(metric)
    return Case(
        str(arena),
        f"{first.label} {a:.2f} against {second.label} {b:.2f}",
        a - b,
        arena.draws(first, metric) - arena.draws(second, metric),
    )


def erasing(arenas: Sequence[Arena], metric: str) -> Iterator[Case]:
    """MIDRE, whatever its range, against no defense."""
    for arena in arenas:
        for undefended in arena.find():
            for midre in arena.find("MIDRE"):
                yield difference(arena, midre, undefended, metric)


def cost(arenas: Sequence[Arena]) -> Iterator[Case]:
    """Accuracy lost under MIDRE."""
    for case in erasing(arenas, "acc"):
        yield Case(case.where, case.detail, -case.value, -case.draws)


def at_equal_share(arenas: Sequence[Arena], first: str, second: str, metric: str) -> Iterator[Case]:
    """Two ways of withholding the same share of the training images."""
    for arena in arenas:
        for a in arena.find(first):
            for b in arena.find(second):
                if a.arm.share == b.arm.share:
                    yield difference(arena, a, b, metric)


def against(arenas: Sequence[Arena], other: str, metric: str) -> Iterator[Case]:
    """MIDRE against another defense or augmentation."""
    for arena in arenas:
        for midre in arena.find("MIDRE"):
            for side in arena.find(other):
                yield difference(arena, midre, side, metric)


def per_share(arenas: Sequence[Arena]) -> Iterator[Case]:
    """Slope of attack accuracy over the share erased by RE: points for each further 10 % of the image, by
    least squares.
    """
    for arena in arenas:
        families: dict[str, list[Side]] = {}
        for side in arena.find("RE"):
            rules = [without(part, "a_l", "a_h") for part in side.parts.values()]
            families.setdefault(repr(rules), []).append(side)
        for family in families.values():
            sides = sorted(family, key=lambda side: side.arm.share or (0, 0))
            shares = np.asarray([10 * side.arm.share[0] for side in sides if side.arm.share])
            if len(set(shares)) < 2:
                continue
            weights = (shares - shares.mean()) / np.square(shares - shares.mean()).sum()
            values = np.asarray([side.mean("att_acc1") for side in sides])
            drawn = np.stack([arena.draws(side, "att_acc1") for side in sides])
            shown = ", ".join(f"{side.label} {value:.2f}" for side, value in zip(sides, values, strict=True))
            yield Case(str(arena), shown, float(weights @ values), weights @ drawn)


def wider(arenas: Sequence[Arena]) -> Iterator[Case]:
    """A wider range of MIDRE against a narrower one with the same floor."""
    for arena in arenas:
        for a, b in combinations(arena.find("MIDRE"), 2):
            narrow, wide = sorted((a, b), key=lambda side: side.arm.share or (0, 0))
            if narrow.arm.share != wide.arm.share:
                yield difference(arena, wide, narrow, "att_acc1")


def combined(arenas: Sequence[Arena]) -> Iterator[Case]:
    """MIDRE with another defense against each of the two alone, with the same parameters."""
    for arena in arenas:
        for side in arena.sides:
            if "MIDRE" not in side.arm.names or len(side.arm.names) < 2:
                continue
            for name, part in side.parts.items():
                for alone in arena.sides:
                    if dict(alone.parts) == {name: part}:
                        yield difference(arena, side, alone, "att_acc1")


def everywhere(arenas: Sequence[Arena], what: Callable[[Arena], str]) -> Iterator[Case]:
    """MIDRE against no defense, averaged for each target, attack or data set; nothing where there is only one
    of them.
    """
    groups: dict[str, list[Case]] = {}
    for arena in arenas:
        for case in erasing([arena], "att_acc1"):
            groups.setdefault(what(arena), []).append(case)
    if len(groups) < 2:
        return
    for name, cases in groups.items():
        yield Case(
            name,
            f"mean of {len(cases)}" if len(cases) > 1 else cases[0].detail,
            float(np.mean([case.value for case in cases])),
            np.mean([case.draws for case in cases], axis=0),
        )


def bargain(taken: Numbers, lost: Numbers) -> Numbers:
    """Bargains as numbers in order of preference: nothing taken from the attacker (0, all alike), Δ, then OP
    by what it takes.
    """
    ratio = np.divide(taken, lost, out=np.zeros_like(taken), where=lost > 0)
    ordered: Numbers = np.where(taken <= 0, 0.0, np.where(lost > 0, ratio, NOTHING_PAID + taken))
    return ordered


def better_bargain(arenas: Sequence[Arena], other: str) -> Iterator[Case]:
    """Who has the better Δ: +1 MIDRE, -1 the other, 0 neither.

    TL-DMI is left out where its target was never trained on public data: it then freezes layers that nobody
    has trained.
    """
    for arena in arenas:
        for undefended in arena.find():
            for midre in arena.find("MIDRE"):
                for side in arena.find(other):
                    if other == "TL-DMI" and _from_scratch(side):
                        continue
                    yield _compared_bargains(arena, undefended, midre, side)


def _from_scratch(side: Side) -> bool:
    return any(record["config"]["target"].get("weights") is None for record in side.records)


def _compared_bargains(arena: Arena, undefended: Side, midre: Side, other: Side) -> Case:
    base_acc, base_att = (arena.draws(undefended, metric) for metric in ("acc", "att_acc1"))
    shown, drawn, values = [], [], []
    for side in (midre, other):
        taken = base_att - arena.draws(side, "att_acc1")
        lost = base_acc - arena.draws(side, "acc")
        numbers = [s.mean(metric) for s in (side, undefended) for metric in ("acc", "att_acc1")]
        ratio = trade_off(*numbers)
        drawn.append(bargain(taken, lost))
        values.append(
            bargain(np.asarray([numbers[3] - numbers[1]]), np.asarray([numbers[2] - numbers[0]]))[0]
        )
        shown.append(f"{side.label} Δ {ratio if isinstance(ratio, str) else f'{ratio:.2f}'}")
    return Case(
        str(arena),
        " against ".join(shown),
        float(np.sign(values[0] - values[1])),
        np.sign(drawn[0] - drawn[1]),
    )
