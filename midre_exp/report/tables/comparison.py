"""From records to comparison tables: one row per setup, attack, target and defense, seeds averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from midre_exp.errors import ConfigError
from midre_exp.plan.spelling import SPELLED
from midre_exp.records import Record
from midre_exp.records.verdicts import said_same
from midre_exp.report.runs import controls
from midre_exp.report.runs.captions import circumstances, provenance
from midre_exp.report.runs.trade_off import trade_off
from midre_exp.report.tables import leakage
from midre_exp.report.tables.judges import about_judges, heading_of, judges_of

KEYS = ["setup", "attack", "target", "defense"]

#: Measured columns: record metric, heading, digits.
COLUMNS = (
    ("acc", "Acc", 2),
    ("train_acc", "train acc", 2),
    ("att_acc1", "AttAcc", 2),
    ("att_acc1_batch_std", "±", 2),
    ("att_acc1_low", "95 % from", 1),
    ("att_acc1_high", "to", 1),
    ("att_acc1_round1", "round 1", 2),  # of attacks in rounds alone
    # of suites of attacks alone
    ("plain", "plain", 1),
    ("informed", "informed", 1),
    ("informed_equal", "informed, equal queries", 1),
    ("scores_only", "scores", 1),
    ("labels_only", "labels", 1),
    ("best_attack", "best single", 1),
    ("chosen_by_target", "chosen by target", 1),
    ("att_acc5", "top-5", 2),
    *controls.COLUMNS,
    ("knn_dist", "KNN dist", 3),
    ("delta_eval", "dist eval", 3),
    ("delta_face", "dist face", 3),
    *leakage.COLUMNS,
    ("queries", "queries", 0),
)


#: Stages of an attacker, whose seconds are told where a table asks for them by this name.
ATTACKER_SECONDS = "attacker_seconds"
ATTACKER = ("prior", "surrogates", "candidates", "tuned_prior", "attack")


def comparison(records: Sequence[Record], further: Sequence[str] = ()) -> pd.DataFrame:
    """Rows by ``KEYS`` in order of appearance, metrics averaged over seeds, Δ against the setup's NoDef row.

    Δ is empty where the setup has no undefended record. ``further``: metrics that are shown besides
    ``COLUMNS``, or ``attacker_seconds``. Raises ConfigError for one that no record has.
    """
    data = _by_run(records)
    usual = [name for name, _, _ in COLUMNS]
    if unknown := [name for name in further if name not in _metrics(records)]:
        raise ConfigError(
            f"no record has a metric {unknown[0]}; they have {', '.join(sorted(_metrics(records)))}"
        )
    measured = [name for name in (*usual, *further) if name in data] + judges_of(data)
    measured = list(dict.fromkeys(measured))
    grouped = data.groupby(KEYS, sort=False)
    table = grouped[measured].mean()
    table["n"] = grouped["n"].sum()
    if "failed" in data:
        table["failed"] = data.astype({"failed": float}).groupby(KEYS, sort=False)["failed"].sum(min_count=1)
    table["seeds"] = grouped["seed"].nunique()
    table = table.reset_index()
    undefended = table[table.defense == "NoDef"].set_index(["setup", "attack", "target"])

    def delta(row: pd.Series[Any]) -> float | str | None:
        place = (row.setup, row.attack, row.target)
        if row.defense == "NoDef" or place not in undefended.index:
            return None
        base = undefended.loc[place]
        pairs = [(values.get("acc"), values.get("att_acc1")) for values in (row, base)]
        if any(value is None or pd.isna(value) for pair in pairs for value in pair):
            return None  # an attack accuracy that was not measured
        return trade_off(*map(float, (*pairs[0], *pairs[1])))

    table["delta"] = table.apply(delta, axis=1)
    return table


def _metrics(records: Sequence[Record]) -> set[str]:
    """The names of everything measured."""
    return {ATTACKER_SECONDS, *(name for record in records for name in record["metrics"])}


def _by_run(records: Sequence[Record]) -> pd.DataFrame:
    """One row per record: ``KEYS``, seed, every metric, and ``n``, the number of reconstructions that count.

    With an attack among them that sees only scores or labels also ``queries``, the mean per reconstruction
    with those that prepared the attack, and ``failed``, how many reconstructions are none by the attack's own
    rule.
    """
    limited = any_limited(records)
    rows = [
        {
            "setup": record["setup"]["id"],
            "attack": record["attack"],
            "target": record["target"],
            "defense": record["defense"]["label"],
            "seed": record["seed"],
            "n": record["counts"].get("counted", record["counts"]["reconstructions"]),
            **(_query_counts(record) if limited else {}),
            ATTACKER_SECONDS: _attacker_seconds(record),
            **said_same(record),
            **record["metrics"],
        }
        for record in records
    ]
    return pd.DataFrame(rows)


def _attacker_seconds(record: Record) -> float:
    """What the attacker's stages took, of all rounds, those that other runs share too."""
    taken = record.get("seconds", {}).items()
    return sum(seconds for stage, seconds in taken if stage.partition(".")[0] in ATTACKER)


def any_limited(records: Sequence[Record]) -> bool:
    """Whether one of the attacks sees less than the whole target. Records that do not say are of white-box
    attacks.
    """
    return any(record.get("threat", "white_box") != "white_box" for record in records)


def _query_counts(record: Record) -> dict[str, float | None]:
    counts, asked = record["counts"], record["queries"] + record.get("queries_before", 0)
    return {"queries": asked / counts["reconstructions"], "failed": counts.get("failed")}


def printable(table: pd.DataFrame, further: Sequence[str] = ()) -> pd.DataFrame:
    """The comparison with headings and rounded text, empty where a value is missing. Columns that never vary
    are left to the caption. ``further`` as in ``comparison``, under their own names.
    """
    shown = pd.DataFrame()
    for name in ("setup", "attack", "target"):
        if table[name].nunique() > 1:
            shown[name] = table[name].map(SPELLED.get(name, str))
    shown["Defense"] = table["defense"]
    for name, heading, digits in COLUMNS:
        if name in table:
            shown[heading] = [rounded(value, digits) for value in table[name]]
    for name in dict.fromkeys(further):
        if name in table and name not in [usual for usual, _, _ in COLUMNS]:
            shown[name] = [significant(value) for value in table[name]]
    for name in judges_of(table):
        shown[heading_of(name)] = [rounded(value, 1) for value in table[name]]
    shown["Δ"] = [rounded(value, 2) for value in table["delta"]]
    shown["n"] = [rounded(value, 0) for value in table["n"]]
    if "failed" in table:
        shown["failed"] = [rounded(value, 0) for value in table["failed"]]
    return shown


def rounded(value: float | str | None, digits: int) -> str:
    """A number with so many digits, words as they are, nothing where nothing was measured."""
    if isinstance(value, str):
        return value
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def significant(value: float | None) -> str:
    """A number of unknown size with four digits, nothing where nothing was measured."""
    return "" if value is None or pd.isna(value) else f"{value:.4g}"


def caption(title: str, records: Sequence[Record]) -> str:
    """What a reader must know to trust the table. Setups with other data, counts or evaluators are told
    apart.
    """
    prepared = any("queries_before" in record for record in records)
    before = ", with those that prepared the attack" if prepared else ""
    queries = (
        f"Queries are the mean per reconstruction{before}; failed reconstructions, none by the attack's own "
        "rule, count as missed. "
        if any_limited(records)
        else ""
    )
    return (
        f"{circumstances(title, records)}. Acc, AttAcc and top-5 in percent; train acc: on what the target "
        f"was shown in its last epoch, erased and mixed as it was; ± is the mean "
        f"deviation over restarts within identity batches; the interval is a bootstrap over identities; "
        f"Δ is attack accuracy removed per point of accuracy lost, OP where "
        f"none was lost. {queries}{_rounds(records)}{_judged(records)}{provenance(records)}"
    )


def _rounds(records: Sequence[Record]) -> str:
    """What is known of the rounds of attacks."""
    found = [record["rounds"] for record in records if "rounds" in record]
    if not found:
        return ""
    features = sorted({str(one["tuning"]["features"]) for one in found if "features" in one["tuning"]})
    compared = f" on features of {' or '.join(features)}" if features else ""
    return (
        "Attacks in rounds tune their prior between two of them, for each identity on its own best "
        f"reconstructions{compared}; round 1 is the base attack, on the same target. "
    )


def _judged(records: Sequence[Record]) -> str:
    """What the columns of judges mean."""
    return f"{controls.about_columns(records)}{leakage.about(records)}{about_judges(records)}"
