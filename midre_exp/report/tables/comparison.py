"""From records to comparison tables: one row per setup and defense, seeds averaged, rendered as Markdown, CSV
and LaTeX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from midre_exp.report.tables.latex import latex
from midre_exp.store.files import write_atomic

#: Columns of text; numbers are aligned to the right.
WORDS = ("setup", "attack", "target", "Defense", "Notes", "sees", "private", "public", "MIDRE", "certainty")

#: Measured columns: record metric, heading, digits.
COLUMNS = (
    ("acc", "Acc", 2),
    ("att_acc1", "AttAcc", 2),
    ("att_acc1_batch_std", "±", 2),
    ("att_acc1_low", "95 % from", 1),
    ("att_acc1_high", "to", 1),
    ("att_acc5", "top-5", 2),
    ("knn_dist", "KNN dist", 3),
    ("delta_eval", "dist eval", 3),
    ("delta_face", "dist face", 3),
    ("queries", "queries", 0),
)


def frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per record: identifying columns, every metric, and ``n``, the number of reconstructions that
    count.

    With an attack among them that sees only scores or labels also ``queries``, the mean per reconstruction,
    and ``failed``, how many reconstructions are none by the attack's own rule.
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
            **(_asked(record) if limited else {}),
            **record["metrics"],
        }
        for record in records
    ]
    return pd.DataFrame(rows)


def any_limited(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the attacks sees less than the whole target. Records written before this was kept are of
    white-box attacks.
    """
    return any(record.get("threat", "white_box") != "white_box" for record in records)


def _asked(record: Mapping[str, Any]) -> dict[str, Any]:
    counts = record["counts"]
    return {"queries": record["queries"] / counts["reconstructions"], "failed": counts.get("failed")}


def trade_off(acc: float, att_acc: float, base_acc: float, base_att_acc: float) -> float | str:
    """Δ of the MIDRE paper (Sec. 4.1): attack accuracy taken away per point of accuracy lost, against the
    undefended model.

    ``OP`` where the defended model is at least as accurate, so that nothing was paid.
    """
    lost = base_acc - acc
    return (base_att_acc - att_acc) / lost if lost > 0 else "OP"


def comparison(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows per (setup, attack, target, defense) in order of appearance, metrics averaged over seeds, Δ
    against the setup's NoDef row.

    Δ is empty where the setup has no undefended record.
    """
    keys = ["setup", "attack", "target", "defense"]
    data = frame(records)
    wanted = [name for name, _, _ in COLUMNS if name in data]
    grouped = data.groupby(keys, sort=False)
    table = grouped[wanted].mean()
    table["n"] = grouped["n"].sum()
    if "failed" in data:
        table["failed"] = data.astype({"failed": float}).groupby(keys, sort=False)["failed"].sum(min_count=1)
    table["seeds"] = grouped["seed"].nunique()
    table = table.reset_index()
    undefended = table[table.defense == "NoDef"].set_index(["setup", "attack", "target"])

    def delta(row: pd.Series[Any]) -> float | str | None:
        place = (row.setup, row.attack, row.target)
        if row.defense == "NoDef" or place not in undefended.index:
            return None
        base = undefended.loc[place]
        return trade_off(row.acc, row.att_acc1, float(base.acc), float(base.att_acc1))

    table["delta"] = table.apply(delta, axis=1)
    return table


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison with headings and rounded text, empty where a value is missing. Columns that never vary
    are left to the caption.
    """
    shown = pd.DataFrame()
    for name in ("setup", "attack", "target"):
        if table[name].nunique() > 1:
            shown[name] = table[name]
    shown["Defense"] = table["defense"]
    for name, heading, digits in COLUMNS:
        if name in table:
            shown[heading] = [rounded(value, digits) for value in table[name]]
    shown["Δ"] = [rounded(value, 2) for value in table["delta"]]
    shown["n"] = [rounded(value, 0) for value in table["n"]]
    if "failed" in table:
        shown["failed"] = [rounded(value, 0) for value in table["failed"]]
    return shown


def rounded(value: Any, digits: int) -> str:
    """A number with so many digits, words as they are, nothing where nothing was measured."""
    if isinstance(value, str):
        return value
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def caption(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """What a reader must know to trust a table: scale, data, who was attacked, counts, seeds, commit, device.

    Setups with other data, counts or judges are told apart.
    """
    asked = (
        "Queries are the mean per reconstruction; failed reconstructions, none by the attack's own rule, count as missed. "
        if any_limited(records)
        else ""
    )
    return (
        f"{circumstances(title, records)}. Acc, AttAcc and top-5 in percent; ± is the mean "
        f"deviation over restarts within identity batches; the interval is a bootstrap over identities; "
        f"Δ is attack accuracy removed per point of accuracy lost, OP where "
        f"none was lost. {asked}{provenance(records)}"
    )


def circumstances(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The title, then scale, data, who was attacked, counts and judge, without a full stop; setups where
    these differ are told apart.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        counts = tuple(record["counts"].get(name) for name in _COUNTS)
        data = (record["data"]["name"], record["data"]["resolution"])
        groups.setdefault((*data, *counts, record["evaluator"]), []).append(record)
    if len(groups) == 1:
        told = f": {_circumstances(records)}"
    else:
        told = "".join(
            f". {_all_of([r['setup']['id'] for r in group])}: {_circumstances(group)}"
            for group in groups.values()
        )
    return f"{title}. Scale {records[0]['scale']}{told}"


def provenance(records: Sequence[Mapping[str, Any]]) -> str:
    """Seeds, commits and devices of the records, a sentence."""
    return (
        f"Seeds {_all_of([r['seed'] for r in records])}; commit {_all_of([r['commit'] for r in records])}; "
        f"{_all_of([r['device'] for r in records])}."
    )


#: Counts that a table's rows should share for their numbers to be comparable.
_COUNTS = ("private_identities", "private_train", "public")


def _circumstances(records: Sequence[Mapping[str, Any]]) -> str:
    first = records[0]
    counts = first["counts"]
    return (
        f"{first['data']['name']} at {first['data']['resolution']} px, "
        f"{counts['private_identities']} private identities ({counts['private_train']} training images), {counts['public']} public images; "
        f"{_budgets(records)}, judged by {_all_of([r['evaluator'] for r in records])} "
        f"(accuracy {first['metrics']['evaluator_acc']:.1f} %)"
    )


def _budgets(records: Sequence[Mapping[str, Any]]) -> str:
    """Which attacks met which targets, and how many reconstructions each made."""
    made: dict[tuple[int, int], list[str]] = {}
    for record in records:
        counts = record["counts"]
        made.setdefault((counts["identities"], counts["restarts"]), []).append(record["attack"])
    targets = _all_of([record["target"] for record in records])
    if len(made) == 1:
        ((identities, restarts),) = made
        return f"{_all_of(made[identities, restarts])} on {targets}, {identities} identities x {restarts} restarts"
    each = "; ".join(
        f"{_all_of(attacks)}: {identities} identities x {restarts} restarts"
        for (identities, restarts), attacks in made.items()
    )
    return f"on {targets} {each}"


def _all_of(values: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def write_tables(
    folder: Path, name: str, table: pd.DataFrame, shown: pd.DataFrame, text: str, notes: Sequence[str] = ()
) -> list[Path]:
    """Write ``<name>.md`` and ``.tex`` (booktabs) of what is ``shown``, and ``.csv`` of the whole ``table``
    unrounded; returns the paths.

    ``text`` is the caption, ``notes`` are footnotes.
    """
    aligned = tuple("left" if heading in WORDS else "right" for heading in shown)
    markdown = shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)
    files = {
        "md": "\n\n".join([markdown, text, *notes]) + "\n",
        "csv": table.to_csv(index=False),
        "tex": latex(shown, text, notes, columns="".join(side[0] for side in aligned)),
    }
    for suffix, content in files.items():
        write_atomic(folder / f"{name}.{suffix}", content)
    return [folder / f"{name}.{suffix}" for suffix in files]
