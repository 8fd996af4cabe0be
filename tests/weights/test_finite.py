"""Whether numbers are finite, asked of tensors, of foreign files and of what is written as JSON."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from midre_exp.errors import CheckpointError, DivergedError
from midre_exp.store.files import dump_json
from midre_exp.weights.finite import not_finite, not_numbers, require_finite, require_finite_numbers
from midre_exp.weights.state_dict import load_checkpoint

KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_one_number_among_many_is_found_by_its_name_in_any_precision(dtype):
    good = torch.ones(3, 1000, dtype=dtype)
    tensors = {"good": good, "counter": torch.tensor(3), "none": torch.empty(0), "point": torch.tensor(1.0)}
    assert not_finite(tensors) == not_numbers(tensors) == []
    require_finite(tensors, "it", "lower it")
    for value, found in ((torch.nan, ["bad"]), (torch.inf, []), (-torch.inf, [])):
        bad = good.clone()
        bad[2, 998] = value
        assert not_finite({**tensors, "bad": bad}) == ["bad"]
        assert not_numbers({**tensors, "bad": bad}) == found
        with pytest.raises(DivergedError, match=r"^it diverged \(not finite: bad\); lower it$"):
            require_finite({**tensors, "bad": bad}, "it", "lower it")


def test_numbers_that_json_does_not_have_are_named_and_never_written():
    require_finite_numbers({"a": 1.0, "b": [2, None, "nan"]}, "it", "lower it")
    with pytest.raises(DivergedError, match=r"not finite: a\.b\.1"):
        require_finite_numbers({"a": {"b": [1.0, float("nan")]}}, "it", "lower it")
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            dump_json({"a": value})


def test_a_divergence_crosses_to_another_process_with_its_stage():
    error = DivergedError("training diverged in epoch 3", "lower it")
    error.stage, error.stage_key = "target", "0123"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DivergedError and str(again) == str(error)
    assert str(again) == "target 0123: training diverged in epoch 3; lower it"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def one_nan(state: dict[str, Tensor]) -> None:
    state["0.weight"][3, 2, 1, 1] = torch.nan


def infinite(state: dict[str, Tensor]) -> None:
    state["1.running_mean"][0] = -torch.inf


def negative(state: dict[str, Tensor]) -> None:
    state["1.running_var"][2] = -1e-3


def too_large(state: dict[str, Tensor]) -> None:
    state["0.bias"] = torch.full((4,), 1e300, dtype=torch.float64)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (one_nan, "not finite: 0.weight"),
        (infinite, "not finite: 1.running_mean"),
        (negative, "negative variances: 1.running_var"),
        (too_large, "not finite: 0.bias"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_weights_of_a_file_that_are_no_numbers_are_refused_and_none_is_taken(
    tmp_path: Path, damage, told, ending
):
    state = network().state_dict()
    damage(state)
    path = tmp_path / f"weights{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, path)
    assert str(caught.value).startswith(f"{path} holds weights that cannot be used ({told})")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
