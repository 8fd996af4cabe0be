"""Runs whose reconstructions are flat greys, and what people say of them."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.store.store import Store
from midre_exp.study.questionnaire import Choice
from tests.report.paper_records import record

#: Of the runs, as far as their private images depend on them.
OVERRIDES = (
    "resolution=16",
    "data.identities=7",
    "data.train_per_identity=2",
    "data.test_per_identity=6",
    "data.public_identities=1",
    "data.public_images=1",
)


def choice(folder: Path, **values) -> Choice:
    return Choice(**{"store": str(folder / "store"), "overrides": OVERRIDES, **values})


GREYS = {
    "NoDef": 0,
    "MIDRE [0.1, 0.4]": 200,
}  # the reconstruction that counts, of identity 0; one brighter for each next


def record_of(folder: Path, name: str, defense: str, *, identities: int = 6, selected: bool = False) -> Path:
    """A run whose reconstructions are flat greys, in a store of their own."""
    labels = torch.arange(identities).repeat_interleave(2)
    restarts = torch.tensor([1, 0]).repeat(identities)  # the first restart is not the first row
    shades = torch.where(restarts == int(selected), GREYS[defense] + labels, 100 + labels)
    tensors = {
        "images": shades.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16),
        "labels": labels,
        "restarts": restarts,
    }
    if selected:
        tensors["selected"] = restarts == 1
    # the evaluator takes the reconstructions of even identities for theirs
    predicted = {"predicted": torch.where(labels % 2 == 0, labels, 6)}
    stored = {"attack": ("reconstructions", tensors), "metrics": ("judgement", predicted)}
    for stage, content in stored.items():
        Store(folder / "store").build(
            stage,
            name * 16,
            config={},
            upstream={},
            make=lambda work, content=content: work.save_tensors(*content),
        )
    made = record(50, 50, setup="S01", attack="gmi", by_identity=[50.0] * 7) | {
        "key": name * 16,
        "defense": {"label": defense, "parts": {}},
        "artifacts": {"attack": name * 16, "metrics": name * 16},
    }
    made["config"] |= {"data": _data(), "paths": {"store": "/nowhere"}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(made))
    return path


@cache
def _data() -> dict[str, Any]:
    with packaged_configs():
        return settings_of(["setup=S01", *OVERRIDES])["data"]


def questions_on(page: Path) -> list[list[Image.Image]]:
    """The pictures of each question: of which is closer, photograph, left and right."""
    text = page.read_text()
    urls, asked = (
        json.loads(re.search(rf"const {name} = (\[.*?\]);", text)[1]) for name in ("pictures", "questions")
    )
    shown = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in urls]
    return [[shown[place] for place in question] for question in asked]


def answer_file(path: Path, key: Path, sides: list[str], participant: str = "p1") -> Path:
    study = json.loads(key.read_text())["study"]
    rows = [[study, participant, number, side, 900] for number, side in enumerate(sides, start=1)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["study", "participant", "question", "answer", "milliseconds"], *rows])
    return path
