"""Tables for papers: LaTeX that fits a page or, where it is narrow, a column, by booktabs and threeparttable.

Widths are estimated from the letters of Computer Modern. A table that is wider than a page becomes several,
each with the columns that name its rows; one that is longer goes on in the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from midre_exp.errors import ConfigError
from midre_exp.records.text import tex

#: Points of a column of two (IEEE's and article's are wider or as wide), and of the narrowest usual page.
COLUMN, PAGE = 229, 345
#: Sizes tried in turn, by the points of an em: small letters of Computer Modern are wider than their size.
_SIZES = (("small", 9 * 1.03), ("footnotesize", 8 * 1.063), ("scriptsize", 7 * 1.14))
_GAP = 6  # points between two columns (\tabcolsep is set to half of it)
_ROWS = 40  # of a page
#: Headings that name a row.
_NAMES = ("setup", "attack", "target", "Defense", "MIDRE", "trait", "length")
#: Left out unless they are asked for: what a paper tells in its text.
LEFT_OUT = ("train acc", "train acc defended", "±", "top-5", "n", "failed", "runs")
#: Characters from which a column's fields are marks that a note explains.
_PROSE = 28
_MARKS = "abcdefghijklmnopqrstuvwxyz"
#: Widths in ems: of digits, narrow letters and capitals; any other.
_EMS = {**dict.fromkeys("0123456789", 0.5), **dict.fromkeys(".,:;'|!()[]il/-", 0.32), " ": 0.34}


def latex(
    shown: pd.DataFrame,
    caption: str,
    notes: Sequence[str] = (),
    *,
    columns: str,
    label: str = "table",
    chosen: Sequence[str] = (),
) -> str:
    """One or more table environments of text planned. ``columns``: one letter of alignment for each;
    ``chosen``: headings of those to show, in this order. Raises ConfigError for headings there are none of.
    """
    letters = dict(zip(shown, columns, strict=True))
    shown = _merged(_choice(shown, chosen), chosen)
    shown, setups = _without_places(shown) if not chosen else (shown, [])
    shown, explained = _without_prose(shown)
    parts = _parts(shown)
    size, _ = _size(parts)
    text = ["% needs \\usepackage{booktabs,threeparttable}"]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        of = f" (part {number + 1} of {len(parts)})" if len(parts) > 1 else ""
        text += [
            "\\begin{table}",
            "\\centering",
            f"\\{size}",
            f"\\setlength{{\\tabcolsep}}{{{_GAP / 2:g}pt}}",
            "\\begin{threeparttable}",
            f"\\caption{{{tex(caption)}{of}}}",
            f"\\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', label)}{_MARKS[number] if of else ''}}}",
            f"\\begin{{tabular}}{{@{{}}{''.join(letters.get(name, 'r') for name in part)}@{{}}}}",
            "\\toprule",
            *_heads(part),
            "\\midrule",
            *(_row(line) for line in part.to_numpy().tolist()),
            "\\bottomrule",
            "\\end{tabular}",
            *(_notes([*setups, *explained, *notes]) if last else []),
            "\\end{threeparttable}",
            "\\end{table}",
            "",
        ]
    return "\n".join(text)


def _choice(shown: pd.DataFrame, chosen: Sequence[str]) -> pd.DataFrame:
    if not chosen:
        return shown[[name for name in shown if name not in LEFT_OUT]]
    if unknown := [name for name in chosen if name not in shown]:
        raise ConfigError(f"this table has no column {unknown[0]}; it has {', '.join(map(str, shown))}")
    return shown[list(chosen)]


def _merged(shown: pd.DataFrame, chosen: Sequence[str]) -> pd.DataFrame:
    """An interval beside its number in brackets, not in two columns of its own."""
    interval = ("AttAcc", "95 % from", "to")
    if chosen or not {*interval} <= set(shown):
        return shown
    value, low, high = (shown[name] for name in interval)
    texts = [f"{v} [{a}, {b}]" if v and a else v for v, a, b in zip(value, low, high, strict=True)]
    return shown.assign(AttAcc=texts).drop(columns=list(interval[1:]))


def _without_places(shown: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Attack and target of setups of several rows as a note instead of two columns."""
    places = [name for name in ("attack", "target") if name in shown]
    setups = shown.drop_duplicates("setup") if "setup" in shown else shown.iloc[:0]
    pairs = len(shown[["setup", *places]].drop_duplicates()) if len(setups) else 0
    several = 0 < len(setups) == pairs < len(shown) / 2
    if not places or not several:
        return shown, []
    told = [f"{row['setup']}: {' on '.join(row[name] for name in places)}" for _, row in setups.iterrows()]
    return shown.drop(columns=places), [f"{'; '.join(told)}."]


def _without_prose(shown: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Long texts as letters, and the notes that explain these."""
    notes: list[str] = []
    for name in shown:
        if name in _NAMES or shown[name].map(len).max() < _PROSE:
            continue
        texts = [text for text in dict.fromkeys(shown[name]) if text]
        if len(texts) > len(_MARKS):
            continue
        marks = dict(zip(texts, _MARKS, strict=False))
        notes += [f"{name} {mark}: {text}" for text, mark in marks.items()]
        shown = shown.assign(**{name: [marks.get(text, "") for text in shown[name]]})
    return shown, notes


def _parts(shown: pd.DataFrame) -> list[pd.DataFrame]:
    """The table by pages: groups of columns that fit one, about equally wide, each with what names the rows,
    then rows.
    """
    fewest = len(_groups(shown, PAGE))
    widths = range(COLUMN, PAGE + 1, 4)
    groups = next((found for width in widths if len(found := _groups(shown, width)) == fewest), None)
    return [
        shown[group].iloc[first : first + _ROWS]
        for group in groups or _groups(shown, PAGE)
        for first in range(0, max(len(shown), 1), _ROWS)
    ]


def _groups(shown: pd.DataFrame, width: float) -> list[list[str]]:
    names = [name for name in shown if name in _NAMES]
    groups, lead = [names], _shortest(shown, names)
    points = _SIZES[-1][1]
    for name in (name for name in shown if name not in names):
        wide = _width(shown[[*groups[-1], name]], points) > width
        if wide and groups[-1] not in (names, lead):
            groups.append(list(lead))
        groups[-1] = [*groups[-1], name]
    return groups


def _shortest(shown: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The fewest columns that tell all rows apart; all where none do."""
    for count in range(1, len(names)):
        for some in combinations(names, count):
            if not shown[list(some)].duplicated().any():
                return list(some)
    return list(names)


def _size(parts: Sequence[pd.DataFrame]) -> tuple[str, float]:
    """The largest size in which all parts fit a column, else a page; the smallest where none does."""
    for width in (COLUMN, PAGE):
        for name, points in _SIZES:
            if all(_width(part, points) <= width for part in parts):
                return name, points
    return _SIZES[-1]


def _width(part: pd.DataFrame, points: float) -> float:
    fields = [max([_ems(text) for text in [*_halves(name), *part[name]]]) for name in part]
    return points * sum(fields) + _GAP * max(0, len(fields) - 1)


def _ems(text: str) -> float:
    return sum(_EMS.get(letter, 0.76 if not letter.islower() else 0.53) for letter in text)


def _halves(heading: str) -> tuple[str, str]:
    """A heading of several words on two lines, cut where these are most alike."""
    words = str(heading).split(" ")
    cuts = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(len(words))]
    return min(cuts, key=lambda cut: max(map(_ems, cut)))


def _heads(part: pd.DataFrame) -> list[str]:
    halves = [_halves(name) for name in part]
    lines = [list(line) for line in zip(*halves, strict=True)]
    return [_row(line) for line in lines if any(line)]


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    return [
        "\\begin{tablenotes}[flushleft]\\scriptsize",
        *(f"\\item {{}}{tex(note).strip()}" for note in notes if note.strip()),  # {}: [ begins no label
        "\\end{tablenotes}",
    ]


def _row(fields: Sequence[str]) -> str:
    first, *others = (_field(field) for field in fields)
    if first.startswith(("[", "*")):  # which the end of the row above would take for its own
        first = f"{{{first[0]}}}{first[1:]}"
    return " & ".join([first, *others]) + r" \\"


def _field(text: str) -> str:
    shown = tex(text).strip()
    return f"$-${shown[1:]}" if re.match(r"-\d", text) else shown
