"""Which traits of a person a reconstruction recovers.

A number is recovered as far as what is read correlates, over people, with what is true; a kind as often as
it is read rightly. Beside each stand the same of real photographs of these people, its floor (everybody read
as somebody else) and the chance that a floor does as well (a permutation test). ``nearer`` puts all traits on
one scale: how often a person's own truth lies nearer to what is read than another person's does, 50 % where
nothing is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import KnownTraits
from midre_exp.leakage.trait_reader import Readings, standardised

FEWEST = 5  #: people who show a trait, to say anything of it
READABLE = 0.2  #: of what a reader could explain (r²), or of the way from guessing to knowing
LEVEL = 0.05  #: of the permutation tests, all together (Holm)
DRAWS = 2000
PERMUTATIONS = 1000


class Reading(NamedTuple):
    """How well one trait was read in some people."""

    value: float  # correlation, or the share read rightly
    low: float
    high: float
    floor: float  # the mean over permutations of people
    p: float
    people: int  # who show it


def read_numbers(read: Tensor, truth: Tensor, seed: int = 0) -> Reading | None:
    """Of numbers [n]: Pearson's correlation, 0 where either does not vary. None with fewer than FEWEST."""

    def correlation(rows: Tensor, others: Tensor) -> Tensor:
        one, two = read.double()[rows], truth.double()[others]
        one, two = one - one.mean(1, keepdim=True), two - two.mean(1, keepdim=True)
        scale = one.norm(dim=1) * two.norm(dim=1)
        return torch.where(scale > 1e-12, (one * two).sum(1) / scale.clamp_min(1e-300), 0.0)

    return _reading(correlation, len(read), seed)


def read_kinds(read: Tensor, truth: Tensor, seed: int = 0) -> Reading | None:
    """Of classes int64 [n]: the share read rightly. None with fewer than FEWEST."""
    return _reading(lambda rows, others: (read[rows] == truth[others]).double().mean(1), len(read), seed)


def _reading(statistic: Callable[[Tensor, Tensor], Tensor], people: int, seed: int) -> Reading | None:
    """``statistic``: of rows int64 [draws, people] of what is read and of what is true, [draws]."""
    if people < FEWEST:
        return None
    every = torch.arange(people)[None]
    value = statistic(every, every)
    drawn = seeding.integers(seeding.generator(seed, "traits", "bootstrap"), 0, people, DRAWS, people)
    shuffled = torch.rand(
        PERMUTATIONS, people, generator=seeding.generator(seed, "traits", "permutations")
    ).argsort(1)
    low, high = statistic(drawn, drawn).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    floors = statistic(every.expand(PERMUTATIONS, -1), shuffled)
    beaten = int((floors >= value - 1e-12).sum())
    return Reading(float(value), low, high, float(floors.mean()), (1 + beaten) / (1 + PERMUTATIONS), people)


def each_trait(read: Readings, truth: KnownTraits) -> dict[str, Reading]:
    """Every trait that FEWEST people or more show, by name."""
    found = {}
    for name, values in read.numbers.items():
        rows = truth.shows[name]
        found[name] = read_numbers(values[rows], truth.numbers[name][rows])
    for name, classes in read.kinds.items():
        found[name] = read_kinds(classes, truth.kinds[name][1])
    return {name: reading for name, reading in found.items() if reading is not None}


def is_readable(reading: Reading, is_number: bool) -> bool:
    """Whether a reader sees the trait in photographs: r² from READABLE on, or as much of the way from
    guessing to knowing.
    """
    if is_number:
        return reading.value > 0 and reading.value**2 >= READABLE
    return reading.value - reading.floor >= READABLE * (1 - reading.floor)


def holm(p: Mapping[str, float], level: float = LEVEL) -> list[str]:
    """The names whose hypotheses fall together at ``level`` (Holm 1979), in rising order of ``p``."""
    fallen = []
    for number, name in enumerate(sorted(p, key=lambda name: p[name])):
        if p[name] > level / (len(p) - number):
            break
        fallen.append(name)
    return fallen


def nearer(read: Readings, truth: KnownTraits, traits: list[str]) -> Tensor:
    """Share [people, traits] of other people whose truth lies farther from what is read of a person than the
    person's own, half of those as far; NaN where the person does not show the trait or no other does.
    """
    columns = []
    for name in traits:
        if name in read.numbers:
            # what is read shrinks to the mean where little is seen, which must not count against it
            rows = truth.shows[name]
            seen, true = (standardised(v, rows) for v in (read.numbers[name], truth.numbers[name]))
            away = (seen[:, None] - true).abs()
        else:
            rows = torch.ones(len(read.kinds[name]), dtype=torch.bool)
            away = (read.kinds[name][:, None] != truth.kinds[name][1]).float()
        own = away.diagonal()[:, None]
        share = (away > own).double() + 0.5 * (away == own).double()
        others = (rows[:, None] & rows) & ~torch.eye(len(rows), dtype=torch.bool)
        columns.append((share * others).sum(1) / others.sum(1))  # 0 / 0 where there is nobody
    return torch.stack(columns, 1) if columns else torch.empty(0, 0, dtype=torch.float64)


def mean_interval(values: Tensor, seed: int = 0) -> dict[str, float]:
    """Mean of ``values`` [n], one of each person, with its 95 % bootstrap interval over them, in percent."""
    draws = seeding.integers(
        seeding.generator(seed, "traits", "bootstrap"), 0, len(values), DRAWS, len(values)
    )
    low, high = values.double()[draws].mean(1).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return {"value": 100 * float(values.double().mean()), "low": 100 * low, "high": 100 * high}


def report(
    read: Readings,
    photographs: Readings,
    truth: KnownTraits,
    held_out: Mapping[str, Reading],
    hits: Mapping[str, Tensor],
) -> dict[str, Any]:
    """What a record tells of the traits that reconstructions recover. ``read``: from them; ``photographs``:
    from real ones of the same people; ``held_out``: how a reader reads people whom it was not trained on;
    ``hits`` [people] in percent, by the name of a measure, for the subgroups.
    """
    found, ceiling = each_trait(read, truth), each_trait(photographs, truth)
    readable = [name for name in held_out if is_readable(held_out[name], name in truth.numbers)]
    tested = [name for name in readable if name in found]
    recovered = holm({name: found[name].p for name in tested})
    shares = nearer(read, truth, tested)
    by_trait = {}
    for name in held_out:
        is_number = name in truth.numbers
        row: dict[str, Any] = {
            "kind": "number" if is_number else "kind",
            "reader": _percent(held_out[name].value, is_number),
            "readable": name in readable,
        }
        if name in found:
            reading = found[name]
            for key in ("value", "low", "high", "floor"):
                row[key] = _percent(getattr(reading, key), is_number)
            row.update(p=reading.p, people=reading.people, recovered=name in recovered)
            if name in ceiling:
                row["photographs"] = _percent(ceiling[name].value, is_number)
        if name in tested:
            row["nearer"] = 100 * float(shares[:, tested.index(name)].nanmean())
        by_trait[name] = row
    numbers: dict[str, Any] = {
        "identities": len(next(iter(truth.numbers.values()))),
        "readable": len(readable),
        "tested": len(tested),
        "recovered": len(recovered),
        "by_trait": by_trait,
    }
    if tested:
        each = shares.nanmean(1)
        numbers["nearer"] = mean_interval(each)
        real = nearer(photographs, truth, tested).nanmean(1)
        numbers["nearer"]["photographs"] = 100 * float(real.mean())
        numbers["by_group"] = by_group(truth, {"nearer": 100 * each, **hits})
    return numbers


def by_group(truth: KnownTraits, measures: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Means over the people of each class of each kind, with intervals over them, of ``measures`` [people] in
    percent; classes of fewer than FEWEST people have their number alone.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (names, classes) in truth.kinds.items():
        groups: dict[str, Any] = {}
        for number, word in enumerate(names):
            rows = classes == number
            groups[word] = {"identities": int(rows.sum())}
            if int(rows.sum()) >= FEWEST:
                groups[word].update(
                    {measure: mean_interval(values[rows] / 100) for measure, values in measures.items()}
                )
        found[name] = groups
    return found


def _percent(value: float, is_number: bool) -> float:
    """A correlation as it is, a share in percent."""
    return value if is_number else 100 * value
