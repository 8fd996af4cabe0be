"""``python -m midre_exp.report claims``: what the records of a scale say to each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.records import Record, read_records, results_folder
from midre_exp.records.text import inline
from midre_exp.report.claims.contrasts import BetweenSeeds
from midre_exp.report.claims.decisions import LEVEL, Decision, Estimate, decide_all
from midre_exp.report.claims.definitions import load_claims
from midre_exp.report.claims.intervals import ALARM, ComparisonGroup, comparison_groups, is_measured
from midre_exp.report.claims.registration import registrations
from midre_exp.report.runs.captions import alarms, passed_over, what_varies
from midre_exp.report.runs.convergence import (
    MARK,
    UNCONVERGED,
    UNDERFITTED,
    doubts,
    told_once,
    underfits,
    verdicts,
)
from midre_exp.store.files import write_atomic, write_json


def render_claims(overrides: Sequence[str]) -> list[Path]:
    """Decide every claim by the records of the scale that the overrides choose, print a table, write
    ``claims.md`` and ``claims.json``.

    Raises ConfigError when there are no records.
    """
    with packaged_configs():
        settings = settings_of([part for part in overrides if not part.startswith("hydra")])
    folder = results_folder(settings)
    records, unreadable = read_records(folder)
    claims = load_claims(str(settings["scale"]))
    groups, left_out = comparison_groups(records)
    if not groups:
        raise ConfigError(
            f"{folder / 'records'} holds no records with an attack accuracy; make some, for example with "
            f"midre-exp report table1. {passed_over(unreadable)}".rstrip()
        )
    decisions = decide_all(claims, groups)
    registered = registrations(claims, records_of(groups))
    unmeasured = len(records) - sum(map(is_measured, records))
    text = " ".join(
        filter(
            None,
            [
                caption(groups, left_out, verdicts(folder)),
                family(decisions),
                f"{unmeasured} records have no attack accuracy." if unmeasured else "",
                passed_over(unreadable),
            ],
        )
    )
    doubts = alarms(records_of(groups))
    lines = overview(decisions, registered)
    shown = tabulate(lines, headers="keys", tablefmt="simple", disable_numparse=True, maxcolwidths=[60])
    print(f"\n{shown}\n\n{text}\n")
    for doubt in doubts:
        print(f"{ALARM} {doubt}")
    paths = [folder / "claims.md", folder / "claims.json"]
    write_atomic(paths[0], as_markdown(lines, decisions, text, doubts, registered))
    told = [{**as_json(decision), "registered": registered[decision.claim.name]} for decision in decisions]
    content = {"caption": text, "claims": told}
    write_json(paths[1], {**content, **({"alarms": doubts} if doubts else {})})
    print("written: " + ", ".join(map(str, paths)))
    return paths


def records_of(groups: Sequence[ComparisonGroup]) -> list[Record]:
    """The records that the answers rest on."""
    return [record for group in groups for defense in group.defenses for record in defense.records]


def overview(decisions: Sequence[Decision], registered: Mapping[str, str]) -> list[dict[str, str]]:
    """One line for each claim; p-values where some are registered for the scale."""
    any_registered = any(decision.claim.scales is not None for decision in decisions)
    return [
        {
            "Claim": decision.claim.statement,
            "Answer": decision.answer,
            **printable(decision.overall),
            **(p_values(decision) if any_registered else {}),
            "Unit": decision.claim.unit,
            "Cases": str(len(decision.effects)),
            "Registered": registered[decision.claim.name],
        }
        for decision in decisions
    ]


def p_values(decision: Decision) -> dict[str, str]:
    """Both p-values of a registered claim as text, or that there is none; empty for another and where nothing
    was measured.
    """
    if decision.claim.scales is not None and decision.effects and decision.p is None:
        return {"p": "no p-value", "corrected p": ""}
    numbers = {"p": decision.p, "corrected p": decision.corrected_p}
    return {name: "" if number is None else _p(number) for name, number in numbers.items()}


def _p(number: float) -> str:
    return "< 0.001" if number < 0.001 else f"{number:.3f}"


def printable(estimate: Estimate) -> dict[str, str]:
    """An estimate as text; empty where it was not measured."""
    numbers = {"Effect": estimate.value, "95 % from": estimate.low, "to": estimate.high}
    return {name: "" if number is None else f"{number:.2f}" for name, number in numbers.items()}


def caption(groups: Sequence[ComparisonGroup], left_out: int, known: Mapping[str, str]) -> str:
    """What a reader must know to trust the answers: scale, data, seeds, how the intervals were made, commits,
    devices.
    """
    records = records_of(groups)
    seeds, commits, devices = (
        ", ".join(dict.fromkeys(str(record[name]) for record in records))
        for name in ("seed", "commit", "device")
    )
    most_seeds = max(len(defense.seeds) for group in groups for defense in group.defenses)
    methods = {
        True: "a paired bootstrap over identities and seeds",
        False: "a normal approximation from each record's interval",
    }
    used = " and ".join(
        methods[paired] for paired in sorted({group.paired for group in groups}, reverse=True)
    )
    by_identity = all(d.by_identity("acc") is not None for group in groups for d in group.defenses)
    accuracy = "the same bootstrap" if by_identity else "binomial in the test images"
    one_seed = (
        " One seed: how much another training would change is in no interval."
        if most_seeds == 1
        else f" {what_varies(records)}"
    )
    dropped = (
        f" {left_out} records of other configurations of the same setups are left out." if left_out else ""
    )
    return (
        f"Scale {records[0]['scale']}: {len(records)} records of {'; '.join(setups(groups))}. "
        "An effect is the mean over its cases, or, where a claim is about all of them, the case that speaks "
        "least for it; supported and contradicted mean that its 95 % interval leaves the claimed limit out, "
        f"claim by claim. Intervals of attack accuracy: {used}; of accuracy: {accuracy}."
        f"{one_seed}{dropped} Seeds {seeds}; commit {commits}; {devices}. {trainings(groups, known)}".rstrip()
    )


def trainings(groups: Sequence[ComparisonGroup], known: Mapping[str, str]) -> str:
    """What a reader must know of the trainings behind the answers: which were too short, or that nobody
    looked.
    """
    defenses = [defense for group in groups for defense in group.defenses]
    marked = any(underfits(defense.records) for defense in defenses)
    short = [
        f"{defense.label} of {network_name(group.target)}"
        for group in groups
        for defense in group.defenses
        if UNCONVERGED in doubts(defense.records, known)
    ]
    told = [
        f"{MARK}: {UNDERFITTED}." if marked else "",
        f"Trainings too short by the rule of the table convergence: {', '.join(dict.fromkeys(short))}."
        if short
        else "",
        told_once(records_of(groups), known),
    ]
    return " ".join(filter(None, told))


def family(decisions: Sequence[Decision]) -> str:
    """How the registered claims among these are answered; nothing where there are none."""
    own = [decision for decision in decisions if decision.claim.scales is not None]
    if not own:
        return "No claim is registered for this scale; all are answered by their intervals alone."
    unknown = sum(decision.p is None and decision.answer != "not measured" for decision in own)
    lacking = (
        f" {unknown} without p, for records that lack numbers by identity or seeds of others: undecided."
        if unknown
        else ""
    )
    one_training = (
        " One seed against another has one training a side: how much trainings differ is then in neither."
        if any(isinstance(decision.claim.contrast, BetweenSeeds) for decision in own)
        else ""
    )
    return (
        f"{len(own)} registered claim{'s' if len(own) > 1 else ''}: an answer needs also p < {LEVEL:g}, "
        "corrected by Holm for all registered ones, measured or not. p is two-sided, of sign flips by "
        "identity, and supposes that exchanging the two sides within an identity changes nothing; "
        f"trainings are not exchanged, how much they differ is in the interval.{one_training}{lacking}"
    )


def setups(groups: Sequence[ComparisonGroup]) -> list[str]:
    """Each setup once, with what attacked which target on which data; setups of which that says enough share
    a line.
    """
    attacks: dict[tuple[str, str, str], list[str]] = {}
    for group in groups:
        place = (group.setup, network_name(group.target), group.data)
        attacks.setdefault(place, []).append(attack_name(group.attack))
    lines: dict[tuple[str, str, str], list[str]] = {}
    for (setup, target, data), names in attacks.items():
        lines.setdefault((", ".join(dict.fromkeys(names)), target, data), []).append(setup)
    return [
        f"{', '.join(names)} ({attack} on {target}, {data})"
        for (attack, target, data), names in lines.items()
    ]


def as_markdown(
    lines: Sequence[Mapping[str, str]],
    decisions: Sequence[Decision],
    text: str,
    doubts: Sequence[str],
    registered: Mapping[str, str],
) -> str:
    """The overview and the alarms of its records, then every effect behind every claim."""
    parts = [tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True), text]
    parts += [f"{ALARM} {inline(doubt)}" for doubt in doubts]
    for decision in decisions:
        claim = decision.claim
        parts.append(f"### {claim.statement}: {decision.answer}")
        if not decision.effects:
            parts.append(
                f"Needs {claim.needs}. Source: {claim.source}. {_registered(claim.name, registered)}"
            )
            continue
        effects = [
            {
                "Where": inline(effect.where),
                "What": inline(effect.detail),
                **printable(effect),
                "Answer": effect.answer,
            }
            for effect in decision.effects
        ]
        limit = f"{claim.claimed} {50 if claim.contrast.is_ranked else claim.threshold:g} {claim.unit}"
        found = "".join(f" {name}: {value}." for name, value in p_values(decision).items() if value)
        told = _registered(claim.name, registered)
        parts.append(f"Claimed: {limit}.{found} Source: {claim.source}. {told}")
        parts.append(tabulate(effects, headers="keys", tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(parts) + "\n"


def _registered(name: str, registered: Mapping[str, str]) -> str:
    return f"Registered: {registered[name]}."


def as_json(decision: Decision) -> dict[str, Any]:
    """Everything of a decision as plain values."""
    claim = decision.claim
    return {
        "name": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "claimed": claim.claimed,
        "threshold": 50 if claim.contrast.is_ranked else claim.threshold,
        "unit": claim.unit,
        "answer": decision.answer,
        "effect": asdict(decision.overall),
        **({} if claim.scales is None else {"p": decision.p, "corrected_p": decision.corrected_p}),
        "cases": [asdict(effect) for effect in decision.effects],
    }
