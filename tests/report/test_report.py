from __future__ import annotations

import base64
import copy
import io

import pandas as pd
import pytest
import torch
from PIL import Image

from midre_exp.errors import UserError
from midre_exp.report.__main__ import render
from midre_exp.report.definitions import load_table
from midre_exp.report.runs.trade_off import trade_off
from midre_exp.report.tables import comparison as tables
from midre_exp.report.tables.html import Picture, PictureRow, page_of
from midre_exp.report.tables.publish import RenderedTable, write_tables
from midre_exp.report.templates import Column
from midre_exp.tracking.pictures import data_url


def record(
    defense: str, acc: float, att: float, *, seed: int = 0, setup: str = "S13a", knn: float | None = 1000.0
) -> dict:
    metrics = {"acc": acc, "att_acc1": att, "att_acc1_batch_std": 2.0, "evaluator_acc": 95.88}
    if knn is not None:
        metrics["knn_dist"] = knn
    return {
        "setup": {"id": setup},
        "scale": "mini",
        "attack": "LOMMA+GMI",
        "target": "vgg16",
        "evaluator": "facenet112",
        "defense": {"label": defense},
        "seed": seed,
        "data": {"name": "celeba_celeba", "resolution": 64},
        "counts": {
            "reconstructions": 1500,
            "private_identities": 1000,
            "private_train": 27018,
            "public": 30000,
            "identities": 300,
            "restarts": 5,
        },
        "metrics": metrics,
        "commit": "abc",
        "device": "one GPU",
    }


TABLE3 = [
    record("NoDef", 85.74, 53.64),
    record("NLS", 80.02, 39.16),
    record("MIDRE [0.1, 0.4]", 79.85, 26.62),
]


def test_delta_recomputes_table_3_of_the_paper():
    table = tables.comparison(TABLE3).set_index("defense")
    assert pd.isna(table.delta["NoDef"])
    assert round(table.delta["NLS"], 2) == 2.53
    assert round(table.delta["MIDRE [0.1, 0.4]"], 2) == 4.59


def test_a_defense_that_costs_nothing_is_op_and_a_stronger_attack_negative():
    assert trade_off(95.47, 15.97, 95.43, 86.51) == "OP"
    assert trade_off(95.43, 15.97, 95.43, 86.51) == "OP"
    assert trade_off(80.02, 72.00, 85.74, 71.00) == pytest.approx(-0.17, abs=0.005)


def test_seeds_are_averaged_and_counted_and_order_is_kept():
    table = tables.comparison([*TABLE3, record("NoDef", 87.74, 55.64, seed=1)])
    assert list(table.defense) == ["NoDef", "NLS", "MIDRE [0.1, 0.4]"]
    assert (table.acc[0], table.att_acc1[0], table.seeds[0], table.n[0]) == (86.74, 54.64, 2, 3000)


def asked(attack: str, defense: str, queries: int, failed: int | None, **options) -> dict:
    made = record(defense, 85.0, 50.0, **options)
    threat = "white_box" if attack == "gmi" else "labels" if attack == "brepmi" else "scores"
    counts = made["counts"] if failed is None else {**made["counts"], "failed": failed}
    return {**made, "config": {}, "attack": attack, "threat": threat, "queries": queries, "counts": counts}


def test_a_table_with_query_attacks_says_what_was_asked_and_what_failed():
    records = [
        asked("rlbmi", "NoDef", 1500 * 1600, None),
        asked("brepmi", "NoDef", 1500 * 900, 3),
        asked("brepmi", "NoDef", 1500 * 1000, 4, seed=1),
        asked("gmi", "NoDef", 1500 * 300, None),
    ]
    shown = tables.printable(tables.comparison(records))
    assert list(shown["queries"]) == ["1600", "950", "300"]
    assert list(shown["failed"]) == ["", "7", ""] and list(shown["n"]) == ["1500", "3000", "1500"]
    assert "Queries are the mean per reconstruction" in tables.caption("T", records)


def test_a_table_of_white_box_attacks_looks_as_it_did_before_queries_were_told():
    later = [asked("LOMMA+GMI", one["defense"]["label"], 7, None) for one in TABLE3]
    later = [
        {**new, "threat": "white_box", "metrics": old["metrics"]}
        for new, old in zip(later, TABLE3, strict=True)
    ]
    for records in (later, [later[0], *TABLE3[1:]]):
        assert tables.printable(tables.comparison(records)).equals(
            tables.printable(tables.comparison(TABLE3))
        )
        assert tables.caption("T", records) == tables.caption("T", TABLE3)
    shown = tables.printable(tables.comparison(TABLE3))
    assert list(shown) == ["Defense", "Acc", "AttAcc", "±", "KNN dist", "Δ", "n"]


def test_setups_are_compared_with_their_own_baseline():
    other = [record("NoDef", 90.0, 50.0, setup="S19"), record("NLS", 80.0, 40.0, setup="S19")]
    table = tables.comparison([*TABLE3, *other])
    assert table[(table.setup == "S19") & (table.defense == "NLS")].delta.item() == pytest.approx(1.0)
    assert tables.printable(table).columns[0] == "setup"


def test_without_a_baseline_delta_is_empty_and_a_missing_metric_stays_empty():
    rows = [record("NLS", 80.02, 39.16, knn=None), record("MIDRE", 79.0, 20.0)]
    shown = tables.printable(tables.comparison(rows))
    assert list(shown["Δ"]) == ["", ""]
    assert list(shown["KNN dist"]) == ["", "1000.000"]


def test_files_hold_the_same_numbers(tmp_path):
    table = tables.comparison(TABLE3)
    text = tables.caption("Title with 100 % and _", TABLE3)
    write_tables(RenderedTable("Title", table, tables.printable(table), text), tmp_path, "table3")
    assert "| MIDRE [0.1, 0.4] |" in (tmp_path / "table3.md").read_text()
    csv = pd.read_csv(io.StringIO((tmp_path / "table3.csv").read_text()))
    assert list(csv.att_acc1) == [53.64, 39.16, 26.62]
    tex = (tmp_path / "table3.tex").read_text()
    assert r"\toprule" in tex and r"\bottomrule" in tex and r"$\Delta$" in tex and "26.62" in tex
    assert r"100 \%" in tex and r"\_" in tex and "Δ" not in tex and "±" not in tex


def test_the_caption_says_scale_data_counts_commit_and_device():
    text = tables.caption("T", TABLE3)
    for fact in (
        "mini",
        "celeba_celeba",
        "64 px",
        "1000 private identities",
        "30000 public",
        "abc",
        "one GPU",
        "95.9 %",
    ):
        assert fact in text, fact


def test_records_are_not_changed_by_rendering():
    before = copy.deepcopy(TABLE3)
    tables.comparison(TABLE3)
    assert before == TABLE3


def test_the_page_is_self_contained_and_escapes():
    shown = tables.printable(tables.comparison(TABLE3))
    rows = [
        PictureRow(
            "GMI against <b>",
            [Picture("data:image/png;base64,AAAA", True), Picture("data:image/png;base64,BBBB", False)],
        )
    ]
    html = page_of(title="A & B", caption="c", table=shown, rows=rows, missing=["python -m midre_exp x"])
    assert "A &amp; B" in html and "&lt;b&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "python -m midre_exp x" in html and "not recognised" in html


def test_large_pictures_are_scaled_down_for_the_page_and_small_ones_are_not():
    def size(url: str) -> tuple[int, int]:
        return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size

    assert size(data_url(torch.rand(3, 224, 160), largest=128)) == (91, 128)
    assert size(data_url(torch.rand(3, 32, 32), largest=128)) == (32, 32)


def test_setups_with_other_data_are_told_apart_in_the_caption():
    other = copy.deepcopy(TABLE3[0]) | {
        "setup": {"id": "S29"},
        "data": {"name": "facescrub_ffhq", "resolution": 224},
    }
    text = tables.caption("T", [*TABLE3, other])
    assert "Scale mini. S13a: celeba_celeba at 64 px" in text and "S29: facescrub_ffhq at 224 px" in text


def test_numbers_words_and_prose_are_told_apart_on_a_page():
    marks = {
        "Acc": ["95.40", "", "-0.3"],
        "Δ": ["OP", "1.2", "−3"],
        "target": ["VGG16", "IR152", ""],
        "MIDRE": ["[0.1, 0.4]", "", ""],
        "certainty": ["certain", "x" * 60, ""],
    }
    found = [Column.of(heading, pd.Series(values)).kind for heading, values in marks.items()]
    assert found == ["numbers", "numbers", "words", "words", "prose"]


def test_drawing_takes_one_thread_and_gives_the_others_back_after_an_error(monkeypatch):
    seen = []

    def fail(*_, **__):
        seen.append(torch.get_num_threads())
        raise UserError("no paper left")

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        monkeypatch.setattr("midre_exp.report.tables.render.render_table", fail)
        with pytest.raises(UserError, match="paper"):
            render(load_table("demo"), [], other_data=False, replace=False)
        assert seen == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
