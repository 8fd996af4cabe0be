"""Tables for papers: LaTeX with booktabs, footnotes below the rules."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from midre_exp.records.text import tex


def latex(shown: pd.DataFrame, caption: str, notes: Sequence[str] = (), *, columns: str) -> str:
    """A table environment of text planned. ``columns``: one letter of alignment for each."""
    head, *rows = (_row(line) for line in [list(shown), *shown.to_numpy().tolist()])
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            f"\\caption{{{tex(caption)}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            head,
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            *(f"\\par\\footnotesize {tex(note)}" for note in notes),
            "\\end{table}",
            "",
        ]
    )


def _row(fields: Sequence[str]) -> str:
    first, *others = map(tex, fields)
    if first.startswith(("[", "*")):  # which the end of the row above would take for its own
        first = f"{{{first[0]}}}{first[1:]}"
    return " & ".join([first, *others]) + r" \\"
