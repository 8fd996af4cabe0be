"""Cards are read strictly, and every packaged one is of something that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from midre_exp.cards import dataset_cards, weights_cards
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, config_files

CARDS = CONF_DIR / "card"


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A config folder of the user's own with a copy of a packaged card."""
    (tmp_path / "card" / "weights").mkdir(parents=True)
    text = (CARDS / "weights" / "ms1m_ir50.yaml").read_text()
    (tmp_path / "card" / "weights" / "mine.yaml").write_text(text)
    monkeypatch.setenv("MIDRE_CONF", str(tmp_path))
    return tmp_path / "card" / "weights" / "mine.yaml"


def test_the_packaged_cards_are_of_choices_that_exist():
    for card in dataset_cards().values():
        assert set(card.used_by) <= set(config_files("data/dataset")), card.name
    known = set().union(
        *map(config_files, ("target", "attack/prior", "attack/surrogates", "metrics")), ("fid", "delta_face")
    )
    for weights in weights_cards().values():
        assert weights.used_by and set(weights.used_by) <= known, weights.name


def test_a_card_holds_what_its_file_says():
    card = weights_cards()["ms1m_ir50"]
    assert (card.name, card.source, card.sha256) == ("ms1m_ir50", "ms1m", None)
    assert card.file == "backbone_ir50_ms1m_epoch120.pth"
    assert dataset_cards()["celeba"].images["train"] == 27018


def test_a_folder_of_ones_own_adds_cards(own):
    assert set(weights_cards()) > {"mine", "ms1m_ir50"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("licence: null", "license: null", "license is read by nothing; did you mean licence?"),
        ("layout:", "format:", "format is read by nothing"),
        ("bytes: null", "bytes: many", "bytes=many cannot be used; give a whole number from 1, or null"),
        ("publisher: face", "publisher:\n- face", "publisher=.* cannot be used"),
        ("sha256: null", "sha256: abc", "sha256 is 64 digits"),
        ("folder: ms1m", "folder: ../ms1m", "folder=../ms1m leads elsewhere"),
        ("gives: null", "gives: {acc: high}", "gives.acc=high cannot be used"),
        ("bytes: null\n", "", "bytes is missing; write it as bytes="),
        ("title:", "name: x\ntitle:", "leave name out"),
        ("title:", "title: [", "cannot be read as yaml"),
    ],
)
def test_a_wrong_card_is_refused_by_its_file(own, old, new, told):
    text = own.read_text()
    assert old in text
    own.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=told) as error:
        weights_cards()
    assert str(own) in str(error.value)
