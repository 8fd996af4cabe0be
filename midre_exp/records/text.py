"""Text of the user's in files that others read: what would be markup, a formula or a broken row is shown as
the characters it is. HTML is escaped by its templates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

#: What begins a formula in a spreadsheet, and the mark that keeps text from being one.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠'")
_MARK = "'"
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")

_TEX: Mapping[str, str] = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "·": r"$\cdot$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "†": r"\dag{}",
    "✓": r"$\surd$",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "δ": r"$\delta$",
    "°": r"$^\circ$",
}


#: Letters of other alphabets that LaTeX sets without a package: with these accents, and these.
_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327"
_LATIN = "ßæøœłıÆØŒŁ"


def tex(text: str) -> str:
    """Text as LaTeX sets it without further packages, one line. Letters that its fonts lack are named by
    their number.
    """
    return "".join(map(_tex_letter, text))


def _tex_letter(letter: str) -> str:
    if letter in _TEX:
        return _TEX[letter]
    if not letter.isprintable():
        return " "
    parts = unicodedata.normalize("NFD", letter)
    accented = len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS
    return letter if letter.isascii() or letter in _LATIN or accented else f"[U+{ord(letter):04X}]"


def inline(text: str) -> str:
    """Text within a paragraph or a field of Markdown."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", shown).replace("|", "\\|")


def csv_of(table: pd.DataFrame) -> str:
    """A table as CSV. Numbers stay numbers; text that a spreadsheet would compute is marked."""
    written: str = table.map(_marked).rename(columns=_marked).to_csv(index=False)
    return written


def read_csv(path: Path, *, text: Mapping[str, type], exact: Mapping[str, type]) -> pd.DataFrame:
    """What ``csv_of`` wrote. Columns of ``text`` are never numbers, those of ``exact`` lose no bit."""
    return pd.read_csv(path, dtype=dict(text), converters=dict(exact)).map(_unmarked)


def _marked(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return _MARK + value
    return value


def _unmarked(value: Any) -> Any:
    if isinstance(value, str) and value[:1] == _MARK and value[1:].startswith(_FORMULA):
        return value[1:]
    return value
