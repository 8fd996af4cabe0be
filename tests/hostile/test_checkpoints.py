"""Every crafted weight file, before every reader that could be handed it: refused in a sentence, nothing run,
no memory taken.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from midre_exp.errors import CheckpointError
from midre_exp.priors.stylegan.files import load_networks
from midre_exp.priors.stylegan.genforce import load_genforce
from midre_exp.priors.stylegan.nvidia import load_pickle
from midre_exp.targets.architectures.resnet import ResNet
from midre_exp.weights import checkpoint
from midre_exp.weights.state_dict import class_count, load_backbone, load_checkpoint, read_state_dict
from tests.hostile import makers

SECONDS = 2.0
MEGABYTES = 500

READERS: dict[str, Callable[[Path], Any]] = {
    "read_state_dict": read_state_dict,
    "load_checkpoint": lambda path: load_checkpoint(nn.Linear(2, 2), path),
    "load_backbone": lambda path: load_backbone(small_net(), str(path)),
    "class_count": lambda path: class_count(path, "fc"),
    "load_pickle": load_pickle,
    "load_genforce": load_genforce,
    "load_networks": lambda path: load_networks(path, conv_clamp=None),
}


def small_net() -> ResNet:
    return ResNet(num_classes=2, width=0.02, stem="small")


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """A reader that makes room for what a file claims fails instead of taking the machine with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 4 * MEGABYTES * 2**20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def peak() -> float:
    """Megabytes this process has ever used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def check_sentence(text: str, path: Path) -> None:
    """One printable line that begins with the file and gives a remedy."""
    assert text.startswith(f"{path} "), text
    assert text.isprintable(), text
    assert "; " in text, f"no remedy: {text}"
    assert len(text) < 1000


@pytest.mark.parametrize("crafted", makers.EVERY, ids=lambda crafted: crafted.name)
def test_no_reader_is_taken_in(crafted: makers.Crafted, tmp_path: Path) -> None:
    sentinel = tmp_path / "was_run"
    data = crafted.make(sentinel)
    assert len(data) < 2 << 20
    path = tmp_path / f"file{'.safetensors' if crafted in makers.SAFE else '.pth'}"
    path.write_bytes(data)
    before, started = peak(), time.process_time()
    for name, read in READERS.items():
        with pytest.raises(CheckpointError) as caught:
            read(path)
        check_sentence(str(caught.value), path)
        assert not sentinel.exists(), name
    assert time.process_time() - started < SECONDS * len(READERS)
    assert peak() - before < MEGABYTES
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]


@pytest.mark.parametrize("crafted", makers.EVERY, ids=lambda crafted: crafted.name)
def test_no_training_continues_from_it_even_with_the_right_checksum(
    crafted: makers.Crafted, tmp_path: Path
) -> None:
    sentinel, path = tmp_path / "was_run", tmp_path / "state"
    data = crafted.make(sentinel)
    path.write_bytes(
        b"midre-checkpoint-3\n" + hashlib.sha256(path.name.encode() + b"\0" + data).digest() + data
    )
    state = checkpoint.load(path)
    # plain content that merely is no state dict of a model is content as good as any
    assert state is None or crafted.name in (*PLAIN, *ODD_TENSORS)
    assert not sentinel.exists()


PLAIN = ("circle", "circle of wrappers", "shadowed methods", "deep dictionary")
ODD_TENSORS = ("one number a trillion times", "legacy stride of zero", "without data", "sparse", "quantised")


def test_the_calls_are_live(tmp_path: Path) -> None:
    """Python's own pickle runs what the readers must not."""
    live = ["old call", "old object", "text protocol", "name on the stack"]
    for crafted in makers.PICKLES:
        if crafted.name in live:
            sentinel = tmp_path / crafted.name.replace(" ", "_")
            pickle.loads(crafted.make(sentinel))
            assert sentinel.exists(), crafted.name


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    os.mkfifo(path)
    for read in READERS.values():
        with pytest.raises(CheckpointError) as caught:
            read(path)
        check_sentence(str(caught.value), path)


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"weight\x1b[2J\n" + "x" * 10_000: torch.zeros(2)}, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(nn.Linear(2, 2), path)
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 1500


def test_attributes_of_a_parameter_are_left_behind(tmp_path: Path) -> None:
    weight: Any = nn.Parameter(torch.ones(2))
    weight.detach = weight.numel = weight.is_floating_point = 3
    torch.save({"weight": weight}, tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    assert torch.equal(state["weight"], torch.ones(2)) and not vars(state["weight"])
