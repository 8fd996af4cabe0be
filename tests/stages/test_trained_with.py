"""A checkpoint is called by what it was trained with, as the file or the user says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from midre_exp.errors import ConfigError
from midre_exp.stages.trained_with import check_trained_with, defense_label, defense_of

MIDRE = {"midre": {"_target_": "defenses.MIDRE", "a_h": 0.4}}
NODEF = {"nodef": {"_target_": "defenses.NoDef"}}
UNKNOWN = "checkpoint (trained with unknown)"


def settings(path: Path | None, defense, trained_with=None):
    target = {"checkpoint": path and str(path), "trained_with": trained_with}
    others = {"evaluator": {}, "attack": {}, "paths": {"weights": "weights"}}
    others["runtime"] = {"trusted_packages": []}
    return {"target": target, "defense": defense, **others}


@pytest.fixture
def foreign(tmp_path) -> Path:
    torch.save({"w": torch.zeros(2)}, tmp_path / "foreign.pth")
    return tmp_path / "foreign.pth"


def ours(tmp_path: Path, defense) -> Path:
    said = {"stage": "target", **({} if defense is None else {"defense": defense})}
    save_file({"w": torch.zeros(2)}, tmp_path / "weights.safetensors", {"midre_exp": json.dumps(said)})
    return tmp_path / "weights.safetensors"


def test_a_defense_is_no_label_of_a_foreign_file(foreign):
    with pytest.raises(ConfigError, match=r"add target\.trained_with=midre if .* or take defense=nodef"):
        check_trained_with(settings(foreign, MIDRE))
    with pytest.raises(ConfigError, match=r"trained_with=unknown is not defense=midre; take defense=nodef"):
        check_trained_with(settings(foreign, MIDRE, "unknown"))
    with pytest.raises(ConfigError, match=r"trained_with=nls is not defense=midre; take defense=nls"):
        check_trained_with(settings(foreign, MIDRE, "nls"))
    with pytest.raises(ConfigError, match=r"trained_with=midre is not defense=nodef; take defense=midre"):
        check_trained_with(settings(foreign, NODEF, "midre"))
    with pytest.raises(ConfigError, match="give names of defenses"):
        check_trained_with(settings(foreign, NODEF, 3))
    with pytest.raises(ConfigError, match="is said of a file that is loaded"):
        check_trained_with(settings(None, MIDRE, "midre"))


@pytest.mark.parametrize(
    ("defense", "trained_with", "label"),
    [
        (MIDRE, "midre", "the defense's"),
        (MIDRE, ["midre"], "the defense's"),
        ({**NODEF, **MIDRE}, ["nodef", "midre"], "the defense's"),
        (NODEF, "nodef", "the defense's"),
        (NODEF, "unknown", UNKNOWN),
        (NODEF, None, UNKNOWN),
    ],
)
def test_what_the_user_says_is_the_label(foreign, defense, trained_with, label):
    check_trained_with(settings(foreign, defense, trained_with))
    assert defense_label(settings(foreign, defense, trained_with), "the defense's") == label
    assert defense_label(settings(None, defense), "the defense's") == "the defense's"


@pytest.mark.parametrize("beside", [False, True])
def test_our_own_file_says_what_it_is(tmp_path, beside):
    if beside:  # of before files said so themselves
        path = tmp_path / "weights.safetensors"
        save_file({"w": torch.zeros(2)}, path)
        manifest = {"stage": "target", "files": {path.name: {}}, "config": {"defense": MIDRE}}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    else:
        path = ours(tmp_path, MIDRE)
    assert defense_of(path) == MIDRE
    check_trained_with(settings(path, MIDRE))
    assert defense_label(settings(path, MIDRE), "MIDRE") == "MIDRE"
    with pytest.raises(ConfigError, match=r"was trained with midre, as it says itself.*choose defense=midre"):
        check_trained_with(settings(path, NODEF))
    stronger = {"midre": {**MIDRE["midre"], "a_h": 0.8}}
    with pytest.raises(ConfigError, match=r"defense\.midre\.a_h was 0\.4, is 0\.8"):
        check_trained_with(settings(path, stronger))
    with pytest.raises(ConfigError, match="says otherwise; leave it out"):
        check_trained_with(settings(path, MIDRE, "nodef"))


def test_our_own_copy_of_an_unknown_file_stays_unknown(tmp_path):
    path = ours(tmp_path, None)
    assert defense_of(path) is None and defense_label(settings(path, NODEF), "NoDef") == UNKNOWN
    path = ours(tmp_path, NODEF)
    assert defense_of(path) == NODEF and defense_label(settings(path, NODEF), "NoDef") == "NoDef"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"files": 3}', '{"stage": "target", "files": {}, "config": {}}']
)
def test_a_manifest_of_others_is_data(foreign, text):
    (foreign.parent / "manifest.json").write_text(text)
    assert defense_of(foreign) is None
