"""What the attacked targets are like, one row for each defense (``rows: diagnostics``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import pandas as pd

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import SPELLED
from midre_exp.records import Record, results_folder
from midre_exp.records.schema import at
from midre_exp.report.definitions import TableDefinition
from midre_exp.report.runs.captions import circumstances, provenance
from midre_exp.report.runs.convergence import told_once, verdicts
from midre_exp.report.runs.planned_runs import PlannedRun, disambiguate, unreadable
from midre_exp.report.tables.comparison import KEYS, rounded
from midre_exp.report.tables.notes import remarks_of, with_remarks
from midre_exp.report.tables.publish import RenderedTable

#: Columns without an interval: metric of the record, heading, digits.
PLAIN = (("acc", "Acc", 1), ("train_acc", "train acc", 1), ("att_acc1", "AttAcc", 1))
#: Columns with one, those of eps apart: metric, heading, digits, what it is, a sentence.
MEASURED = (
    ("robust_area", "robust area", 1, "robust area: mean of robust accuracy over the logarithm of eps"),
    ("robust_eps_half", "eps half", 2, "eps half: where half of the clean accuracy is left, in 1/255"),
    ("ece", "ECE", 1, "ECE: expected calibration error in percent, of the network and not of its answers"),
    ("nll", "NLL", 2, ""),
    ("brier", "Brier", 3, ""),
    ("hsic_xz", "HSIC(X,Z)", 2, "HSIC: BiDO's normalised dependence of features Z on images X and labels Y"),
    ("hsic_zy", "HSIC(Z,Y)", 2, ""),
    ("mia_auc", "MIA AUC", 1, "MIA: membership by a threshold of the loss, in percent, 50 tells nothing"),
    ("mia_advantage", "MIA adv", 1, ""),
    ("lira_auc", "LiRA AUC", 1, "LiRA: membership against shadow models under the same defense"),
    ("alignment", "alignment", 3, "alignment: share of a gradient's length along the prior's pictures"),
    ("trap_cosine", "trap", 2, "trap: cosine of reconstructions with the traps of their class"),
    ("knowledge_test", "KES", 1, "KES: accuracy on private test images of a student of the reconstructions"),
)
#: Metrics of which there is one for each eps.
_CURVE = re.compile(r"(?P<kind>robust|apgd_ce|apgd_dlr)@(?P<eps>[0-9.]+)")
#: What a reader must not take them for.
_READ = (
    "Intervals are of the images (95 %, bootstrap), of several seeds the widest ends; they say nothing of "
    "another training."
)


def render_diagnostics(definition: TableDefinition, runs: Sequence[PlannedRun]) -> RenderedTable:
    """Means over seeds. Raises ConfigError when no run has diagnostics."""
    runs = disambiguate(runs)
    records = [run.record for run in runs if run.record is not None]
    diagnosed = [record for record in records if "diagnostics" in record]
    if not diagnosed:
        raise ConfigError(
            f"table {definition.name} has no finished run with diagnostics; its sweep needs "
            "diagnostics=default, and leave out --no-run to run it"
        )
    arms: dict[tuple[str, ...], list[Record]] = {}
    for run in runs:
        own = arms.setdefault(tuple(run.row.values()), [])
        own += [run.record] if run.record is not None else []
    values = pd.DataFrame([_row(arm, own) for arm, own in arms.items()])
    remarks = remarks_of(runs)
    for arm, own in arms.items():
        remarks.setdefault(arm, []).extend([*_reasons(own), *_not_as_answered(own)])
    rows = [remarks.get(arm, []) for arm in arms]
    shown, values, notes = with_remarks(printable(values), values, rows)
    text = f"{circumstances(definition.title, records)}. {about(diagnosed, values)} {provenance(records)}"
    folder = results_folder(runs[-1].settings)
    return RenderedTable(
        title=definition.title,
        values=values,
        shown=shown,
        caption=" ".join(filter(None, [text, told_once(records, verdicts(folder)), unreadable(runs)])),
        notes=notes,
        missing=[run.command for run in runs if run.record is None and run.diverged is None],
    )


def _row(arm: tuple[str, ...], records: Sequence[Record]) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(KEYS, arm, strict=True))
    metrics = [record["metrics"] for record in records]
    for name in [name for name, *_ in PLAIN] + columns_of(records):
        row[name] = _over(metrics, name, mean)
        if any(f"{name}_low" in each for each in metrics):
            row[f"{name}_low"] = _over(metrics, f"{name}_low", min)
            row[f"{name}_high"] = _over(metrics, f"{name}_high", max)
    row["alignment_chance"] = _over(metrics, "alignment_chance", mean)
    row["knowledge_ceiling"] = _over(metrics, "knowledge_test_ceiling", mean)
    row["seeds"] = len({record["seed"] for record in records})
    return row


def _over(metrics: Sequence[Mapping[str, float]], name: str, how: Any) -> float | None:
    known = [each[name] for each in metrics if name in each]
    return float(how(known)) if known else None


def columns_of(records: Sequence[Record]) -> list[str]:
    """The metrics with columns of their own that some record has: robust accuracies by rising eps first."""
    known = {name for record in records for name in record["metrics"]}
    curves = [found for name in known if (found := _CURVE.fullmatch(name)) is not None]
    in_order = sorted(curves, key=lambda one: (one["kind"] != "robust", one["kind"], float(one["eps"])))
    by_eps = [found.string for found in in_order]
    return [*by_eps, *(name for name, *_ in MEASURED if name in known)]


def printable(values: pd.DataFrame) -> pd.DataFrame:
    """With headings and rounded text, an interval in brackets where there is one. Columns that never vary are
    left to the caption.
    """
    shown = pd.DataFrame()
    for name in ("setup", "attack", "target"):
        if values[name].nunique() > 1:
            shown[name] = values[name].map(SPELLED.get(name, str))
    shown["Defense"] = values["defense"]
    for name, heading, digits in PLAIN:
        shown[heading] = [rounded(value, digits) for value in values[name]]
    told = {name: (heading, digits) for name, heading, digits, _ in MEASURED}
    for name in [name for name in values if name in told or _CURVE.fullmatch(name)]:
        heading, digits = told.get(name, (_heading(name), 0))
        nothing = [None] * len(values)
        low, high = (values.get(f"{name}_{end}", nothing) for end in ("low", "high"))
        shown[heading] = [_cell(*cell, digits) for cell in zip(values[name], low, high, strict=True)]
        if name == "alignment":
            shown["chance"] = [rounded(value, digits) for value in values["alignment_chance"]]
        if name == "knowledge_test":
            shown["real images"] = [rounded(value, digits) for value in values["knowledge_ceiling"]]
    return shown


def _cell(value: Any, low: Any, high: Any, digits: int) -> str:
    text = rounded(value, digits)
    if not text or low is None or pd.isna(low):
        return text
    return f"{text} [{rounded(low, digits)}, {rounded(high, digits)}]"


def _heading(name: str) -> str:
    """Of a robust accuracy: ``PGD 1/255``, ``APGD-CE 7.905/255``."""
    kind, _, eps = name.partition("@")
    return f"{'PGD' if kind == 'robust' else kind.replace('apgd_', 'APGD-').upper()} {eps}/255"


def about(records: Sequence[Record], values: pd.DataFrame) -> str:
    """What the columns mean, and how many images are behind them."""
    blocks = [record["diagnostics"] for record in records]
    told = []
    curves = [block["robust_accuracy"] for block in blocks if "robust_accuracy" in block]
    if curves:
        images = _joined(f"{curve['images']:,}" for curve in curves)
        steps = _joined(curve["steps"] for curve in curves)
        told.append(
            f"PGD and APGD: percent of {images} test images that are right clean and attacked, by the "
            f"largest change of a pixel (PGD: {steps} steps of a quarter of it from the clean image)"
        )
    told += [sentence for name, _, _, sentence in MEASURED if name in values and sentence]
    behind = {
        "calibration.images": "test images for calibration",
        "hsic.images": "training images for HSIC",
        "membership.members": "members",
        "membership.others": "others",
        "alignment.images": "pictures for alignment",
    }
    counts = [
        f"{_joined(f'{count:,}' for count in found)} {word}"
        for place, word in behind.items()
        if (found := [count for block in blocks if (count := at(block, place)) is not None])
    ]
    return f"{'; '.join(told)}. Behind them: {', '.join(counts)}. {_READ}"


def _reasons(records: Sequence[Record]) -> list[str]:
    """Why a diagnostic of a row has no number, a sentence each."""
    found = [
        f"{name} was not measured: {reason}"
        for record in records
        for name, reason in record.get("diagnostics", {}).get("missing", {}).items()
    ]
    lacking = any("diagnostics" not in record for record in records)
    return list(dict.fromkeys([*found, *(["a run of this row has no diagnostics"] if lacking else [])]))


def _not_as_answered(records: Sequence[Record]) -> list[str]:
    """That a deployed target's diagnostics are of the network before its answers, a sentence."""
    blocks = [record.get("diagnostics", {}) for record in records if "deployment" in record]
    looked = [name for name in ("calibration", "membership") if any(name in block for block in blocks)]
    if not looked:
        return []
    return [
        f"{' and '.join(looked)} {'is' if len(looked) == 1 else 'are'} of the plain network, and not of what "
        "the deployed target answers"
    ]


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))
