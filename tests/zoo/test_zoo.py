"""Classifiers as files with a card: packed, verified, built from our own yaml, attacked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from midre_exp.errors import CheckpointError
from midre_exp.plan.choice import choice
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.stages.classifier import Target
from midre_exp.stages.parts import make_parts
from midre_exp.stages.prior import PriorStage
from midre_exp.store.__main__ import main
from midre_exp.store.store import Store
from midre_exp.targets.predict import accuracy, predict
from midre_exp.zoo import load_prior, load_target, read_card
from midre_exp.zoo.__main__ import main as zoo_main
from midre_exp.zoo.export import names_of, verified
from midre_exp.zoo.files import SHIPPED, pack, read_file, unpack

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()

CARD = {
    "stage": "target",
    "key": "0123456789abcdef",
    "target": "resnet18",
    "classes": 3,
    "model": {"depth": 18, "width": 0.125, "stem": "small", "mean": 0.5, "std": 0.5},
    "defense": {"nodef": {"_target_": "defenses.NoDef"}},
    "people": "synthetic",
}
TENSORS = {"w": np.arange(4, dtype=np.float32), "n": np.array(7)}


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_file_is_its_tensors_and_its_card_and_equal_ones_are_equal_bytes(tmp_path):
    data = pack(TENSORS, CARD)
    found = unpack(data, "x")
    assert {name: value.tolist() for name, value in found.tensors.items()} == {"w": [0, 1, 2, 3], "n": 7}
    assert CARD.items() <= found.card.items() and found.card["card"] == "1.1"
    assert pack(dict(reversed(TENSORS.items())), CARD) == data


def test_no_byte_can_be_altered():
    data = pack(TENSORS, CARD)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 + at % 255
        with pytest.raises(CheckpointError):
            unpack(bytes(changed), "x")
    for wrong in (data[:-1], data + b"x", b"", data[:9]):
        with pytest.raises(CheckpointError):
            unpack(wrong, "x")


def test_half_the_bytes_hold_what_float16_can():
    many = {"w": np.linspace(-3, 3, 1000, dtype=np.float32), "n": np.array(70_000)}
    whole, half = pack(many, CARD), pack(many, CARD, precision="float16")
    assert len(whole) - len(half) > 1900
    found = unpack(half, "x")
    assert found.card["precision"] == "float16" and found.tensors["n"] == 70_000
    assert np.abs(found.tensors["w"].astype(np.float32) - many["w"]).max() < 1e-3
    with pytest.raises(CheckpointError, match="above 65504"):
        pack({"w": np.array([1e6], dtype=np.float32)}, CARD, precision="float16")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": "../x"}, "no usable stage"),
        ({"key": "x"}, "no usable key"),
        ({"classes": -1}, "no usable classes"),
        ({"model": []}, "no usable model"),
    ],
)
def test_a_card_without_what_is_relied_on_is_refused(change, words):
    with pytest.raises(CheckpointError, match=words):
        unpack(pack(TENSORS, {**CARD, **change}), "x")


def test_another_major_is_refused(monkeypatch):
    monkeypatch.setattr("midre_exp.zoo.files.CARD", "2.0")
    data = pack(TENSORS, CARD)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"card of version 2\.0, and this program reads 1\.x"):
        unpack(data, "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "nothing"}, "of which this program knows none"),
        ({"model": {"_target_": "os.system"}}, "nothing that a file names is built"),
        ({"model": {"_target_": "midre_exp.targets.VGG16"}}, "nothing that a file names is built"),
        ({"model": {"depth": {"_target_": "os.system"}}}, "no plain value for model.depth"),
        ({"model": {"depth": "${oc.env:HOME}"}}, "no plain value for model.depth"),
        ({"model": {"unknown": 3}}, "which is no option here"),
        ({"model": {"_partial_": True}}, "which is no option here"),
        ({"defense": {"../x": {}}}, "not in conf/defense"),
        ({"defense": {"midre": {"_target_": "subprocess.Popen"}}}, "nothing that a file names is built"),
        ({"defense": None}, "does not say which defense"),
        ({}, "does not fit the network"),
        ({"classes": 9_999_999, "model": {**CARD["model"], "width": 64.0}}, "does not fit the network"),
    ],
)
def test_nothing_that_a_card_says_is_built(tmp_path, change, words):
    (tmp_path / "x.safetensors").write_bytes(pack(TENSORS, {**CARD, **change}))
    with pytest.raises(CheckpointError, match=words):
        load_target(tmp_path / "x")


def test_other_files_are_told_what_they_are(tmp_path):
    save_file(
        {"w": torch.zeros(2)}, tmp_path / "a.safetensors", {"midre_exp": json.dumps({"stage": "target"})}
    )
    with pytest.raises(CheckpointError, match="has no card of the zoo"):
        load_target(tmp_path / "a")
    (tmp_path / "b.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load_target(tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"there is no .*c\.safetensors; there are a, b"):
        load_target(tmp_path / "c")


def target_of(settings, store: Path):
    planned = make_plan(settings).stages["target"]
    artifact = Store(store).find("target", planned.key)
    assert artifact is not None
    return artifact, Target().load(settings, artifact, make_parts(settings).trained)


def test_a_loaded_target_answers_as_the_one_of_the_run(tmp_path, tiny, stocked, monkeypatch, capsys):
    settings = tiny("defense=[rolss,nls]")
    run(settings)
    artifact, original = target_of(settings, stocked)
    plain, _ = target_of(tiny(), stocked)
    keys = [f"target/{plain.key}", f"target/{artifact.key}"]
    monkeypatch.chdir(tmp_path)
    assert call("export", "--store", stocked, "--zoo", *keys, "zoo") == 0
    names = sorted(path.stem for path in Path("zoo").glob("*.safetensors"))
    assert len(names) == 2 and "resnet18-nodef-s0" in names
    (defended,) = set(names) - {"resnet18-nodef-s0"}
    loaded = load_target(f"zoo/{defended}")
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, original(images).logits)
    assert not loaded.training
    card = read_card(f"zoo/{defended}")
    assert card["metrics"]["acc"] == artifact.metrics["acc"] and card["classes"] == 4
    assert set(card["defense"]) == {"rolss", "nls"} and card["people"] == "synthetic"
    assert (
        card["normalisation"] == {"mean": 0.5, "std": 0.5} and card["commit"] == artifact.manifest["commit"]
    )
    assert defended in Path("zoo/README.md").read_text()
    # the index beside it is another witness
    assert call("export", "--store", stocked, keys[0], "other.safetensors", "--precision", "float16") == 0
    Path("other.safetensors").replace("zoo/resnet18-nodef-s0.safetensors")
    with pytest.raises(CheckpointError, match=r"not the file that its zoo\.json lists"):
        load_target("zoo/resnet18-nodef-s0")


def test_a_target_of_the_zoo_is_attacked_by_an_override(tmp_path, tiny, stocked, capsys):
    artifact, _ = target_of(tiny(), stocked)
    place = tmp_path / "one.safetensors"
    assert call("export", "--store", stocked, f"target/{artifact.key}", place) == 0
    path = run(tiny(f"target.checkpoint={place}"))
    record = json.loads(path.read_text())
    assert record["metrics"]["acc"] == artifact.metrics["acc"] and record["defense"]["label"] == "NoDef"
    assert not record["start"]["target"]["trained"]
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged or was changed"):
        run(tiny(f"target.checkpoint={place}"))


def test_a_zoo_is_imported_whole_or_not_at_all(tmp_path, tiny, stocked, capsys):
    artifact, _ = target_of(tiny(), stocked)
    key, zoo, mine = f"target/{artifact.key}", tmp_path / "theirs", tmp_path / "mine"
    assert call("export", "--store", stocked, "--zoo", f"a={key}", f"b={key}", zoo) == 0
    assert call("import", zoo, "--zoo", mine) == 0
    assert sorted(path.name for path in mine.iterdir()) == [
        "README.md",
        "a.safetensors",
        "b.safetensors",
        "zoo.json",
    ]
    assert read_file(mine / "a.safetensors").card["key"] == artifact.key
    data = bytearray((zoo / "b.safetensors").read_bytes())
    data[-1] ^= 1
    (zoo / "b.safetensors").write_bytes(data)
    assert call("import", zoo, "--zoo", tmp_path / "late") == 2
    said = capsys.readouterr().err
    assert "b.safetensors is damaged" in said and said.count("\n") == 1 and not (tmp_path / "late").exists()
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "own.safetensors").write_bytes(b"of somebody else")
    assert call("import", mine, "--zoo", tmp_path / "late") == 2
    assert [path.name for path in (tmp_path / "late").iterdir()] == ["own.safetensors"]
    (zoo / "b.safetensors").unlink()
    (zoo / "b.safetensors").symlink_to(mine / "b.safetensors")
    assert call("import", zoo, "--zoo", tmp_path / "later") == 2 and not (tmp_path / "later").exists()


def test_two_targets_of_one_name_want_names_of_their_own(tmp_path, tiny, stocked, capsys):
    artifact, _ = target_of(tiny(), stocked)
    key = f"target/{artifact.key}"
    assert call("export", "--store", stocked, "--zoo", f"resnet18-nodef-s0={key}", key, tmp_path / "zoo") == 2
    assert "would both be called resnet18-nodef-s0" in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()


def test_files_of_one_name_are_told_apart_by_the_numbers_in_which_they_differ():
    def card(a_h, epochs, seed=0):
        defense = {"midre": {"_target_": "defenses.MIDRE", "a_l": 0.1, "a_h": a_h}}
        return {**CARD, "defense": defense, "epochs": epochs, "seed": seed}

    cards = {"a": card(0.4, 44), "b": card(0.8, 44), "c": card(0.8, 66), "d": card(0.4, 44, seed=1)}
    assert names_of(cards) == {
        "a": "resnet18-midre-s0-a_h0.4-epochs44",
        "b": "resnet18-midre-s0-a_h0.8-epochs44",
        "c": "resnet18-midre-s0-a_h0.8-epochs66",
        "d": "resnet18-midre-s1",
    }


def test_a_zoo_of_what_records_name(tmp_path, tiny, stocked, capsys):
    run(tiny())
    assert call("export", "--store", stocked, "--zoo", tmp_path / "results", tmp_path / "zoo") == 0
    names = [path.stem for path in sorted((tmp_path / "zoo").glob("*.safetensors"))]
    assert names == ["evaluator-vgg16", "resnet18-nodef-s0"]
    assert load_target(tmp_path / "zoo" / "evaluator-vgg16").classify(torch.zeros(1, 64)).shape == (1, 4)
    (tmp_path / "empty").mkdir()
    assert call("export", "--store", stocked, "--zoo", tmp_path / "empty", tmp_path / "none") == 2
    assert "no record below" in capsys.readouterr().err


def test_targets_of_real_people_and_what_is_no_classifier_do_not_go(tmp_path, stocked, capsys):
    def fill(work):
        work.save_tensors("weights", {"w": torch.zeros(2)})
        work.metrics.update(acc=50.0, counts={"private_identities": 2})

    config = {"target": {"name": "resnet18", "model": {"mean": 0.5}}, "data": {"dataset": "lfw"}}
    Store(tmp_path / "s").build("target", "aa11aa11aa11aa11", config=config, upstream={}, make=fill)
    told = ["export", "--store", tmp_path / "s", "aa11", tmp_path / "x.safetensors"]
    assert call(*told) == 2
    assert "add publish.people=true" in capsys.readouterr().err and not (tmp_path / "x.safetensors").exists()
    assert call(*told[:-1], "publish.people=true", told[-1], "--people", "public_figures") == 0
    card = read_card(tmp_path / "x")
    assert card["people"] == "public_figures" and card["consent"] is True
    (attack,) = (stocked / "attack").iterdir()
    assert call("export", "--store", stocked, f"attack/{attack.name}", tmp_path / "y.safetensors") == 2
    assert "is no classifier" in capsys.readouterr().err


def shipped() -> list[str]:
    return [path.stem for path in sorted(SHIPPED.glob("*.safetensors"))]


def test_the_zoo_that_comes_along_is_what_its_index_says_and_what_make_zoo_makes(capsys):
    assert [path.stem for path, _ in verified(SHIPPED)] == shipped()
    listed = json.loads((SHIPPED / "zoo.json").read_text())["files"]
    made = dict(
        re.findall(r"([\w-]+)=\w+/([0-9a-f]{16})", re.search(r"^ZOO := .*?[^\\]\n", MAKEFILE, re.M | re.S)[0])
    )
    names = {
        name if name.startswith(("evaluator", "prior")) else f"resnet18-{name}": made[name] for name in made
    }
    assert names == {name: one["key"] for name, one in listed.items()}
    assert sum(one["bytes"] for one in listed.values()) < 15e6
    assert zoo_main([]) == 0
    said = capsys.readouterr().out
    assert f"{len(listed)} files in" in said
    for name in shipped():
        assert re.search(rf"^{name}\b", said, re.M) and name in (SHIPPED / "README.md").read_text()


def test_the_attacks_of_cards_are_those_of_the_committed_records():
    card = read_card(SHIPPED / "resnet18-nodef-s0.safetensors")
    assert {one["attack"] for one in card["attacked"]} == {"brepmi", "ifgmi", "plgmi", "ppa"}
    for one in card["attacked"]:
        (path,) = (ROOT / "results" / "evidence" / "records").glob(f"*-{one['record']}.json")
        record = json.loads(path.read_text())
        assert record["artifacts"]["target"] == card["key"] and record["attack"] == one["attack"]
        assert record["metrics"]["att_acc1"] == one["att_acc1"]


@pytest.fixture(scope="module")
def photographs():
    with packaged_configs():
        settings = settings_of(["scale=evidence", "setup=evidence"])
    return make_parts(settings).private.load("test")


@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("prior")])
def test_a_classifier_that_comes_along_has_the_accuracy_of_its_card(name, photographs):
    card = read_card(SHIPPED / f"{name}.safetensors")
    logits, _ = predict(load_target(f"zoo/{name}"), photographs.images, torch.device("cpu"))
    assert len(logits) == 1000
    assert accuracy(logits, photographs.labels) == pytest.approx(card["metrics"]["acc"], abs=0.11)


def test_a_target_that_comes_along_is_attacked_with_what_lies_beside_it(capsys, monkeypatch):
    short = {"restarts": 1, "kept": 1, "steps": 2, "milestones": [], "reference_batch": 1}
    monkeypatch.setattr("midre_exp.sharing.zoo_attack.choice", lambda *a, **k: {**choice(*a, **k), **short})
    assert zoo_main(["attack", "resnet18-nodef-s0", "--identities", "3"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"PPA on resnet18-nodef-s0: attack accuracy [\d.]+ % .* of 3 identities, 3 rec", said)
    assert "recorded: 77.0 [67, 86]" in said
    for words, sentence in (
        (["--attack", "gmi"], "gmi takes a prior gmi, and"),
        (["--attack", "nothing"], "attack nothing is unknown"),
        (["--identities", "101"], "101 identities of a target of 100"),
    ):
        assert zoo_main(["attack", "resnet18-nodef-s0", *words]) == 2
        assert sentence in capsys.readouterr().err
    assert zoo_main(["attack", "resnet18-s9"]) == 2
    assert "there is no zoo/resnet18-s9.safetensors; there are evaluator-vgg16" in capsys.readouterr().err


def test_a_prior_of_the_zoo_draws_as_the_one_of_the_run(tmp_path, stocked, tiny, capsys):
    planned = make_plan(tiny()).stages["prior"]
    artifact = Store(stocked).find("prior", planned.key)
    assert artifact is not None
    place = tmp_path / "gmi.safetensors"
    assert call("export", "--store", stocked, f"prior/{planned.key}", place) == 0
    latents = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    original = PriorStage().load(tiny(), artifact, 4)
    original.freeze()
    assert torch.equal(load_prior(place).generate(latents), original.generate(latents))
    with pytest.raises(CheckpointError, match="no classifier"):
        load_target(place)
    card = {**read_card(place)}
    for change, words in (
        ({"name": "nothing"}, "of which this program knows none"),
        ({"_target_": "os.system"}, "nothing that a file names is built"),
        ({"latent_dim": 17}, "does not fit the network"),
    ):
        changed = {**card, "prior": {**card["prior"], **change}}
        place.write_bytes(pack(read_file(place).tensors, changed))
        with pytest.raises(CheckpointError, match=words):
            load_prior(place)
        place.write_bytes(pack(read_file(place).tensors, card))
