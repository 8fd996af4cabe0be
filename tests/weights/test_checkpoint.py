from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import pickle
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn

from midre_exp.errors import StoreError
from midre_exp.weights import checkpoint

HEADER = len(b"midre-checkpoint-3\n") + 32


def with_header(body: bytes) -> bytes:
    """A file named ``state`` whose checksum is right whatever it holds."""
    return b"midre-checkpoint-3\n" + hashlib.sha256(b"state\0" + body).digest() + body


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "step": 17,
        "lr": 1e-3,
        "note": "größer",
        "done": True,
        "best": None,
        "history": [1.5, (2, "x"), {"a": []}],
        "rng": torch.Generator().manual_seed(3).get_state(),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "named": OrderedDict(w=nn.Parameter(torch.arange(3.0))),
        "milestones": Counter([10, 20, 20]),
        "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]},
    }
    checkpoint.save(tmp_path / "deep" / "state", state)
    found = checkpoint.load(tmp_path / "deep" / "state")
    assert found is not None and found.keys() == state.keys()
    for name in ("step", "lr", "note", "done", "best", "history", "optimizer", "milestones"):
        assert found[name] == state[name]
    for name in ("rng", "half", "empty"):
        assert torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype
    assert torch.equal(found["named"]["w"], torch.arange(3.0))
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["state"]


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "state") is None


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, {"w": torch.zeros(64), "step": 3})
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        data = bytearray(good)
        data[position] ^= 1
        path.write_bytes(data)
        assert checkpoint.load(path) is None, position
        assert not path.exists() and path.with_name("state.damaged").read_bytes() == data


def test_the_state_of_another_stage_is_not_taken_for_ones_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = (tmp_path / "store" / "work" / stage / "last.ckpt" for stage in ("target-a", "target-b"))
    for path, value in ((mine, 1), (other, 2)):
        checkpoint.save(path, {"step": value})
    kept = other.read_bytes()
    moved = (tmp_path / "store").rename(tmp_path / "elsewhere") / "work" / "target-a" / "last.ckpt"
    assert checkpoint.load(moved) == {"step": 1}  # a store may be moved as a whole
    moved.write_bytes(kept)
    assert checkpoint.load(moved) is None
    assert "belongs elsewhere" in caplog.text


def torch_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"midre", torch_file(), with_header(b""), with_header(b"rubbish"), with_header(torch_file()[:-50])],
    ids=["empty", "short", "torch file", "no body", "rubbish", "truncated body"],
)
def test_a_damaged_or_foreign_file_is_set_aside_with_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(path) is None
    assert len(caplog.records) == 1
    assert str(path) in caplog.text and "from scratch" in caplog.text
    assert (tmp_path / "state.damaged").read_bytes() == content
    assert checkpoint.load(path) is None


class _Gadget:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    if kind == "torch":
        torch.save({"x": _Gadget(tmp_path / "executed")}, buffer)
    else:
        pickle.dump({"x": _Gadget(tmp_path / "executed")}, buffer, protocol=2)
    (tmp_path / "state").write_bytes(with_header(buffer.getvalue()))
    assert checkpoint.load(tmp_path / "state") is None
    assert not (tmp_path / "executed").exists()


def test_a_file_that_holds_no_dict_is_foreign(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    (tmp_path / "state").write_bytes(with_header(buffer.getvalue()))
    assert checkpoint.load(tmp_path / "state") is None
    assert "holds a list" in caplog.text


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {"b": Path("x")}]}, r"state\['a'\]\[1\]\['b'\] is a pathlib"),
        ({"a": defaultdict(int)}, r"state\['a'\] is a collections.defaultdict"),
        ({"a": torch.float32}, r"state\['a'\] is a torch.dtype"),
        ([1], "is a dict, not a list"),
    ],
)
def test_what_could_not_be_loaded_is_refused_when_saved(tmp_path: Path, state: object, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        checkpoint.save(tmp_path / "state", state)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="free space"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_folder_in_the_place_of_a_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(StoreError, match=r"cannot read .*state"):
        checkpoint.load(tmp_path / "state")
