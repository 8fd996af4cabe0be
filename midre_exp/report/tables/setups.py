"""The setups of the paper as a table (its Table 2), with what a defense did in each of them at a scale, a row
for each range of MIDRE.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.records import results_folder
from midre_exp.report.definitions import TableDefinition
from midre_exp.report.runs.captions import provenance
from midre_exp.report.runs.controls import about_controls
from midre_exp.report.runs.convergence import told_once, verdicts
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import PlannedRun, unreadable
from midre_exp.report.runs.trade_off import trade_off
from midre_exp.report.tables.comparison import rounded
from midre_exp.report.tables.notes import remarks_of, with_remarks
from midre_exp.report.tables.publish import RenderedTable

#: Columns of text, by their names in the CSV and as headings.
DESCRIPTION = ("setup", "attack", "sees", "target", "private", "public", "px", "MIDRE")
#: Measured columns: name in the CSV, heading.
MEASURED = (
    ("acc", "Acc"),
    ("train_acc", "train acc"),
    ("att_acc1", "AttAcc"),
    ("acc_defended", "Acc defended"),
    ("train_acc_defended", "train acc defended"),
    ("att_acc1_defended", "AttAcc defended"),
    ("delta", "Δ"),
)


def render_setups(definition: TableDefinition, runs: Sequence[PlannedRun]) -> RenderedTable:
    """The table. Raises ConfigError when the runs of a setup are not one undefended and one defended."""
    scale, folder = str(runs[-1].settings["scale"]), results_folder(runs[-1].settings)
    records = [run.record for run in runs if run.record is not None]
    measured = (
        "Acc, train acc (on what the target was shown in its last epoch, erased as it was) and AttAcc in "
        "percent; Δ is attack accuracy removed per point of accuracy lost, "
        f"OP where none was lost. {about_controls(records)}{provenance(records)}"
        if records
        else "Nothing has been run yet."
    )
    caption = (
        f"{definition.title}. Data and resolution are those the paper names, certainty says how sure it is "
        f"that the paper has this setup. Scale {scale}{', on synthetic faces' if scale != 'paper' else ''}. "
        f"{measured}"
    )
    values = setup_table(runs)
    by_setup: dict[str, list[tuple[str, str]]] = {}
    for (setup, *_, label), sentences in remarks_of(runs).items():
        by_setup.setdefault(setup, []).extend((label, f"{label}: {sentence}") for sentence in sentences)
    told = [
        [sentence for label, sentence in by_setup[setup] if label == "NoDef" or share in label]
        for setup, share in zip(values["setup"], values["MIDRE"], strict=True)
    ]
    shown, table, numbered = with_remarks(printable(values), values, told)
    return RenderedTable(
        title=definition.title,
        values=table,
        shown=shown,
        caption=" ".join(filter(None, [caption, told_once(records, verdicts(folder)), unreadable(runs)])),
        notes=[*numbered, " ".join(INCONSISTENCIES[number] for number in definition.inconsistencies)],
        missing=[run.command for run in runs if run.record is None and run.diverged is None],
    )


def setup_table(runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """One row for each setup and range of MIDRE, in the order of the runs: the paper's description, and the
    means over seeds undefended and defended.

    Raises ConfigError when the runs of a row differ in more than the seed and whether they are defended.
    """
    by_setup: dict[str, list[PlannedRun]] = {}
    for run in runs:
        by_setup.setdefault(run.setup, []).append(run)
    rows = []
    for own in by_setup.values():
        undefended = [run for run in own if not run.defense.names]
        ranges = list(dict.fromkeys(run.defense.share for run in own if run.defense.names)) or [None]
        for share in ranges:
            defended = [run for run in own if run.defense.names and run.defense.share == share]
            rows.append(_row([*undefended, *defended], share))
    return pd.DataFrame(rows)


def _row(runs: Sequence[PlannedRun], share: tuple[float, float] | None) -> dict[str, Any]:
    """One row; ``share``: the range of its defended runs, None: the setup's."""
    setup = runs[0].settings["setup"]
    as_published = OmegaConf.load(CONF_DIR / "setup" / f"{setup['id']}.yaml")  # before a scale reduced it
    undefended = [run for run in runs if not run.defense.names]
    defended = [run for run in runs if run.defense.names]
    for defense in (undefended, defended):
        seeds = [run.seed for run in defense]
        if len({run.label for run in defense}) > 1 or len(set(seeds)) < len(seeds):
            raise ConfigError(
                f"setup {setup['id']} has several runs per seed; a table with rows: setups takes one "
                "undefended and one defended run for each range, so let only seed= be swept"
            )
    row: dict[str, Any] = {
        "setup": setup["id"],
        "attack": setup["attack"],
        "sees": setup["attack_type"],
        "target": setup["target"],
        "private": setup["private"],
        "public": setup["public"],
        "px": as_published.resolution,
        "MIDRE": " ".join(
            f"[{low:g}, {high:g}]" for low, high in (setup["midre_ranges"] if share is None else [share])
        ),
        "runs": sum(run.record is not None for run in runs),
        **_means(undefended, ""),
        **_means(defended, "_defended"),
    }
    if None not in (row["att_acc1"], row["att_acc1_defended"]):
        row["delta"] = trade_off(row["acc_defended"], row["att_acc1_defended"], row["acc"], row["att_acc1"])
    return {**row, "certainty": setup["certainty"]}


def _means(runs: Sequence[PlannedRun], ending: str) -> dict[str, float | None]:
    metrics = [run.record["metrics"] for run in runs if run.record is not None]
    measured = {
        name: [values[name] for values in metrics if name in values]
        for name in ("acc", "train_acc", "att_acc1")
    }
    return {f"{name}{ending}": mean(values) if values else None for name, values in measured.items()}


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with headings and rounded text; what was not run is empty."""
    shown = table[list(DESCRIPTION)].copy()
    shown = shown.assign(attack=table["attack"].map(attack_name), target=table["target"].map(network_name))
    for name, heading in MEASURED:
        if name in table:
            shown[heading] = [rounded(value, 2) for value in table[name]]
    shown["runs"], shown["certainty"] = table["runs"], table["certainty"]
    return shown.astype(str)
