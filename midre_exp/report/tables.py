"""From records to comparison tables: one row per setup and defense, seeds averaged, rendered as text, Markdown, CSV, LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from midre_exp.files import write_atomic

#: Measured columns: record metric, heading, digits.
COLUMNS = (
    ("acc", "Acc", 2),
    ("att_acc1", "AttAcc", 2),
    ("att_acc1_batch_std", "±", 2),
    ("att_acc1_low", "95 % from", 1),
    ("att_acc1_high", "to", 1),
    ("att_acc5", "top-5", 2),
    ("knn_dist", "KNN dist", 3),
)


def frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per record: identifying columns, every metric, and ``n``, the number of reconstructions."""
    rows = [
        {
            "setup": record["setup"]["id"],
            "attack": record["attack"],
            "target": record["target"],
            "defense": record["defense"]["label"],
            "seed": record["seed"],
            "n": record["counts"]["reconstructions"],
            **record["metrics"],
        }
        for record in records
    ]
    return pd.DataFrame(rows)


def trade_off(acc: float, att_acc: float, base_acc: float, base_att_acc: float) -> float | str:
    """Δ of the MIDRE paper (Sec. 4.1): attack accuracy taken away per point of accuracy lost, against the undefended model.

    ``OP`` where the defended model is at least as accurate, so that nothing was paid.
    """
    lost = base_acc - acc
    return (base_att_acc - att_acc) / lost if lost > 0 else "OP"


def comparison(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows per (setup, attack, target, defense) in order of appearance, metrics averaged over seeds, Δ against the setup's NoDef row.

    Δ is empty where the setup has no undefended record.
    """
    keys = ["setup", "attack", "target", "defense"]
    data = frame(records)
    wanted = [name for name, _, _ in COLUMNS if name in data]
    grouped = data.groupby(keys, sort=False)
    table = grouped[wanted].mean()
    table["n"] = grouped["n"].sum()
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
    """The comparison with headings and rounded text, empty where a value is missing. Columns that never vary are left to the caption."""
    shown = pd.DataFrame()
    for name in ("setup", "attack", "target"):
        if table[name].nunique() > 1:
            shown[name] = table[name]
    shown["Defense"] = table["defense"]
    for name, heading, digits in COLUMNS:
        if name in table:
            shown[heading] = [_text(value, digits) for value in table[name]]
    shown["Δ"] = [_text(value, 2) for value in table["delta"]]
    shown["n"] = table["n"].astype(str)
    return shown


def _text(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def caption(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """What a reader must know to trust a table: scale, data, who was attacked, counts, seeds, commit, device."""
    first = records[0]
    counts = first["counts"]

    def all_of(values: Sequence[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values))

    return (
        f"{title}. Scale {first['scale']}: {first['data']['name']} at {first['data']['resolution']} px, "
        f"{counts['private_identities']} private identities ({counts['private_train']} training images), {counts['public']} public images; "
        f"{all_of([r['attack'] for r in records])} on {all_of([r['target'] for r in records])}, {counts['identities']} identities x "
        f"{counts['restarts']} restarts, judged by {all_of([r['evaluator'] for r in records])} "
        f"(accuracy {first['metrics']['evaluator_acc']:.1f} %). Acc, AttAcc and top-5 in percent; ± is the mean "
        f"deviation over restarts within identity batches; the interval is a bootstrap over identities; "
        f"Δ is attack accuracy removed per point of accuracy lost, OP where "
        f"none was lost. Seeds {all_of([r['seed'] for r in records])}; commit {all_of([r['commit'] for r in records])}; "
        f"{all_of([r['device'] for r in records])}."
    )


def write_tables(folder: Path, name: str, table: pd.DataFrame, text: str) -> list[Path]:
    """Write ``<name>.md``, ``.csv`` (unrounded) and ``.tex`` (booktabs) with the caption; returns the paths."""
    shown = printable(table)
    aligned = tuple(
        "left" if heading in ("setup", "attack", "target", "Defense") else "right" for heading in shown
    )
    markdown = shown.to_markdown(index=False, disable_numparse=True, colalign=aligned)
    latex = shown.style.hide(axis="index").to_latex(
        hrules=True, caption=_tex(text), column_format="".join(side[0] for side in aligned)
    )
    files = {
        "md": f"{markdown}\n\n{text}\n",
        "csv": table.to_csv(index=False),
        "tex": _tex_table(latex),
    }
    for suffix, content in files.items():
        write_atomic(folder / f"{name}.{suffix}", content)
    return [folder / f"{name}.{suffix}" for suffix in files]


def _tex(text: str) -> str:
    for plain, escaped in (
        ("%", r"\%"),
        ("_", r"\_"),
        ("±", r"$\pm$"),
        ("Δ", r"$\Delta$"),
        ("&", r"\&"),
        ("#", r"\#"),
    ):
        text = text.replace(plain, escaped)
    return text


def _tex_table(latex: str) -> str:
    head, rows = latex.split(r"\toprule", 1)
    body, tail = rows.split(r"\bottomrule", 1)
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("Δ", r"$\Delta$")):
        body = body.replace(plain, escaped)
    return f"% needs \\usepackage{{booktabs}}\n{head}\\toprule{body}\\bottomrule{tail}"
