"""What the MIDRE paper claims, and ``python -m midre_exp.report claims``: what the records of a scale say to
each claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.records import read_records, results_folder
from midre_exp.report.claims.comparisons import (
    against,
    at_equal_share,
    better_bargain,
    combined,
    cost,
    erasing,
    everywhere,
    per_share,
    wider,
)
from midre_exp.report.claims.intervals import Arena, arenas
from midre_exp.report.claims.verdicts import Claim, Effect, Verdict, judge
from midre_exp.store.files import write_atomic, write_json

#: The largest loss of accuracy under MIDRE that the paper prints (Table 5 Setup 2: 86.90 to 79.85): what
#: "small" can mean at most.
SMALL_COST = 7.05

POINTS = "points of attack accuracy"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "erasing-protects",
        "Random erasing lowers attack accuracy",
        "abstract, Sec. 4.2",
        POINTS,
        partial(erasing, metric="att_acc1"),
        "below",
        needs="MIDRE and NoDef of one setup",
    ),
    Claim(
        "small-cost",
        f"Random erasing costs at most {SMALL_COST:g} points of accuracy, the most the paper prints",
        "Sec. 4.2, Tables 3 and 5",
        "points of accuracy lost",
        cost,
        "below",
        SMALL_COST,
        needs="MIDRE and NoDef of one setup",
    ),
    Claim(
        "partial-beats-entire",
        "Erasing a share of every image protects more than leaving that share of the images out (RE, EE)",
        "Sec. 3.3, Table 1",
        POINTS,
        partial(at_equal_share, first="RE", second="EE", metric="att_acc1"),
        "below",
        needs="RE and EE with the same share",
    ),
    Claim(
        "random-beats-fixed-accuracy",
        "A new place every time costs less accuracy than a fixed one (RE, FE)",
        "Sec. 3.3, Table 1",
        "points of accuracy",
        partial(at_equal_share, first="RE", second="FE", metric="acc"),
        "above",
        needs="RE and FE with the same share",
    ),
    Claim(
        "random-beats-fixed-attack",
        "A new place every time is attacked less successfully than a fixed one (RE, FE)",
        "Sec. 3.3, Table 1",
        POINTS,
        partial(at_equal_share, first="RE", second="FE", metric="att_acc1"),
        "below",
        needs="RE and FE with the same share",
    ),
    *(
        Claim(
            f"better-than-{name.lower()}",
            f"MIDRE has a better trade-off Δ than {name}",
            source,
            "% of draws won",
            partial(better_bargain, other=name),
            "above",
            ranked=True,
            needs=f"NoDef, MIDRE and {name} of one setup",
        )
        for name, source in (
            ("NLS", "Table 3, Fig. 5"),
            ("BiDO", "Table 5, Fig. 5"),
            ("MID", "Fig. 5"),
            ("TL-DMI", "Fig. 5"),
            ("RoLSS", "Sec. 4.1"),
            ("SSF", "Sec. 4.1"),
            ("TTS", "Sec. 4.1"),
        )
    ),
    *(
        Claim(
            f"more-than-{name.lower()}",
            f"MIDRE is attacked less successfully than a target trained with {words}",
            "Table 4",
            POINTS,
            partial(against, other=name, metric="att_acc1"),
            "below",
            needs=f"MIDRE and {name} of one setup",
        )
        for name, words in (
            ("CutMix", "CutMix"),
            ("RandomCropping", "random cropping"),
            ("GaussianBlur", "Gaussian blur"),
        )
    ),
    Claim(
        "combining-helps",
        "MIDRE with another defense is attacked less successfully than either alone",
        "Sec. 4.4, Table 5",
        POINTS,
        combined,
        "below",
        every=True,
        needs="MIDRE, another defense and both together",
    ),
    Claim(
        "more-is-stronger-share",
        "The larger the share erased, the lower the attack accuracy (RE)",
        "Sec. 3.1, Fig. 2, Table 1",
        f"{POINTS} per 10 % of the image",
        per_share,
        "below",
        needs="RE with two or more shares",
    ),
    Claim(
        "more-is-stronger-range",
        "The range up to 0.8 protects more than the range up to 0.4",
        "Sec. 4.2, Fig. 5",
        POINTS,
        wider,
        "below",
        needs="MIDRE with two ranges",
    ),
    *(
        Claim(
            f"holds-across-{word}",
            f"Random erasing lowers attack accuracy on all {words}",
            "Table 2, Sec. 4.2",
            POINTS,
            partial(everywhere, what=what),
            "below",
            every=True,
            needs=f"MIDRE and NoDef on two or more {words}",
        )
        for word, words, what in (
            ("architectures", "architectures", lambda arena: arena.target),
            ("attacks", "attacks", lambda arena: arena.attack),
            ("data", "data sets", lambda arena: arena.data),
        )
    ),
)


def report_claims(overrides: Sequence[str]) -> list[Path]:
    """Judge every claim by the records of the scale that the overrides choose, print a table, write
    ``claims.md`` and ``claims.json``.

    Raises ConfigError when there are no records.
    """
    with packaged_configs():
        settings = settings_of([part for part in overrides if not part.startswith("hydra")])
    folder = results_folder(settings)
    records = read_records(results_folder(settings))
    if not records:
        raise ConfigError(f"{folder / 'records'} holds no records; make some, for example with make table1")
    found, left_out = arenas(records)
    verdicts = [judge(claim, found) for claim in CLAIMS]
    text = caption(found, left_out)
    lines = overview(verdicts)
    print(
        f"\n{tabulate(lines, headers='keys', tablefmt='simple', disable_numparse=True, maxcolwidths=[60])}\n\n{text}\n"
    )
    paths = [folder / "claims.md", folder / "claims.json"]
    write_atomic(paths[0], as_markdown(lines, verdicts, text))
    write_json(paths[1], {"caption": text, "claims": [as_json(verdict) for verdict in verdicts]})
    print("written: " + ", ".join(str(path) for path in paths))
    return paths


def overview(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """One line for each claim."""
    return [
        {
            "Claim": verdict.claim.statement,
            "Answer": verdict.answer,
            **shown(verdict.overall),
            "Unit": verdict.claim.unit,
            "Cases": str(len(verdict.cases)),
        }
        for verdict in verdicts
    ]


def shown(effect: Effect) -> dict[str, str]:
    """An effect as text; empty where it was not measured."""
    numbers = {"Effect": effect.value, "95 % from": effect.low, "to": effect.high}
    return {name: "" if number is None else f"{number:.2f}" for name, number in numbers.items()}


def caption(found: Sequence[Arena], left_out: int) -> str:
    """What a reader must know to trust the answers: scale, data, seeds, how the intervals were made, commits,
    devices.
    """
    records = [record for arena in found for side in arena.sides for record in side.records]

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(record[key]) for record in records))

    seeds = max(len(side.seeds) for arena in found for side in arena.sides)
    methods = {
        True: "a paired bootstrap over identities and seeds",
        False: "a normal approximation from each record's interval",
    }
    used = " and ".join(methods[paired] for paired in sorted({arena.paired for arena in found}, reverse=True))
    one_seed = " One seed: how much another training would change is in no interval." if seeds == 1 else ""
    dropped = (
        f" {left_out} records of other configurations of the same setups are left out." if left_out else ""
    )
    return (
        f"Scale {records[0]['scale']}: {len(records)} records of {'; '.join(setups(found))}. An effect is the mean over its cases, "
        f"or, where a claim is about all of them, the case that speaks least for it; supported and contradicted mean that its 95 % "
        f"interval leaves the claimed limit out, claim by claim. Intervals of attack accuracy: {used}; of accuracy: binomial in the "
        f"test images.{one_seed}{dropped} Seeds {all_of('seed')}; commit {all_of('commit')}; {all_of('device')}."
    )


def setups(found: Sequence[Arena]) -> list[str]:
    """Each setup once, with what attacked which target on which data; setups of which that says enough share
    a line.
    """
    attacks: dict[tuple[str, str, str], list[str]] = {}
    for arena in found:
        attacks.setdefault((arena.setup, arena.target, arena.data), []).append(arena.attack)
    lines: dict[tuple[str, str, str], list[str]] = {}
    for (setup, target, data), names in attacks.items():
        lines.setdefault((", ".join(dict.fromkeys(names)), target, data), []).append(setup)
    return [
        f"{', '.join(names)} ({attack} on {target}, {data})"
        for (attack, target, data), names in lines.items()
    ]


def as_markdown(lines: Sequence[Mapping[str, str]], verdicts: Sequence[Verdict], text: str) -> str:
    """The overview, then every case of every claim."""
    parts = [tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True), text]
    for verdict in verdicts:
        claim = verdict.claim
        parts.append(f"### {claim.statement}: {verdict.answer}")
        if not verdict.cases:
            parts.append(f"Needs {claim.needs}. Source: {claim.source}.")
            continue
        cases = [
            {"Where": case.where, "What": case.detail, **shown(case), "Answer": case.answer}
            for case in verdict.cases
        ]
        parts.append(
            f"Claimed: {claim.claimed} {50 if claim.ranked else claim.threshold:g} {claim.unit}. Source: {claim.source}."
        )
        parts.append(tabulate(cases, headers="keys", tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(parts) + "\n"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Everything of a verdict as plain values."""
    claim = verdict.claim
    return {
        "name": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "claimed": claim.claimed,
        "threshold": 50 if claim.ranked else claim.threshold,
        "unit": claim.unit,
        "answer": verdict.answer,
        "effect": asdict(verdict.overall),
        "cases": [asdict(case) for case in verdict.cases],
    }
