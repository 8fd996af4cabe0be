"""The paper's numbers: read, checked, and recomputed where they follow from each other. The file is
``results/published.csv``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from midre_exp.errors import ConfigError
from midre_exp.report.runs.defense_names import DefenseName, defense_name
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.trade_off import trade_off

_HERE = Path(__file__).resolve().parents[1]
#: Inside the package in an installed wheel, in ``results/`` of a checkout.
PUBLISHED = next(
    path
    for path in (_HERE / "published.csv", _HERE.parents[1] / "results" / "published.csv")
    if path.is_file()
)

COLUMNS = (
    "table",  # table1, fig5, ...: where it is printed
    "setup_id",  # of conf/setup, or "unknown" with what is known
    "attack",
    "target_model",
    "private_dataset",
    "public_dataset",
    "resolution",
    "defense",  # names as in the paper, joined by +
    "defense_params",  # as printed
    "share_low",  # share of the image erased (EE: of the images left out), 0 to 1; equal where it is fixed
    "share_high",
    "acc",  # percent
    "attack_acc",  # percent
    "attack_acc_std",  # points
    "delta",  # as printed; OP: the defended model is at least as accurate
    "acc_change",  # points against NoDef, where only a difference is printed
    "attack_acc_change",
    "bound",  # what is printed as a bound or roughly
    "inconsistencies",  # numbers of midre_exp/report/runs/inconsistencies.py
    "source",
    "note",
)


@dataclass(frozen=True)
class PublishedResult:
    """One printed result. Percent are 0 to 100; None: not printed. ``delta`` as printed, ``"OP"`` for no
    accuracy lost.
    """

    table: str
    setup: str
    defense: DefenseName
    acc: float | None
    att_acc1: float | None
    att_acc1_std: float | None
    delta: float | str | None
    inconsistencies: tuple[int, ...]
    note: str
    acc_change: float | None = None  #: points against NoDef, where a difference is printed
    att_acc1_change: float | None = None
    bound: str = ""  #: what is printed as a bound or roughly
    attack: str = ""  #: as printed, and so the next ones
    target: str = ""
    private: str = ""
    public: str = ""
    resolution: str = ""


def read_published(path: Path | None = None) -> list[PublishedResult]:
    """All rows in the order of the file. Raises ConfigError naming file and line for a row that cannot be
    right.
    """
    path = path or PUBLISHED
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigError(f"{path} must have the columns {', '.join(COLUMNS)}")
            rows = [_row(cells, f"{path.name} line {number}") for number, cells in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as a csv file ({error}); restore it") from error
    seen: set[tuple[str, str, DefenseName]] = set()
    for row in rows:
        key = (row.table, row.setup, row.defense)
        if key in seen and row.table.startswith("table"):
            raise ConfigError(
                f"{path.name} has {row.table} {row.setup} {row.defense} {row.defense.share} twice; keep one"
            )
        seen.add(key)
    return rows


def _row(cells: dict[str, str], where: str) -> PublishedResult:
    if None in cells or None in cells.values():  # how the csv module marks a row of another length
        raise ConfigError(f"{where} does not have {len(COLUMNS)} cells; correct the row")
    shares = [_number(cells, name, where, 1) for name in ("share_low", "share_high")]
    low, high = shares
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        raise ConfigError(f"{where}: share_low and share_high must be both empty or in order")
    delta = cells["delta"]
    listed = cells["inconsistencies"].split()
    if strange := [text for text in listed if not (text.isascii() and text.isdigit() and len(text) < 9)]:
        raise ConfigError(
            f"{where}: inconsistencies={strange[0]} is not a number; write numbers between blanks"
        )
    numbers = tuple(int(text) for text in listed)
    if unknown := [number for number in numbers if number not in INCONSISTENCIES]:
        raise ConfigError(
            f"{where}: inconsistency {unknown[0]} is not in midre_exp/report/runs/inconsistencies.py; "
            "add it there"
        )
    return PublishedResult(
        table=cells["table"],
        setup=cells["setup_id"],
        defense=defense_name(
            [name for name in cells["defense"].split("+") if name not in ("", "NoDef")],
            None if low is None or high is None else (low, high),
        ),
        acc=_number(cells, "acc", where, 100),
        att_acc1=_number(cells, "attack_acc", where, 100),
        att_acc1_std=_number(cells, "attack_acc_std", where, 100),
        delta="OP" if delta == "OP" else _float(delta, f"{where}: delta"),
        inconsistencies=numbers,
        note=cells["note"],
        acc_change=_float(cells["acc_change"], f"{where}: acc_change"),
        att_acc1_change=_float(cells["attack_acc_change"], f"{where}: attack_acc_change"),
        bound=cells["bound"],
        attack=cells["attack"],
        target=cells["target_model"],
        private=cells["private_dataset"],
        public=cells["public_dataset"],
        resolution=cells["resolution"],
    )


def _number(cells: dict[str, str], name: str, where: str, top: float) -> float | None:
    value = _float(cells[name], f"{where}: {name}")
    if value is not None and not 0 <= value <= top:
        raise ConfigError(f"{where}: {name}={cells[name]} is not between 0 and {top:g}")
    return value


def _float(text: str, where: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{where}={text} is not a number; write one or leave it empty")
    return value


def table_rows(table: str, path: Path | None = None) -> list[PublishedResult]:
    """The rows of one table. Raises ConfigError when there are none."""
    rows = [row for row in read_published(path) if row.table == table]
    if not rows:
        raise ConfigError(f"published: {table} has no row in {(path or PUBLISHED).name}")
    return rows


def recomputed(rows: Sequence[PublishedResult]) -> list[float | str | None]:
    """Δ of each row from the printed accuracies, against NoDef in its table and setup; None for NoDef and
    where a number is not printed.
    """
    base = {(row.table, row.setup): row for row in rows if not row.defense.names}

    def delta(row: PublishedResult) -> float | str | None:
        undefended = base.get((row.table, row.setup))
        if not row.defense.names or undefended is None:
            return None
        numbers = (row.acc, row.att_acc1, undefended.acc, undefended.att_acc1)
        known = [number for number in numbers if number is not None]
        return trade_off(*known) if len(known) == len(numbers) else None

    return [delta(row) for row in rows]


def misprinted(rows: Sequence[PublishedResult]) -> list[tuple[PublishedResult, float | str]]:
    """Rows whose printed Δ is not what their printed accuracies give to two digits, with what these give."""
    found = []
    for row, value in zip(rows, recomputed(rows), strict=True):
        if row.delta is None or value is None:
            continue
        same = (
            row.delta == value
            if isinstance(row.delta, str) or isinstance(value, str)
            else abs(row.delta - value) <= 0.00501
        )
        if not same:
            found.append((row, value))
    return found
