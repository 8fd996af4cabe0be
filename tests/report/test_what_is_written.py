"""What stands in the files of reports: nothing that a record names is run, text is text in every format,
doubts and outcomes are told, and nothing that shows more is replaced.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import io
import json
import random
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.publication import is_kept_by_git, people_folder
from midre_exp.records.text import csv_of, inline, read_csv, tex
from midre_exp.report.__main__ import main
from midre_exp.report.claims.render import render_claims
from midre_exp.report.definitions import load_table
from midre_exp.report.figures.points import not_run
from midre_exp.report.output import file_stem, pictures_in
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.html import Gallery, Picture, PictureRow, gallery, page_of
from midre_exp.report.tables.latex import latex
from midre_exp.report.tables.publish import RenderedTable, publish
from midre_exp.report.tables.render import render_defenses, render_table
from midre_exp.store.files import write_json
from midre_exp.store.store import Store
from tests.report.paper_records import record

ROOT = Path(__file__).parents[2]
MINI = ROOT / "results" / "mini"

NASTY = (
    r"\input{/etc/passwd}", "R&D", "C#", "a_b^c~d", "{", "}", "50 %", "$x$", r"\\", "[0.1, 0.4]", "*", "|",
    "=HYPERLINK(1)", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "'=1", "-3.5", "+4", "1e5",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a\nb",
    "\x1b[2J", "Größe", "±Δ", "",
)  # fmt: skip


def hostile_texts(count: int = 60) -> list[str]:
    draw = random.Random(0)
    return [*NASTY, *("".join(draw.choices(NASTY, k=3)) for _ in range(count))]


# records are data


@pytest.fixture
def hostile_records(tmp_path, monkeypatch):
    """The demo's records, every class in them by its name in a package whose import leaves a file; it is
    trusted, as far as records have a say.
    """
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "harmful.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\ndef __getattr__(name):\n    return lambda *_, **__: None\n"
    )

    def renamed(node):
        if isinstance(node, dict):
            return {
                key: f"harmful.{str(value).rpartition('.')[2]}" if key == "_target_" else renamed(value)
                for key, value in node.items()
            }
        return [renamed(value) for value in node] if isinstance(node, list) else node

    for path in (MINI / "records").glob("demo-*.json"):
        made = renamed(json.loads(path.read_text()))
        made["config"]["runtime"]["trusted_packages"] = ["harmful"]
        write_json(tmp_path / "results" / "mini" / "records" / path.name, made)
    return tmp_path


def test_no_report_runs_what_a_record_names(hostile_records, capsys):
    places = [f"paths.{name}={hostile_records / name}" for name in ("results", "store", "runs")]
    assert main(["demo", "claims", "--no-run", *places]) == 0
    assert "not run yet" not in capsys.readouterr().out  # they are shown
    assert main(["grid", "--no-run", *places]) == 2 and "reconstructions" in capsys.readouterr().err
    assert main(["fig2", "--no-run", *places]) == 0
    if main(["workspace", "--json", *places]) == 2:
        assert "wandb-workspaces" in capsys.readouterr().err
    assert not (hostile_records / "ran").exists()


def test_reports_and_studies_build_nothing_of_a_record():
    calls = [
        ast.unparse(node)
        for folder in ("report", "study")
        for path in (ROOT / "midre_exp" / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and re.search(r"(build|instantiate|compose_defenses)$", ast.unparse(node.func))
    ]
    assert len(calls) >= 4 and not [call for call in calls if "record" in call]


def test_a_file_that_is_no_record_is_counted_in_captions_and_stops_nothing(hostile_records, capsys):
    folder = hostile_records / "results" / "mini"
    first, *_ = sorted((folder / "records").glob("demo-nodef*.json"))
    (folder / "records" / "demo-broken.json").write_text("{")
    places = [f"paths.{name}={hostile_records / name}" for name in ("results", "store", "runs")]
    assert main(["claims", *places]) == 0
    assert "1 record file cannot be read and is passed over." in (folder / "claims.md").read_text()
    runs = [PlannedRun((), json.loads(first.read_text())["config"], json.loads(first.read_text()))]
    runs += [PlannedRun((), runs[0].settings, runs[0].record, unreadable=frozenset([Path("a"), Path("b")]))]
    assert (
        "2 record files cannot be read and are passed over."
        in render_defenses(load_table("demo"), runs[1:]).caption
    )


# text is text


def tex_left(text: str) -> str:
    """What is left of LaTeX text once everything that it may hold is taken away."""
    known = r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|ldots|dag)\{\}"
    return re.sub(rf"{known}|\$(\\\w+|-)\$|\\[&%$#_{{}}]", "", text)


@pytest.mark.parametrize("text", hostile_texts())
def test_latex_shows_the_characters_of_a_text(text):
    assert not set(tex_left(tex(text))) & set("&#{}~^\\$%_\n\t\x1b")


def test_a_latex_table_of_any_labels_has_its_rows_and_columns():
    labels = hostile_texts()
    shown = pd.DataFrame({"Defense": labels, "Acc": labels[::-1]})
    text = latex(shown, " ".join(labels), [labels[0]], columns="lr")
    parts = [part.split("\\bottomrule")[0] for part in text.split("\\midrule\n")[1:]]
    body = [row for part in parts for row in part.splitlines()]
    assert len(body) == len(labels)
    for row in body:
        assert row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) == 1 and row[0] not in "[*"


def test_csv_holds_no_formula_and_gives_every_text_back(tmp_path):
    labels = hostile_texts()
    table = pd.DataFrame({"defense": labels, "acc": [-1.5] * len(labels), "n": range(len(labels))})
    path = tmp_path / "t.csv"
    path.write_bytes(csv_of(table).encode())
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    for cell in cells["defense"]:
        assert re.fullmatch(r"[-+]?[\d.]+(e\d+)?", cell) or not cell.startswith(tuple("=+-@\t\r\n"))
    back = read_csv(path, text={"defense": str}, exact={"acc": float})
    assert list(back["acc"]) == [-1.5] * len(labels) and list(back["n"]) == list(range(len(labels)))
    assert list(back["defense"].fillna("")) == labels


def test_markdown_rows_stay_rows():
    for text in hostile_texts():
        shown = inline(text)
        assert "\n" not in shown and not re.search(r"(?<!\\)\|", shown) and not re.search(r"<[a-z/!]", shown)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [name for name, _ in attrs]))


def test_html_of_any_labels_has_no_element_of_theirs():
    def tags(labels: list[str]) -> list[tuple[str, list[str]]]:
        parser = Tags()
        row = PictureRow(labels[0], [Picture("data:image/png;base64,AA", True)])
        shown = pd.DataFrame({"Defense": labels})
        joined = " ".join(labels)
        parser.feed(
            page_of(title=joined, caption=joined, table=shown, rows=[row], missing=labels, notes=labels)
        )
        return [(tag, [a for a in attrs if a != "class"]) for tag, attrs in parser.found]

    labels = [text or "x" for text in hostile_texts()]
    assert tags(labels) == tags(["plain"] * len(labels))


# doubts and outcomes


def planned(defense: str, numbers: tuple[float, float] | None, *, seed: int = 0, **values) -> PlannedRun:
    job = ("setup=S13a", f"defense={defense}", f"seed={seed}")
    with packaged_configs():
        settings = settings_of(job)
    made = None
    if numbers is not None:
        made = record(*numbers, setup="S13a", attack="lomma_gmi", seed=seed) | {"config": settings}
        label = {"nodef": "NoDef", "midre": "MIDRE [0.1, 0.4]"}[defense]
        made["defense"] = {"label": label, "parts": settings["defense"]}
        made |= {key: values.pop(key) for key in ("alarms", "metrics") if key in values}
    return PlannedRun(job, settings, made, **values)


DOUBT = "accuracy 2.0 % is not above chance"
GONE = "the target diverged in epoch 3; lower target.recipe.optimizer.lr"


@pytest.fixture
def doubtful(tmp_path):
    """An undefended target at chance, and a defense of which one seed of two diverged."""
    runs = [
        planned("nodef", (2.0, 1.0), alarms={"target": [DOUBT]}),
        planned("midre", (88.0, 40.0)),
        planned("midre", None, seed=1, diverged=GONE),
    ]
    for run in runs:
        run.settings["paths"]["results"] = str(tmp_path)
    return runs


def test_a_table_tells_of_alarms_and_of_runs_that_diverged_in_every_format(doubtful, capsys):
    written = render_table(load_table("table3"), doubtful, other_data=False)
    for path in written:
        text = path.read_text()
        assert (
            DOUBT in text.replace("\\%", "%")
            and GONE.replace("_", "\\_" if path.suffix == ".tex" else "_") in text
        )
    table = pd.read_csv(written[1], index_col="defense")
    assert (
        table.notes["NoDef"] == f"target: {DOUBT}"
        and f"Seed 1 diverged: {GONE}" in table.notes["MIDRE [0.1, 0.4]"]
    )
    assert table.acc["MIDRE [0.1, 0.4]"] == 88 and table.seeds["MIDRE [0.1, 0.4]"] == 1
    out = capsys.readouterr().out
    assert f"diverged: {doubtful[2].command}: {GONE}" in out and "not run yet" not in out


def test_a_row_of_runs_that_all_diverged_has_no_number_and_is_no_baseline(doubtful):
    alone = [doubtful[1], planned("nodef", None, diverged=GONE)]
    rendered = render_defenses(load_table("table3"), alone)
    shown = rendered.shown.set_index("Defense")
    assert (
        shown.Acc["NoDef"] == "diverged"
        and shown.AttAcc["NoDef"] == ""
        and shown["Δ"]["MIDRE [0.1, 0.4]"] == ""
    )
    assert not rendered.missing and not_run(alone) == ["diverged: NoDef"]
    assert "diverged" in render_defenses(load_table("demo"), alone[1:]).shown["Acc"][0]


def test_an_attack_accuracy_that_was_not_measured_is_an_empty_cell(tmp_path):
    bare = {"acc": 88.0, "evaluator_acc": 95.0}
    runs = [planned("nodef", (90.0, 60.0)), planned("midre", (0, 0), metrics=bare)]
    shown = render_defenses(load_table("table3"), runs).shown.set_index("Defense")
    row = shown.loc["MIDRE [0.1, 0.4]"]
    assert (row.Acc, row.AttAcc, row["Δ"]) == ("88.00", "", "") and not_run(runs) == [
        "not measured: MIDRE [0.1, 0.4]"
    ]
    assert render_defenses(load_table("table3"), runs[1:]).shown.Acc[0] == "88.00"
    for number, run in enumerate(runs):
        write_json(tmp_path / "mini" / "records" / f"{number}.json", run.record)
    render_claims([f"paths.results={tmp_path}"])
    assert "1 records have no attack accuracy" in (tmp_path / "mini" / "claims.md").read_text()


def test_claims_mark_whose_numbers_are_in_doubt(doubtful, tmp_path, capsys):
    for number, run in enumerate(doubtful[:2]):
        write_json(tmp_path / "mini" / "records" / f"{number}.json", run.record)
    paths = render_claims([f"paths.results={tmp_path}"])
    text, content = paths[0].read_text(), json.loads(paths[1].read_text())
    assert "NoDef† 1.00" in text and f"† S13a NoDef, seed 0: target: {DOUBT}" in text
    assert content["alarms"] == [f"S13a NoDef, seed 0: target: {DOUBT}"] and DOUBT in capsys.readouterr().out


# what stays


def rendered(seeds: int, pictures: int, *, missing: int = 0, gone: int = 0) -> RenderedTable:
    row = PictureRow("a", [Picture("data:image/png;base64,AA")] * pictures)
    shown = pd.DataFrame({"Defense": ["NoDef"], "Acc": [str(seeds)]})
    return RenderedTable(
        "T",
        pd.DataFrame({"defense": ["NoDef"], "seeds": [seeds]}),
        shown,
        "caption",
        missing=["midre-exp run"] * missing,
        gallery=Gallery([row], ["an attack"] * gone),
    )


def test_a_page_with_more_pictures_and_a_table_of_more_runs_stay(tmp_path, capsys):
    assert len(publish(rendered(3, 9), tmp_path, "t")) == 4
    page, csv = tmp_path / "t.html", tmp_path / "t.csv"
    before = page.read_bytes()
    written = publish(rendered(4, 2, gone=1), tmp_path, "t")  # a clone: records, no reconstructions
    assert page.read_bytes() == before and page not in written and "4" in csv.read_text()
    assert f"kept as before: {page}, for it shows more pictures" in capsys.readouterr().out
    assert publish(rendered(1, 9, missing=3), tmp_path, "t") == [] and "4" in csv.read_text()
    assert "they show more runs: 3 have no record here; --replace" in capsys.readouterr().out
    publish(rendered(1, 1), tmp_path, "t")  # fewer because fewer were asked for
    assert pictures_in(page) == 1 and "1" in csv.read_text()
    publish(rendered(3, 9), tmp_path, "t")
    publish(rendered(1, 1, missing=3), tmp_path, "t", replace=True)
    assert pictures_in(page) == 1


def test_two_folders_of_images_have_files_of_their_own():
    def stem(root: str) -> str:
        with packaged_configs():
            settings = settings_of(["data=folder", f"data.root='{root}'"])
        return file_stem("demo", settings, with_data=True)

    names = [stem(root) for root in ("/a/orl", "/b/orl", "/a/my people")]
    assert len(set(names)) == 3 and re.fullmatch(r"demo-folder-my-people-[0-9a-f]{6}", names[2])
    with packaged_configs():
        assert file_stem("demo", settings_of([]), with_data=True) == "demo-synthfaces"


def test_what_shows_people_lies_where_git_ignores_it(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "checkout")], check=True)
    (tmp_path / "checkout" / ".gitignore").write_text("*.html\n")
    kept, ignored = tmp_path / "checkout" / "new" / "a.png", tmp_path / "checkout" / "new" / "a.html"
    assert is_kept_by_git(kept) and not is_kept_by_git(ignored) and not is_kept_by_git(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "checkout")
    assert is_kept_by_git(tmp_path / "link" / "a.png")
    assert not is_kept_by_git(people_folder(tmp_path / "checkout" / "new") / "a.png")
    monkeypatch.setenv("PATH", "")  # nobody to ask
    assert is_kept_by_git(ignored)


def _save(work, held):
    work.save_tensors(*held)


def of_two_people(tmp_path: Path, **changes: dict[str, object]) -> PlannedRun:
    """A run whose reconstructions of two people are in the store."""
    run = planned("nodef", (90.0, 60.0))
    run.settings["paths"] |= {"store": str(tmp_path / "store"), "results": str(tmp_path)}
    few = {"identities": 2, "train_per_identity": 1, "test_per_identity": 1, "public_identities": 4}
    run.settings["data"]["private"] |= few | {"size": 16, "store": None}
    shades = torch.stack([torch.full((3, 8, 8), shade, dtype=torch.uint8) for shade in (0, 200)])
    tensors = {"images": shades, "labels": torch.arange(2), "restarts": torch.zeros(2, dtype=torch.int64)}
    run.record["artifacts"] |= {"attack": "a" * 16, "metrics": "b" * 16}
    store = Store(tmp_path / "store")
    kept = {
        "attack": ("a" * 16, "reconstructions", tensors),
        "metrics": ("b" * 16, "judgement", {"predicted": torch.tensor([0, 0])}),
    }
    for stage, (key, *held) in kept.items():
        store.build(stage, key, config={}, upstream={}, make=partial(_save, held=held))
    for place, value in changes.items():
        run.settings[place] = {**run.settings.get(place, {}), **value}
    return run


def page_of_run(run: PlannedRun, folder: Path) -> tuple[Path, list[str]]:
    pictures = gallery([run], identities=2)
    shown = pd.DataFrame({"Defense": ["NoDef"]})
    table = RenderedTable("T", shown, shown, "c", gallery=pictures)
    written = publish(table, folder, "t", replace=True)
    return next(path for path in written if path.suffix == ".html"), list(pictures.notes)


def test_pictures_are_kept_beside_the_records_for_a_clone_without_the_store(tmp_path):
    run = of_two_people(tmp_path)
    page, _ = page_of_run(run, tmp_path / "mini")
    (strip,) = (tmp_path / "mini" / "pictures").glob("*.webp")
    assert hashlib.sha256(strip.read_bytes()).hexdigest().startswith(strip.stem) and pictures_in(page) == 4
    assert sum(path.stat().st_size for path in strip.parent.iterdir()) < 2000

    shutil.rmtree(tmp_path / "store")
    page.unlink()
    again, _ = page_of_run(run, tmp_path / "mini")
    assert pictures_in(again) == 4
    dark, light = gallery([run], identities=2).rows[1].pictures
    assert (dark.recognised, light.recognised) == (True, False)
    shades = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one.url.partition(",")[2])))).astype(int)
        for one in (dark, light)
    ]
    assert shades[0].max() < 10 and abs(shades[1] - 200).max() < 10 and shades[0].shape[0] == 64

    strip.write_bytes(strip.read_bytes()[:-1] + b"x")  # damaged: better none than another picture
    assert len(gallery([run], identities=2).rows) == 1


def test_nobody_real_is_kept_beside_the_records(tmp_path):
    run = of_two_people(tmp_path, data={"people": "consented"}, publish={"people": True})
    page, _ = page_of_run(run, tmp_path / "mini")
    assert page.parent.name == "people" and pictures_in(page) == 4
    assert not (tmp_path / "mini" / "pictures").exists() and gallery([run]).rows[1].key is None


def test_a_page_shows_nobody_real_without_the_switch(tmp_path):
    def page(**changes) -> tuple[Path, list[str]]:
        return page_of_run(of_two_people(tmp_path, **changes), tmp_path / "out")

    path, notes = page(data={"people": "unknown"})
    assert path == tmp_path / "out" / "t.html" and pictures_in(path) == 0
    assert "Nobody of synthfaces is shown" in notes[0] and notes[0] in html.unescape(path.read_text())
    path, notes = page(data={"people": "unknown"}, publish={"people": True})
    assert path == tmp_path / "out" / "people" / "t.html" and pictures_in(path) == 4 and not notes
    assert "This page shows people (of unknown consent)" in path.read_text()
    path, notes = page()  # synthetic
    assert path == tmp_path / "out" / "t.html" and pictures_in(path) == 4
    assert "This page shows people" not in path.read_text()


def test_a_fresh_clone_keeps_the_page_that_has_pictures(tmp_path, capsys):
    shutil.copytree(MINI / "records", tmp_path / "mini" / "records")
    page = tmp_path / "mini" / "demo.html"
    page.write_text('<img src="data:image/png;base64,AA">' * 100)
    places = [f"paths.results={tmp_path}", f"paths.store={tmp_path / 'nothing'}"]
    assert main(["demo", "--no-run", *places]) == 0
    assert page.read_text().count("<img") == 100 and "kept as before" in capsys.readouterr().out
    assert io.StringIO((tmp_path / "mini" / "demo.md").read_text()).readline().startswith("| Defense")
    assert main(["demo", "--no-run", "--replace", *places]) == 0
    assert 0 < page.read_text().count("<img") < 100


def test_a_single_run_has_a_page_of_its_own_with_its_people(tmp_path):
    run = planned("nodef", (90.0, 60.0))
    run.record["classes"] = [f"person {label}" for label in range(3)]
    run.record["per_identity"] = {"att_acc1": [20.0, 100.0, 60.0]}
    run.record["test_per_identity"] = {"right": [9, 8, 7], "images": [10, 10, 10]}
    run.settings["paths"] |= {"results": str(tmp_path), "store": str(tmp_path / "store")}
    run.settings["data"]["people"] = "consented"
    run = replace(run, path=tmp_path / "mini" / "records" / "S13a-nodef-s0-abc.json")
    written = render_table(load_table("run"), [run], other_data=False)
    assert [path.name for path in written][-1] == "run-S13a-nodef-s0-abc.html"
    text = written[-1].read_text()
    assert text.index("person 1") < text.index("person 2") < text.index("person 0") and "8 of 10" in text
    assert pictures_in(written[-1]) == 0 and "Nobody of synthfaces is shown" in text
    assert all("person 1" not in path.read_text() for path in written[:-1])
