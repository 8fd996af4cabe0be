"""Weight files that a config calls by name: found, refused, checked, and told in records and captions."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from midre_exp.cards import named, weights_cards
from midre_exp.cards.named import (
    card_of_file,
    check_named,
    missing,
    place_of,
    published_accuracy,
    with_files,
)
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.spelling import network_name
from midre_exp.records.schema import problem_of
from midre_exp.records.starts import starts
from midre_exp.report.runs.captions import circumstances
from midre_exp.stages import make_plan
from midre_exp.stages.classifier import ACCURACY_TOLERANCE, Evaluator
from midre_exp.sweep.job import carry_out
from midre_exp.targets.assemble import assemble
from midre_exp.targets.factory import build_target
from midre_exp.weights.published import weights_used
from tests.report.paper_records import record

IR50 = "backbone_ir50_ms1m_epoch120.pth"


def settings(*overrides: str):
    with packaged_configs():
        return settings_of([*overrides])


def put(folder: Path, content: dict[str, torch.Tensor] | None = None) -> Path:
    """The IR-50 file of MS1M where it belongs, with something in it."""
    path = folder / "ms1m" / IR50
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content or {"input_layer.0.weight": torch.zeros(1)}, path)
    return path


LOWRES = [path.stem for path in sorted((CONF_DIR / "setup").glob("S*.yaml")) if path.stem < "S27"]


@pytest.mark.parametrize("setup", LOWRES)
def test_the_published_starts_are_the_default_at_paper_scale_alone(setup):
    paper, mini = settings(f"setup={setup}", "scale=paper"), settings(f"setup={setup}", "scale=mini")
    start = {"vgg16": "imagenet", "ir152": "ms1m", "facenet64": "ms1m"}[paper["target"]["name"]]
    assert (paper["target"]["weights"], paper["evaluator"]["weights"]) == (start, "ms1m")
    assert mini["target"]["weights"] is None and mini["evaluator"]["weights"] is None


def test_a_missing_file_is_told_with_where_it_comes_from_and_where_it_goes(tmp_path):
    told = missing(settings("setup=S02", "scale=paper", f"paths.weights={tmp_path}"))
    assert len(told) == 2
    assert all("https://github.com/ZhaoJ9014/face.evoLVe" in text for text in told)
    assert "target.weights=null" in told[0] and f"{tmp_path}/ms1m/Backbone_IR_152_Epoch_112" in told[0]
    assert "evaluator.weights=null" in told[1] and f"{tmp_path}/ms1m/{IR50}" in told[1]


def test_a_run_without_them_is_refused_before_anything_else_and_one_that_wants_none_is_not(tmp_path):
    setup = ("setup=S02", "scale=paper", f"paths.weights={tmp_path}", f"data.private.root={tmp_path}/none")
    with pytest.raises(CheckpointError, match=r"target.weights=ms1m wants .*; and evaluator.weights=ms1m"):
        carry_out(settings(*setup))
    nothing = settings(*setup, "target.weights=null", "evaluator.weights=null")
    check_named(nothing)
    assert with_files(nothing) == nothing


def test_an_empty_file_is_missing_and_a_wrong_one_is_refused(tmp_path, monkeypatch):
    config = settings("target=facenet64", "target.weights=ms1m", f"paths.weights={tmp_path}")
    path = put(tmp_path)
    assert missing(config) == []
    cards = weights_cards()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {**cards, "ms1m_ir50": replace(cards["ms1m_ir50"], sha256=digest)}
    monkeypatch.setattr(named, "weights_cards", lambda: known)
    check_named(config)
    known["ms1m_ir50"] = replace(cards["ms1m_ir50"], sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"is not face.evoLVe IR-50 of MS1M as published"):
        check_named(config)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        check_named(config)


def test_a_name_and_the_path_of_its_file_are_the_same_key(tiny, tmp_path):
    path = put(tmp_path)
    base = ("target=facenet64", f"paths.weights={tmp_path}")

    def key(*overrides: str) -> str:
        return make_plan(tiny(*base, *overrides))["target"].key

    by_name, random = key("target.weights=ms1m"), key("target.weights=null")
    assert by_name == key(f"target.weights={path}") == key("target.weights=ms1m_ir50") != random
    put(tmp_path, {"input_layer.0.weight": torch.ones(7)})
    assert key("target.weights=ms1m") not in (by_name, random)


def test_a_source_without_a_file_for_the_network_is_refused_with_those_that_have_one(tmp_path):
    with pytest.raises(
        ConfigError, match=r"weights=ms1m has no file for vgg16, only for facenet112, .*ir152"
    ):
        missing(settings("target=vgg16", "target.weights=ms1m"))
    with pytest.raises(ConfigError, match="write weights=imagenet"):
        missing(settings("target=vgg16", "target.weights=imagenet_vgg16"))


def test_a_target_of_ones_own_takes_the_file_of_the_one_it_is_made_from(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.yaml").write_text("defaults: [facenet64, _self_]\nname: mine\n")
    monkeypatch.setenv("MIDRE_CONF", str(tmp_path))
    config = {**settings("target=facenet64", "target.weights=ms1m", f"paths.weights={tmp_path}")}
    config["target"] = {**config["target"], "name": "mine"}
    path = put(tmp_path)
    assert with_files(config)["target"]["weights"] == str(path)


def test_priors_and_students_are_called_by_name_too(tmp_path):
    config = settings("attack=ppa", "attack.prior.pretrained=ffhq", f"paths.weights={tmp_path}")
    told = missing(config)
    assert len(told) == 1 and f"{tmp_path}/stylegan2/ffhq.pkl" in told[0]
    assert "attack.prior.pretrained=null" in told[0]
    (tmp_path / "stylegan2").mkdir()
    (tmp_path / "stylegan2" / "ffhq.pkl").write_bytes(b"x")
    assert with_files(config)["attack"]["prior"]["pretrained"] == f"{tmp_path}/stylegan2/ffhq.pkl"


def test_of_a_glob_the_one_file_that_fits_is_meant(tmp_path):
    card, folder = weights_cards()["lomma_b0"], tmp_path / "lomma"
    folder.mkdir()
    (folder / "VGG16_efficientnet_b0_kd_0_20.pt").touch()
    assert place_of(card, tmp_path).name == "VGG16_efficientnet_b0_kd_0_20.pt"
    (folder / "IR152_efficientnet_b0_kd_0_20.pt").touch()
    with pytest.raises(ConfigError, match="has 2 files that may be"):
        place_of(card, tmp_path)


def test_vggface2_lies_in_torchs_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = place_of(weights_cards()["facenet_vggface2"], "weights")
    assert path.parent == Path(torch.hub.get_dir()) / "checkpoints"


def test_the_official_layout_starts_the_trunk_and_leaves_out_a_head_of_another_size(tmp_path):
    donor = build_target("facenet64", 3, scale="mini")
    for tensor in donor.state_dict().values():
        tensor.fill_(0.25) if tensor.is_floating_point() else None
    trunk = {
        re.sub(r"^feature\.", "", name): value
        for name, value in donor.state_dict().items()
        if not name.startswith("fc_layer")
    }
    trunk["output_layer.3.weight"] = torch.zeros(512, 25088)
    put(tmp_path, trunk)
    chosen = ("target=facenet64", "scale=mini", "target.weights=ms1m", f"paths.weights={tmp_path}")
    node = with_files(settings(*chosen))["target"]
    from midre_exp.defense import compose_defenses

    model = assemble(node, 3, compose_defenses({}), seed=0, weights=node["weights"])
    state = model.state_dict()
    assert bool((state["feature.input_layer.0.weight"] == 0.25).all())
    assert bool((state["output_layer.3.weight"] != 0).any())


def test_the_manifest_and_the_record_name_the_start(tmp_path):
    path = put(tmp_path)
    config = settings(
        *("target=facenet64", "target.weights=ms1m", "evaluator.weights=null", f"paths.weights={tmp_path}")
    )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with weights_used() as used:
        stage = Evaluator()
        stage.role = "target"
        stage._note_start(with_files(config))
    assert used["ms1m"]["sha256"] == digest and used["ms1m"]["file"] == IR50

    class Made:
        def __init__(self, **config):
            self.manifest = {"config": config}

    target = Made(target={"weights": f"sha256:{digest}"})
    found = starts(config, {"target": target, "evaluator": Made(evaluator={})})
    assert found["target"] == {"source": "ms1m", "file": IR50, "sha256": digest, "trained": True}
    assert found["evaluator"] == {"source": "random", "file": None, "sha256": None, "trained": True}


def test_captions_tell_both_starts_and_the_published_accuracy_of_the_judge():
    start = {"source": "ms1m", "file": IR50, "sha256": None, "trained": True}
    run = {**record(88, 40), "evaluator": "facenet112", "data": {"name": "celeba_ffhq", "resolution": 64}}
    assert " from " not in circumstances("T", [run])
    run["start"] = {"target": {**start, "source": "random"}, "evaluator": start}
    assert problem_of({**run, "config": run["config"]}) in (None, problem_of(record(88, 40)))
    told = circumstances("T", [run])
    assert f"on {network_name(run['target'])} from random weights" in told
    assert "judged by FaceNet112 from ms1m (accuracy" in told and "%, published 95.9 %)" in told
    run["start"]["target"] = {**start, "source": "kedmi_vgg16", "trained": False}
    assert "as published (kedmi_vgg16)" in circumstances("T", [run])
    assert published_accuracy("facenet112", "synthfaces") is None


def test_a_published_classifier_that_does_less_here_raises_an_alarm(tmp_path):
    path = tmp_path / "elsewhere" / "FaceNet_95.88.tar"
    path.parent.mkdir()
    path.touch()
    assert card_of_file(path, tmp_path).name == "kedmi_facenet112"
    config = settings("evaluator=facenet112", f"evaluator.checkpoint={path}", f"paths.weights={tmp_path}")
    close = 95.88 - ACCURACY_TOLERANCE / 2
    assert Evaluator()._beside_published(config, close) == []
    (told,) = Evaluator()._beside_published(config, 90.0)
    assert "kedmi_facenet112" in told and "90.00 %" in told and "95.88 % as published" in told
    shutil.move(path, path.with_name("other.tar"))
    other = settings("evaluator=facenet112", f"evaluator.checkpoint={path.with_name('other.tar')}")
    assert Evaluator()._beside_published(other, 90.0) == []
