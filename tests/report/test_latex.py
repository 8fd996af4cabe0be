"""LaTeX tables: those of the committed records and hostile ones fit their page, and pdflatex sets them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from midre_exp.errors import ConfigError
from midre_exp.report.tables.latex import latex
from tests.report.test_what_is_written import hostile_texts

MINI = Path(__file__).parents[2] / "results" / "mini"
TABLES = sorted(path.stem for path in MINI.glob("*.tex"))


def compiled(folder: Path, *tables: str, options: str = "") -> str:
    """What pdflatex says of a paper with these tables."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-extra)")
    body = "\n".join(f"\\clearpage\n{table}" for table in tables)
    document = (
        f"\\documentclass[{options}]{{article}}\n\\usepackage{{booktabs,threeparttable}}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    (folder / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:]
    return ended.stdout


def of(columns: dict[str, list[str]], **values) -> str:
    shown = pd.DataFrame(columns)
    return latex(shown, "A title", columns="l" + "r" * (shown.shape[1] - 1), **values)


def test_every_committed_table_fits_the_page(tmp_path):
    assert TABLES
    log = compiled(tmp_path, *((MINI / f"{name}.tex").read_text() for name in TABLES))
    assert "Overfull" not in log and "too large" not in log and "undefined" not in log


def test_hostile_labels_are_set(tmp_path):
    labels = [*hostile_texts(10), "中文", "🙂", "Größe", "“quoted”", "żółć", "\u202ex"]
    shown = pd.DataFrame({"Defense": labels, "Acc": ["-1.5"] * len(labels)})
    text = latex(shown, labels[1], labels, columns="lr", label=labels[0])
    log = compiled(tmp_path, text)
    assert "Missing character" not in log and "$-$1.5" in text


def test_a_narrow_table_fits_a_column(tmp_path):
    text = of({"Defense": ["NoDef", "MIDRE [0.1, 0.4]"], "Acc": ["95.40", "90.00"], "Δ": ["", "3.11"]})
    assert "\\small" in text and "Overfull" not in compiled(tmp_path, text, options="twocolumn")


def test_a_wide_table_becomes_parts_that_all_name_their_rows(tmp_path):
    wide = {f"column number {n}": ["123.45 [100, 200]"] * 50 for n in range(9)}
    text = of({"Defense": [f"D{n}" for n in range(50)], **wide}, notes=["told once"], label="t")
    parts = text.split("\\begin{table}")[1:]
    assert len(parts) == 6 and all("Defense" in part for part in parts)  # three groups, two pages each
    assert [part.count("told once") for part in parts] == [0, 0, 0, 0, 0, 1]
    assert re.findall(r"\\label\{(.*?)\}", text) == [f"tab:t{letter}" for letter in "abcdef"]
    heads = [part.split("midrule")[0] for part in parts]
    assert all(sum(f"number {n}" in head for head in heads) == 2 for n in range(9))
    assert "Overfull" not in compiled(tmp_path, text)


def test_columns_are_chosen_by_their_headings_and_an_interval_stands_beside_its_number():
    columns = {
        "Defense": ["a"], "Acc": ["1"], "train acc": ["2"],
        "AttAcc": ["3"], "95 % from": ["2.5"], "to": ["4"],
    }  # fmt: skip
    text = of(columns)
    assert "3 [2.5, 4]" in text and "train" not in text
    assert r"a & 2 & 1 \\" in of(columns, chosen=["Defense", "train acc", "Acc"])
    with pytest.raises(ConfigError, match="this table has no column acc; it has Defense, Acc, train acc"):
        of(columns, chosen=["acc"])


def test_long_texts_are_explained_below():
    long = "inferred from the cross product of a table"
    text = of({"setup": ["S01", "S02", "S03"], "certainty": [long, "certain", long]})
    assert [line for line in text.splitlines() if line.startswith("S0")] == [
        r"S01 & a \\", r"S02 & b \\", r"S03 & a \\"
    ]  # fmt: skip
    assert f"\\item {{}}certainty a: {long}" in text


def test_what_a_setup_attacks_is_told_once_where_it_has_several_rows():
    rows = {"setup": ["S1"] * 3 + ["S2"] * 3, "attack": ["PPA"] * 3 + ["GMI"] * 3, "target": ["VGG16"] * 6}
    text = of({**rows, "Defense": ["a", "b", "c"] * 2, "Acc": ["1"] * 6})
    assert r"S1 & a & 1 \\" in text and r"\item {}S1: PPA on VGG16; S2: GMI on VGG16." in text
    mixed = of({**rows, "attack": ["PPA", "GMI"] * 3, "Acc": ["1"] * 6})
    assert "S1 & PPA & VGG16 & 1" in mixed
