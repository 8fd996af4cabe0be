"""A file of other options says which, and its entries, prefixes and averages are found or named."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from midre_exp.errors import CheckpointError
from midre_exp.plan.choice import choice
from midre_exp.targets import build_target
from midre_exp.targets.training.fitting import fitting_options
from midre_exp.weights.state_dict import load_checkpoint


def shallow(classes: int = 3, **options):
    return build_target("resnet18", classes, scale="mini", **{"width": 0.125, **options})


@pytest.mark.parametrize(
    ("name", "theirs", "said"),
    [
        ("resnet18", {"width": 1.0, "stem": "imagenet"}, {"width": 1.0, "stem": "imagenet"}),
        ("resnet18", {"width": 0.5}, {"width": 0.5}),
        ("resnet18", {"depth": 34}, None),
        ("resnet18", {}, {}),
        ("vgg16", {"image_size": 64}, {"image_size": 64}),
        ("vgg16", {"image_size": 64, "width": 1.0}, {"image_size": 64, "width": 1.0}),
    ],
)
def test_options_are_read_from_shapes(name, theirs, said):
    node = choice("target", name, scale="mini")["model"]
    with torch.device("meta"):
        state = build_target(name, 7, scale="mini", **theirs).state_dict()
    assert fitting_options(name, node, state) == said


def test_an_average_beside_the_weights_is_told_and_can_be_chosen(tmp_path: Path):
    plain, mean = shallow(), shallow()
    path = tmp_path / "w.pth"
    torch.save({"state_dict_ema": mean.state_dict(), "state_dict": plain.state_dict(), "epoch": 3}, path)
    model = shallow()
    (note,) = load_checkpoint(model, path).notes
    assert "taken: state_dict" in note and "checkpoint_entry=state_dict_ema" in note
    assert torch.equal(model.fc.weight, plain.fc.weight)
    assert load_checkpoint(model, path, entry="state_dict_ema").notes == ()
    assert torch.equal(model.fc.weight, mean.fc.weight)


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "network.", "_orig_mod.module.", "model._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "net", "trained"])
def test_wrappers_and_prefixes_that_are_unambiguous_are_found_and_told(tmp_path, prefix, wrapper):
    theirs, model = shallow(), shallow()
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    torch.save(state if wrapper is None else {wrapper: state, "lr": 0.1}, tmp_path / "w.pth")
    notes = load_checkpoint(model, tmp_path / "w.pth").notes
    assert torch.equal(model.fc.weight, theirs.fc.weight)
    assert any(f"without {prefix}" in note for note in notes)
    assert any("entry trained" in note for note in notes) == (wrapper == "trained")


def test_a_part_of_a_file_is_named_by_its_prefix(tmp_path: Path):
    theirs, model = shallow(), shallow()
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": {**state, "projector.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(model, tmp_path / "w.pth")
    (note,) = load_checkpoint(model, tmp_path / "w.pth", prefix="backbone").notes
    assert "1 tensors outside of backbone are left out" in note
    with pytest.raises(CheckpointError, match=r"below head\.; its names begin with backbone, projector"):
        load_checkpoint(model, tmp_path / "w.pth", prefix="head.")


def test_what_trainings_keep_beside_their_weights_is_passed_over(tmp_path: Path):
    theirs, model = shallow(), shallow()
    beside = {
        "best": np.float64(0.5),
        "seed": np.int64(3),
        "curve": np.ones(3),
        "args": argparse.Namespace(lr=0.1),
        "more": SimpleNamespace(a=[1]),
        "when": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
        "where": Path("x"),
    }
    torch.save({"state_dict": theirs.state_dict(), **beside}, tmp_path / "w.pth")
    load_checkpoint(model, tmp_path / "w.pth")
    assert torch.equal(model.fc.weight, theirs.fc.weight)


def test_integers_say_so_and_the_content_counts_whatever_the_ending(tmp_path: Path):
    theirs, model = shallow(), shallow()
    save_file(theirs.state_dict(), tmp_path / "w.pth")
    load_checkpoint(model, tmp_path / "w.pth")
    assert torch.equal(model.fc.weight, theirs.fc.weight)
    torch.save({key: value.to(torch.int8) for key, value in theirs.state_dict().items()}, tmp_path / "i.pth")
    with pytest.raises(CheckpointError, match=r"of another type than floating point.*int8") as caught:
        load_checkpoint(model, tmp_path / "i.pth")
    assert "quantised" in str(caught.value)
