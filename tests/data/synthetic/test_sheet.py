"""The sheet of synthetic faces."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from midre_exp.data.__main__ import main
from midre_exp.data.synthetic.looks import V1, V2
from midre_exp.data.synthetic.sheet import overview, people
from midre_exp.data.synthetic.synthfaces import render


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ("--people 2 --photos 3 --size 16", (48, 32)),
        ("--version 1 --people 1 --photos 2 --size 16 --source other", (32, 16)),
        ("--people 1 --photos 2 --size 16 --occluders 1 --per-photo hair skin", (32, 16)),
        ("--version 1 --overview --size 16", (192, 128)),
    ],
)
def test_a_sheet_is_written(tmp_path, capsys, options, size):
    file = tmp_path / "new" / "sheet.png"
    assert main(["sheet", str(file), *options.split()]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with Image.open(file) as image:
        assert image.size == size


def test_a_row_is_a_person_and_a_column_a_photograph():
    sheet = people(V2, 16, first=5, count=3, photos=2, source="same")
    expected = render(torch.tensor([6]), torch.tensor([1]), 16, look=V2)[0]
    assert torch.equal(sheet[:, 16:32, 16:], expected)
    assert torch.equal(overview(V1, 16)[:, :16, 16:32], render(torch.tensor([1]), torch.tensor([1]), 16)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sheet", "sheet: the following arguments are required: file; see midre-exp data sheet --help"),
        ("sheet x.gif", "sheet: x.gif is no name of a picture; end it with .png or .jpg"),
        ("sheet x.png --size 8", "sheet: --size=8 cannot be drawn; give 16 to 1024"),
        ("sheet x.png --people 0", "sheet: --people=0 cannot be drawn; give 1 to 1000"),
        ("sheet x.png --first -1", "sheet: --first=-1 cannot be drawn; give 0 or more"),
        ("sheet x.png --source ffhq", "sheet: --source=ffhq is unknown; use same or other"),
        ("sheet x.png --version 3", "data.version=3 is no version of synthetic faces; use 1 or 2"),
        ("sheet x.png --version 1 --occluders 1", "synthetic faces of data.version=1 have data.per_photo="),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err.startswith(message) and not [*tmp_path.iterdir()]
