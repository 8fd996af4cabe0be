"""What a reader must know of single rows: alarms of their records, other numerics than asked for, trainings
that were too short, runs that diverged and runs that were made elsewhere. Each is a footnote with a number;
the letters are those of the paper's inconsistencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import pandas as pd

from midre_exp.records import Record, results_folder
from midre_exp.records.origin import origins
from midre_exp.report.runs import convergence
from midre_exp.report.runs.captions import alarms_of
from midre_exp.report.runs.planned_runs import PlannedRun

HEADING = "Notes"

#: Sentences by row.
Remarks = Mapping[tuple[str, ...], Sequence[str]]


def remarks_of(runs: Sequence[PlannedRun]) -> dict[tuple[str, ...], list[str]]:
    """The sentences to each row (the values of ``PlannedRun.row``), each once."""
    found: dict[tuple[str, ...], list[str]] = {}
    records: dict[tuple[str, ...], list[Record]] = {}
    for run in runs:
        sentences = [] if run.record is None else alarms_of(run.record)
        sentences += [run.numerics_note] if run.numerics_note else []
        if run.diverged is not None:
            sentences = [f"Seed {run.seed} diverged: {run.diverged}"]
        own = found.setdefault(tuple(run.row.values()), [])
        own += [sentence for sentence in sentences if sentence not in own]
        if run.record is not None:
            records.setdefault(tuple(run.row.values()), []).append(run.record)
    known = convergence.verdicts(results_folder(runs[-1].settings)) if runs else {}
    for row, made in records.items():
        found[row] += convergence.doubts(made, known)
        found[row] += answers_of(made)
        found[row] += protected_by_dcd(made)
        found[row] += origins(made)
    return found


def answers_of(records: Sequence[Record]) -> list[str]:
    """What stands behind the accuracy of a row whose targets answer something else than their probabilities,
    and whether its attack meets these answers, a sentence.
    """
    told = [(record["deployment"], record["metrics"]) for record in records if "deployment" in record]
    if not told:
        return []
    alone = mean(metrics["network_acc"] for _, metrics in told)
    moved = mean(block["distortion"] for block, _ in told)
    images = "; ".join(dict.fromkeys(f"{block['answered']:,}" for block, _ in told))
    apart = ", half of those that are held out " if any(b["calibrated_on"] for b, _ in told) else " "
    met = (
        "The attack holds the network and goes past these answers: its results are those without them."
        if all(block["bypassed"] for block, _ in told)
        else "The attack meets these answers."
        if not any("suite" in record for record in records)
        else "Members of the suite that hold the network go past these answers, the others meet them."
    )
    return [
        f"Acc is that of what the deployed target answers to {images} images{apart}"
        f"(by L1 {moved:.3f} from its probabilities); the network alone has {alone:.2f} on all. {met}"
    ]


def protected_by_dcd(records: Sequence[Record]) -> list[str]:
    """How many people DCD protects in the targets of a row: its option, which the label shows, may ask
    for more than it does.
    """
    told = [record.get("defended", {}).get("dcd", {}).get("protected") for record in records]
    counts = dict.fromkeys(str(len(people)) for people in told if people is not None)
    return [f"DCD protects {', '.join(counts)} of the attacked network's people"] if counts else []


def with_remarks(
    shown: pd.DataFrame, table: pd.DataFrame, rows: Sequence[Sequence[str]]
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The printable table with a number at each row for its sentences (``rows``, one entry a row), the values
    with the sentences themselves in a column ``notes``, and the footnotes. Nothing changes where there are
    none.
    """
    sentences = list(dict.fromkeys(sentence for own in rows for sentence in own))
    if not sentences:
        return shown, table, []
    numbers = [" ".join(str(sentences.index(sentence) + 1) for sentence in own) for own in rows]
    letters = shown[HEADING] if HEADING in shown else [""] * len(shown)
    marks = [" ".join(filter(None, pair)) for pair in zip(letters, numbers, strict=True)]
    footnotes = [f"{number}: {sentence}" for number, sentence in enumerate(sentences, start=1)]
    return shown.assign(**{HEADING: marks}), table.assign(notes=[" ".join(own) for own in rows]), footnotes
