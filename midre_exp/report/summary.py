"""``python -m midre_exp.report summary``: one page on a scale, results/<scale>/README.md, made of what its
records and the answers to its claims say. No sentence on a result stands here: each is put together from a
decision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.spelling import network_name
from midre_exp.records import Record, read_records, results_folder
from midre_exp.records.text import inline
from midre_exp.report.definitions import definitions, load_definition
from midre_exp.report.runs.captions import alarms, passed_over, provenance
from midre_exp.report.runs.convergence import (
    FITS,
    NOT_CONVERGED,
    NOT_MEASURED,
    fit_of,
    stops_early,
    training_of,
    underfits,
    verdicts,
)
from midre_exp.store.files import write_atomic
from midre_exp.store.names import stored_as

#: What each answer is called, in the order of the page.
ANSWERS = {
    "supported": "Supported",
    "contradicted": "Contradicted",
    "undecided": "Undecided",
    "not measured": "Not measured",
}


def render_summary(overrides: Sequence[str]) -> Path:
    """Write and print the page of the scale that the overrides choose; returns its path. Raises ConfigError
    where its claims have not been answered.
    """
    with packaged_configs():
        settings = settings_of([part for part in overrides if not part.startswith("hydra")])
    folder = results_folder(settings)
    records, unreadable = read_records(folder)
    path = folder / "README.md"
    text = "\n\n".join(
        [
            f"# Scale {settings['scale']} on one page",
            "Rendered from the records of this folder by `python -m midre_exp.report summary`; how to read "
            "it: [docs/evidence.md](../../docs/evidence.md).",
            *sentences(answered(folder / "claims.json"), records, verdicts(folder)),
            "## Tables and figures",
            "\n".join(contents(folder)),
            "## What it took",
            " ".join(filter(None, [cost(records), provenance(records), passed_over(unreadable)])),
            *alarms(records),
        ]
    )
    print(f"\n{text}\n")
    write_atomic(path, text + "\n")
    print(f"written: {path}")
    return path


def answered(path: Path) -> list[dict[str, Any]]:
    """The answers that ``claims`` left: of the claims registered for the scale, where one is measured,
    else of all. Raises ConfigError where there are none, or no readable ones.
    """
    try:
        claims: list[dict[str, Any]] = json.loads(path.read_text())["claims"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no answers to claims; make them with midre-exp report claims summary"
        ) from error
    registered = [claim for claim in claims if "corrected_p" in claim]
    return registered if any(claim["effect"]["value"] is not None for claim in registered) else claims


def sentences(
    claims: Sequence[Mapping[str, Any]], records: Sequence[Record], known: Mapping[str, str]
) -> list[str]:
    """How many claims were answered how; each answer with its claims; then the trainings behind them."""
    by_answer = {answer: [claim for claim in claims if claim["answer"] == answer] for answer in ANSWERS}
    counts = ", ".join(f"{len(own)} {answer}" for answer, own in by_answer.items())
    return [
        f"Of {len(claims)} claims: {counts}.",
        *(f"**{ANSWERS[answer]}.** {'; '.join(map(told, own))}." for answer, own in by_answer.items() if own),
        trainings(records, known),
    ]


def told(claim: Mapping[str, Any]) -> str:
    """A claim with its effect, interval and corrected p, as far as there are any."""
    effect, p = claim["effect"], claim.get("corrected_p")
    numbers = [] if effect["value"] is None else [f"{effect['value']:+.1f} {claim['unit']}"]
    if effect["low"] is not None:
        numbers.append(f"95 % interval {effect['low']:+.1f} to {effect['high']:+.1f}")
    if p is not None:
        numbers.append("corrected p < 0.001" if p < 0.001 else f"corrected p {p:.3f}")
    statement = inline(claim["statement"])
    return f"{statement} ({', '.join(numbers)})" if numbers else f"{statement} (needs {claim_needs(claim)})"


def claim_needs(claim: Mapping[str, Any]) -> str:
    """Which runs an unanswered claim lacks."""
    return str(claim["effect"]["detail"] or "other runs")


def trainings(records: Sequence[Record], known: Mapping[str, str]) -> str:
    """How many arms were trained to the end, and which were not, a sentence or two."""
    arms: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if not stops_early(record) and record["metrics"].get("train_acc") is not None:
            arms.setdefault((record["target"], record["defense"]["label"]), []).append(record)
    if known:  # those of other lengths served the verdict alone
        arms = {
            arm: kept
            for arm, own in arms.items()
            if (kept := [record for record in own if training_of(record["config"]) in known])
        }
    short = [
        f"{label} of {network_name(target)} ({fit_of(own):.1f} %)"
        for (target, label), own in arms.items()
        if underfits(own)
    ]
    moving = [
        f"{label} of {network_name(target)}"
        for (target, label), own in arms.items()
        if any(known.get(training_of(record["config"])) == NOT_CONVERGED for record in own)
    ]
    fitting = f"{len(arms) - len(short)} of {len(arms)} arms"
    fits = f"{fitting} fit at least {FITS:g} % of what they were shown in training"
    rest = f"; less do {', '.join(short)}" if short else ""
    if not known:
        return f"**Trainings.** {fits}{rest}. {NOT_MEASURED}"
    too_short = f"too short by the rule of convergence are {', '.join(moving)}"
    verdict = too_short if moving else "none is too short by the rule of convergence"
    return f"**Trainings.** {fits}{rest}; {verdict} ([convergence.md](convergence.md))."


def contents(folder: Path) -> list[str]:
    """A line for each table and figure that lies in the folder, with its title, and for the claims."""
    lines = []
    for kind in ("table", "figure"):
        for name in definitions(kind):
            if (folder / f"{name}.md").exists():
                lines.append(f"- [{name}]({name}.md): {inline(load_definition(name).title)}")
    if (folder / "forest.md").exists():
        lines.append("- [forest](forest.md): the effects behind the claims, with intervals")
    if (folder / "claims.md").exists():
        lines.append("- [claims](claims.md): every claim with all of its cases")
    return lines


def cost(records: Sequence[Record]) -> str:
    """Runs, stages and the time they took, each stage once."""
    seconds = {
        (stored_as(stage), record["artifacts"][stage]): float(took)
        for record in records
        for stage, took in record.get("seconds", {}).items()
        if stage in record["artifacts"]
    }
    hours = sum(seconds.values()) / 3600
    return f"{len(records)} runs of {len(seconds)} stages, {hours:.1f} hours of one process."
