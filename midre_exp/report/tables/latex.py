"""Tables for papers: LaTeX with booktabs, footnotes below the rules."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_CELLS = (("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("Δ", r"$\Delta$"))
_TEXT = (*_CELLS, ("&", r"\&"), ("#", r"\#"))


def latex(shown: pd.DataFrame, caption: str, notes: Sequence[str] = (), *, columns: str) -> str:
    """A table environment of text planned. ``columns``: one letter of alignment for each."""
    whole: str = shown.style.hide(axis="index").to_latex(
        hrules=True, caption=_escaped(caption, _TEXT), column_format=columns
    )
    head, rows = whole.split(r"\toprule", 1)
    body, tail = rows.split(r"\bottomrule", 1)
    below = "".join(f"\n\\par\\footnotesize {_escaped(note, _TEXT)}" for note in notes)
    tail = tail.replace(r"\end{tabular}", r"\end{tabular}" + below, 1)
    return f"% needs \\usepackage{{booktabs}}\n{head}\\toprule{_escaped(body, _CELLS)}\\bottomrule{tail}"


def _escaped(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    for plain, escaped in pairs:
        text = text.replace(plain, escaped)
    return text
