from __future__ import annotations

import csv
from pathlib import Path

import pytest

from midre_exp.errors import ConfigError
from midre_exp.report.runs.defense_names import DefenseName, defense_name, published_name
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.published import (
    PUBLISHED,
    misprinted,
    read_published,
    recomputed,
    table_rows,
)
from tests.report.paper_records import parts

LOW, HIGH = (0.1, 0.4), (0.1, 0.8)

#: Typed from the paper once more, independently of the file: table, setup, defense, share, Acc, AttAcc,
#: deviation, Δ.
KNOWN = [
    ("table1", "S27", "", None, 97.69, 87.12, None, None),
    ("table1", "S27", "RE", (0.4, 0.4), 96.05, 27.75, None, None),
    ("table1", "S27", "FE", (0.5, 0.5), 86.69, 14.86, None, None),
    ("table1", "S27", "EE", (0.1, 0.1), 97.33, 87.83, None, None),
    ("table3", "S13a", "MIDRE", LOW, 79.85, 26.62, 1.93, 4.59),
    ("table3", "S19", "NLS", None, 80.02, 72.00, 2.50, -0.17),
    ("table4", "S27", "CutMix", None, 98.74, 67.12, None, None),
    ("table5", "S29", "MIDRE", HIGH, 95.47, 15.97, None, "OP"),
    ("table5", "S29", "MIDRE+NLS", HIGH, 93.69, 3.75, None, 47.65),
    ("table5", "S13b", "MIDRE+BiDO", LOW, 82.15, 39.0, 1.3, 9.01),
]


@pytest.mark.parametrize("table, setup, names, share, acc, att, std, delta", KNOWN)
def test_the_file_holds_what_the_paper_prints(table, setup, names, share, acc, att, std, delta):
    defense = defense_name(names.split("+") if names else [], share)
    (row,) = [row for row in table_rows(table) if (row.setup, row.defense) == (setup, defense)]
    assert (row.acc, row.att_acc1, row.att_acc1_std, row.delta) == (acc, att, std, delta)


def test_every_table_of_results_is_complete():
    counts = {table: len(table_rows(table)) for table in ("table1", "table3", "table4", "table5")}
    assert counts == {"table1": 16, "table3": 9, "table4": 5, "table5": 8}


def test_printed_deltas_follow_from_printed_accuracies_but_for_the_known_misprint():
    rows = [row for table in ("table3", "table5") for row in table_rows(table)]
    assert sum(row.delta is not None for row in rows) == 12
    ((row, value),) = misprinted(rows)
    assert (row.setup, str(row.defense), row.delta) == ("S29", "MIDRE+NLS", 47.65)
    assert value == pytest.approx(47.56, abs=0.005) and 3 in row.inconsistencies


def test_a_table_is_recomputed_against_its_own_baseline():
    rows = table_rows("table4")
    midre = next(row for row in rows if row.defense.names == ("MIDRE",))
    assert (
        recomputed(rows)[rows.index(midre)] == "OP"
    )  # 97.28 is above the 94.22 of Table 4, not above the 97.69 of Table 1
    assert recomputed(rows)[0] is None


def test_inconsistent_rows_point_to_a_text():
    rows = read_published()
    assert {4, 5} <= {n for row in rows if row.table == "table3" for n in row.inconsistencies}
    assert sorted(INCONSISTENCIES) == list(range(1, 35))
    assert all(text.endswith(".") for text in INCONSISTENCIES.values())


@pytest.mark.parametrize(
    "column, value, message",
    [
        ("acc", "197.69", "line 2: acc=197.69 is not between 0 and 100"),
        ("attack_acc", "high", "line 2: attack_acc=high is not a number"),
        ("share_low", "0.5", "line 2: share_low and share_high"),
        ("inconsistencies", "99", "inconsistency 99"),
        ("delta", "none", "delta=none is not a number"),
    ],
)
def test_a_row_that_cannot_be_right_is_named(tmp_path: Path, column, value, message):
    with PUBLISHED.open(newline="") as file:
        first = next(csv.DictReader(file))
    path = tmp_path / "published.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(first))
        table.writeheader()
        table.writerow({**first, column: value})
    with pytest.raises(ConfigError, match=message):
        read_published(path)


def test_a_row_given_twice_is_named(tmp_path: Path):
    lines = PUBLISHED.read_text().splitlines()
    path = tmp_path / "published.csv"
    path.write_text("\n".join([*lines[:2], lines[1]]) + "\n")
    with pytest.raises(ConfigError, match="table1 S27 NoDef None twice"):
        read_published(path)


@pytest.mark.parametrize(
    "defense, name",
    [
        (parts(), DefenseName(())),
        (parts("midre"), DefenseName(("MIDRE",), LOW)),
        (parts("midre", a_l=0.4), DefenseName(("RE",), (0.4, 0.4))),
        (parts("fe"), DefenseName(("FE",), (0.4, 0.4))),
        (parts("ee", share=0.1), DefenseName(("EE",), (0.1, 0.1))),
        (parts("nls", "midre"), DefenseName(("MIDRE", "NLS"), LOW)),
        (parts("bido"), DefenseName(("BiDO",))),
        (parts("bido", measure="coco"), DefenseName(("BiDO-COCO",))),
        (parts("tldmi"), DefenseName(("TL-DMI",))),
        ({"mine": {"_target_": "my_package.Mine"}}, DefenseName(("Mine",))),
    ],
)
def test_a_defense_has_the_papers_name(defense, name):
    assert published_name(defense) == name
