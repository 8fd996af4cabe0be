"""Files in the layout of NVIDIA's network pickles load; all else is refused in one sentence, and nothing ever
runs.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from midre_exp.errors import CheckpointError
from midre_exp.priors.stylegan.nvidia import StyleGAN2Discriminator, StyleGAN2Generator, load_pickle
from midre_exp.priors.stylegan.nvidia_fixture import (
    RECONSTRUCT,
    EasyDict,
    Foreign,
    official,
    pickled,
    stand_in,
    write_stylegan2,
)
from midre_exp.weights import restricted_pickle

ARGUMENTS: dict[str, Any] = {
    "z_dim": 4,
    "c_dim": 0,
    "w_dim": 4,
    "img_resolution": 8,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 4, "num_fp16_res": 1, "conv_clamp": 256},
}
DISCRIMINATOR: dict[str, Any] = {
    "c_dim": 0,
    "img_resolution": 8,
    "img_channels": 3,
    "channel_max": 4,
    "epilogue_kwargs": {"mbstd_group_size": 2},
}


def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(**ARGUMENTS).eval()


def network(**more: Any) -> Foreign:
    return official(generator(), **{"_init_kwargs": EasyDict(ARGUMENTS), **more})


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "network.pkl"
        path.write_bytes(data)
        return path

    return write


def refusal(path: Path, **options: Any) -> str:
    """What is said of ``path``: one sentence that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_pickle(path, **options)
    text = str(caught.value)
    assert text.startswith(f"{path} ")
    assert "\n" not in text
    assert "; " in text, "no remedy"
    assert text.isprintable()
    return text.removeprefix(f"{path} ")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_all_three_networks_come_out_as_they_went_in(write, protocol):
    ours, discriminator = generator(), StyleGAN2Discriminator(**DISCRIMINATOR)
    content = {
        "G": network(),
        "D": official(
            discriminator,
            _init_args=(0, 8),
            _init_kwargs={k: DISCRIMINATOR[k] for k in list(DISCRIMINATOR)[2:]},
        ),
        "G_ema": network(),
        "augment_pipe": official(
            nn.Sequential(nn.BatchNorm2d(2)), xflip=1.0, bank=np.eye(2), at=torch.float32
        ),
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", max_size=None),
    }
    loaded = load_pickle(write(pickled(content, protocol=protocol)))
    assert list(loaded) == ["G", "D", "G_ema"]
    for name, original in {"G": ours, "G_ema": ours, "D": discriminator}.items():
        state = loaded[name].state_dict()
        assert list(state) == list(original.state_dict())
        assert all(torch.equal(state[key], value) for key, value in original.state_dict().items())
        assert not loaded[name].training
        assert not any(p.requires_grad for p in loaded[name].parameters())
    z = torch.randn(2, 4)
    with torch.no_grad():
        images = loaded["G_ema"](z)
        assert torch.equal(images, ours(z))
        assert torch.equal(loaded["D"](images), discriminator(images))
    assert loaded["G_ema"].synthesis.b8.use_fp16


def test_a_written_file_holds_all_networks_of_the_published_one(tmp_path):
    write_stylegan2(tmp_path / "one.pkl", image_size=16, channels=2)
    loaded = load_pickle(tmp_path / "one.pkl")
    assert list(loaded) == ["G", "D", "G_ema"]
    drawn = loaded["G_ema"](torch.zeros(2, 16))
    assert drawn.shape == (2, 3, 16, 16)
    assert loaded["D"](drawn).shape == (2, 1)
    write_stylegan2(tmp_path / "again.pkl", image_size=16, channels=2)
    assert torch.equal(load_pickle(tmp_path / "again.pkl")["G"](torch.zeros(2, 16)), drawn)


def test_older_spellings_and_absent_entries_are_read(write):
    scalar = stand_in("numpy.core.multiarray", "scalar")
    old = Foreign(scalar, np.dtype("f8"), struct.pack("<d", 256.0))
    arguments = {**ARGUMENTS, "synthesis_kwargs": EasyDict(ARGUMENTS["synthesis_kwargs"], conv_clamp=old)}
    loaded = load_pickle(write(pickled({"G_ema": network(_init_kwargs=arguments)}, scalar)))
    assert list(loaded) == ["G_ema"]
    assert loaded["G_ema"].synthesis.b4.conv1.conv_clamp == 256


def test_channels_last_weights_and_unsaved_buffers_are_read_as_pytorch_does(write):
    ours = generator()
    weight = ours.synthesis.b8.conv1.weight
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    ours.register_buffer("scratch", torch.ones(3), persistent=False)
    data = pickled({"G_ema": official(ours, _init_kwargs=ARGUMENTS)})
    loaded = load_pickle(write(data))["G_ema"]
    assert torch.equal(loaded.synthesis.b8.conv1.weight, weight)
    assert "scratch" not in dict(loaded.named_buffers())


def test_another_format_version_is_read_with_a_warning(write, caplog):
    ours = network()
    ours.call[1][0]["version"] = 7
    load_pickle(write(pickled({"G_ema": ours})))
    assert "format version 7; version 6 is known" in caplog.text


def poison(sentinel: Path) -> str:
    return f"__import__('pathlib').Path({str(sentinel)!r}).touch()"


def legacy_storage(numbers: Tensor) -> bytes:
    file = io.BytesIO()
    storage = torch.storage.TypedStorage(
        wrap_storage=numbers.untyped_storage(), dtype=numbers.dtype, _internal=True
    )
    torch.save(storage, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def hostile_calls(sentinel: Path) -> dict[str, Any]:
    """Objects that run code when Python's own pickle reads them."""
    import functools
    import importlib
    import operator
    import subprocess

    code, touch = poison(sentinel), f"touch {sentinel}"
    inner = pickle.dumps(Foreign(eval, code))
    storage = io.BytesIO()
    torch.save(Foreign(eval, code), storage, _use_new_zipfile_serialization=False)
    zipped = io.BytesIO()
    torch.save(Foreign(eval, code), zipped)
    from_bytes = torch.storage._load_from_bytes
    return {
        "os.system": Foreign(os.system, touch),
        "builtins.eval": Foreign(eval, code),
        "builtins.exec": Foreign(exec, code),
        "import and getattr": Foreign(call, getattr, Foreign(importlib.import_module, "os"), "system", touch),
        "subprocess": Foreign(subprocess.check_call, ["touch", str(sentinel)]),
        "partial": Foreign(
            operator.call if hasattr(operator, "call") else call, functools.partial(eval, code)
        ),
        "methodcaller": Foreign(call, operator.methodcaller("touch"), sentinel),
        "path write": Foreign(Path.touch, sentinel),
        "map": Foreign(list, Foreign(map, eval, [code])),
        "pickle.loads": Foreign(pickle.loads, inner),
        "torch.load": Foreign(
            call, functools.partial(torch.load, weights_only=False), Foreign(io.BytesIO, zipped.getvalue())
        ),
        "hostile storage": Foreign(from_bytes, storage.getvalue()),
        "hostile zipped storage": Foreign(from_bytes, zipped.getvalue()),
        "in a tuple in a list": [("deep", [Foreign(eval, code)])],
    }


HOSTILE = list(hostile_calls(Path("never")))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_calls_of_anything_are_refused_and_not_run(name, protocol, write, tmp_path):
    sentinel = tmp_path / "was_run"
    attack = hostile_calls(sentinel)[name]
    no_weights: dict[str, Any] = {"_modules": {}}
    contents = {
        "bare": attack,
        "entry": {"G_ema": attack},
        "beside": {"G_ema": network(**no_weights), "training_set_kwargs": attack},
        "argument": {"G_ema": network(**no_weights, _init_kwargs={**ARGUMENTS, "z_dim": attack})},
        "parameter": {"G_ema": network(**no_weights, _parameters={"weight": attack})},
        "module": {"G_ema": network(_modules={"mapping": attack})},
        "hook": {"G_ema": network(**no_weights, _forward_hooks={0: attack})},
    }
    for content in contents.values():
        text = refusal(write(pickled(content, protocol=protocol)))
        assert "holds code or foreign objects" in text or "has a storage in another format" in text
        assert not sentinel.exists()


def test_the_hostile_files_do_run_code_in_pythons_own_pickle(tmp_path):
    for name in ("os.system", "builtins.eval", "subprocess", "map", "pickle.loads", "hostile storage"):
        sentinel = tmp_path / name.replace(" ", "_")
        data = pickle.dumps(hostile_calls(sentinel)[name])
        with suppress(Exception):
            pickle.loads(data)
        assert sentinel.exists(), name


def test_module_source_is_passed_over(write, tmp_path):
    sentinel = tmp_path / "was_run"
    ours = network()
    ours.call[1][0]["module_src"] = poison(sentinel)
    before = set(sys.modules)
    assert list(load_pickle(write(pickled({"G_ema": ours})))) == ["G_ema"]
    assert not sentinel.exists()
    assert not {
        name for name in set(sys.modules) - before if name.startswith(("torch_utils", "dnnlib", "training"))
    }


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch_utils.persistence", "_src_to_module"),
        ("torch_utils.persistence", "import_hook"),
        ("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__"),
        ("dnnlib.util", "call_func_by_name"),
        ("dnnlib.util", "open_url"),
        ("dnnlib", "EasyDict"),
        ("collections", "OrderedDict.__init__"),
        ("torch.storage", "torch.load"),
        ("torch._utils", "_rebuild_wrapper_subclass"),
        ("torch.jit", "load"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("builtins", "getattr"),
        ("builtins", "type"),
        ("copyreg", "_reconstructor"),
        ("_codecs", "encode"),
        ("runpy", "_run_code"),
        ("__main__", "x"),
        ("x\x1b[2J\ny", "\ud800"),
        ("a" * 500, "b"),
    ],
)
def test_every_other_name_is_refused_and_said(write, module, name):
    ask = b"\x8c".join(
        [
            b"\x80\x04",
            *(
                bytes([min(len(t), 255)]) + t[:255]
                for t in (s.encode("utf-8", "surrogatepass") for s in (module, name))
            ),
        ]
    )
    text = refusal(write(ask + b"\x93)R."))
    assert text.startswith("holds code or foreign objects (")
    assert module[:9].split("\x1b")[0] in text
    assert len(text) < 400


def test_a_tensorflow_network_is_named_as_such(write):
    data = b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81."
    assert "is a TensorFlow network; convert it with NVIDIA's legacy.py" in refusal(write(data))


RAW = {
    "INST": b"\x80\x02(S'true'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02Pfile\n.",
    "binary persistent id": b"\x80\x02NQ.",
    "call of a text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "call of a dtype": b"\x80\x02ctorch\nfloat32\n)R.",
    "call without a tuple": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "instance of a function": b"\x80\x02ctorch.storage\n_load_from_bytes\n)\x81.",
    "attributes of a stand-in": b"\x80\x02ctorch.storage\n_load_from_bytes\n"
    b"}(X\x04\x00\x00\x00makeccollections\nOrderedDict\nub.",
    "keyword instance": b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)}\x92.",
    "list as a key": b"\x80\x02}]Ns.",
    "tuple as a key": b"\x80\x02}))\x86Ns.",
    "items into None": b"\x80\x02NK\x01a.",
    "empty stack": b"\x80\x02R.",
    "nothing at the end": b"\x80\x02.",
    "two things at the end": b"\x80\x02NN.",
    "no mark": b"\x80\x02NNt.",
    "unknown memo": b"\x80\x02h\x07.",
    "unknown operation": b"\x80\x02\xff.",
    "no end": b"\x80\x02N",
    "protocol 0": b"\x80\x00N.",
    "protocol 99": b"\x80\x63N.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "large bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", (1 << 64) - 1) + b"abc.",
    "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    "huge memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "huge number": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "negative number size": b"\x80\x02\x8b\xff\xff\xff\xff\x01.",
    "not UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "long name": b"\x80\x02c" + b"a" * 10_000 + b"\nb\n.",
    "deep list": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuple": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "deep tuple as a set": b"\x80\x02cbuiltins\nset\n)" + b"\x85" * 100_000 + b"R.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "bytes behind the end": b"\x80\x02N.cos\nsystem\n",
    "a number": b"\x80\x02K\x01.",
    "an empty dictionary": b"\x80\x02}.",
}


@pytest.mark.parametrize("name", RAW)
def test_hand_made_operations_are_refused(write, name):
    refusal(write(RAW[name]))


@pytest.mark.parametrize("key", [b"]", b"))\x86", b"}"])
def test_a_key_that_could_be_deep_is_not_hashed(write, key):
    assert "damaged" in refusal(write(b"\x80\x02}" + key + b"Ns."))


def test_an_endless_row_of_operations_is_cut_off(write, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "_OPERATIONS", 1000)
    assert "more than 1000 pickle operations" in refusal(write(b"\x80\x02" + b"N" * 2000 + b"."))
    items = [None] * 300
    again = pickled([Foreign(set, items) for _ in range(10)])
    assert "more than 1000 pickle operations" in refusal(write(again))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(40), "is a zip file"),
        (b"\n<!DOCTYPE html><html>quota</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x1f\x8b\x08" + bytes(40), "is no network pickle"),
        (b"cos\nsystem\n(S'true'\ntR.", "is no network pickle"),
        (b"hello, this is text", "is no network pickle"),
    ],
)
def test_files_that_are_no_pickles_are_named_for_what_they_are(write, start, words):
    assert words in refusal(write(start))


def test_a_missing_file_a_folder_and_a_file_beyond_the_limit_are_refused(write, tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.pkl")
    assert "is a folder" in refusal(tmp_path)
    path = write(pickled({"G_ema": network()}))
    assert "more than the limit of 1000" in refusal(path, max_bytes=1000)
    with path.open("r+b") as file:
        file.truncate(3 << 30)  # sparse
    assert "more than the limit of 2147483648" in refusal(path)


def test_a_file_cut_off_anywhere_is_refused_as_damaged(write):
    data = pickled({"G_ema": network()})
    for length in [*range(1, 200, 7), *range(200, len(data), len(data) // 40), len(data) - 1]:
        assert "damaged or incomplete" in refusal(write(data[:length]))


def test_flipped_bytes_are_refused_or_change_numbers_but_trip_nothing(write):
    data = pickled({"G_ema": network()})
    draw = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        try:
            load_pickle(write(bytes(damaged)))
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def tensor_of(storage: bytes, offset: Any, size: Any, stride: Any) -> Foreign:
    rebuild = torch._utils._rebuild_tensor_v2
    return Foreign(rebuild, Foreign(torch.storage._load_from_bytes, storage), offset, size, stride, False, {})


FOUR = legacy_storage(torch.arange(4.0))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (tensor_of(FOUR, 0, (4,), (1,)), "unexpected (weight)"),  # a good one, for comparison
        (tensor_of(FOUR, 0, (5,), (1,)), "larger than its data"),
        (tensor_of(FOUR, 1, (4,), (1,)), "larger than its data"),
        (tensor_of(FOUR, 0, (1 << 39,), (0,)), "larger than its data"),
        (tensor_of(FOUR, -1, (4,), (1,)), "damaged"),
        (tensor_of(FOUR, 0, (4,), (-1,)), "damaged"),
        (tensor_of(FOUR, 0, (1 << 62,), (1,)), "damaged"),
        (tensor_of(FOUR, 0, (2, 2), (1,)), "damaged"),
        (tensor_of(FOUR, 0, (1,) * 100_000, (1,) * 100_000), "damaged"),
        (tensor_of(FOUR, 0.0, (4,), (1,)), "damaged"),
        (tensor_of(FOUR, 0, [4], [1]), "damaged"),
        (tensor_of(FOUR[:-1], 0, (4,), (1,)), "whose data are incomplete"),
        (tensor_of(FOUR + b"\0", 0, (4,), (1,)), "whose data are incomplete"),
        (tensor_of(FOUR.replace(b"\x8a\x0a\x6c", b"\x8a\x0a\x6d"), 0, (4,), (1,)), "another format"),
        (tensor_of(FOUR.replace(b"FloatStorage", b"FloatStorags"), 0, (4,), (1,)), "torch.FloatStorags"),
        (tensor_of(b"", 0, (4,), (1,)), "another format"),
        (tensor_of(b"PK\x03\x04" + bytes(100), 0, (4,), (1,)), "another format"),
        (tensor_of("text", 0, (4,), (1,)), "damaged"),  # type: ignore[arg-type]
    ],
    ids=range(18),
)
def test_tensors_beyond_their_data_and_damaged_storages_are_refused(write, tensor, words):
    found = refusal(write(pickled({"G_ema": network(_modules={}, _parameters={"weight": tensor})})))
    assert words in found


def test_a_tar_in_place_of_a_storage_is_not_opened(write):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("pickle"))
    refusal(
        write(
            pickled({"G_ema": network(_parameters={"weight": tensor_of(archive.getvalue(), 0, (4,), (1,))})})
        )
    )


def test_a_storage_unpacked_again_and_again_is_refused(write):
    blob = legacy_storage(torch.zeros(5000))
    bomb = [Foreign(torch.storage._load_from_bytes, blob) for _ in range(3)]
    assert "more than its own size" in refusal(write(pickled({"G_ema": network(_modules={}), "x": bomb})))


def same_twice() -> dict[str, Any]:
    part = official(nn.Linear(1, 1))
    for _ in range(12):  # 2 ** 12 modules when walked
        part = official(nn.Sequential(), _modules={"0": part, "1": part})
    return {"G_ema": network(_modules={"0": part})}


def circle() -> dict[str, Any]:
    ours = network()
    ours.call[1][0]["state"]["_modules"]["mapping"].call[1][0]["state"]["_init_kwargs"] = ours.call[1][0][
        "state"
    ]
    return {"G_ema": ours}


def without_weights(**replaced: Any) -> dict[str, Any]:
    return {"G_ema": network(**replaced)}


def half() -> dict[str, Any]:
    return {"G_ema": official(generator().half(), _init_kwargs=ARGUMENTS)}


def arguments(**changed: Any) -> dict[str, Any]:
    return {"G_ema": network(_init_kwargs={**ARGUMENTS, **changed})}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (same_twice(), "has no tree of modules in G_ema"),
        ({"G_ema": 3}, "has int where G_ema, a Generator, belongs"),
        ({"G_ema": official(nn.Linear(1, 1))}, "has 'Linear' where G_ema, a Generator, belongs"),
        ({"D": network()}, "has 'Generator' where D, a Discriminator, belongs"),
        ({"G_ema": None, "x": 1}, "has none of the networks"),
        ([network()], "has none of the networks"),
        (without_weights(_modules={}), "missing (synthesis.b4.const"),
        (without_weights(_modules=3), "has no named modules in G_ema"),
        (without_weights(_modules={"mapping": "x"}), "has no tree of modules"),
        (without_weights(_parameters={"x": "y"}), "has a str among the tensors of G_ema"),
        (without_weights(_parameters={"x\n": torch.zeros(1)}), r"1 unexpected (x\n)"),
        (half(), "not float32"),
        (arguments(z_dim=5), "1 of another shape (mapping.fc0.weight [4, 4] for [4, 5])"),
        (arguments(img_resolution=1 << 40), "img_resolution=1099511627776 is not usable"),
        (arguments(img_resolution=24), "img_resolution=24 is not supported"),
        (arguments(img_resolution=8.0), "img_resolution=8.0 is not usable"),
        (arguments(z_dim=1 << 20_000), "cannot be used"),
        (arguments(mapping_kwargs={"num_layers": 10**9}), "num_layers=1000000000 is not usable"),
        (arguments(mapping_kwargs={"lr_multiplier": 0}), "lr_multiplier=0 is not usable"),
        (arguments(mapping_kwargs={"activation": "os.system"}), "activation 'os.system' is unknown"),
        (arguments(mapping_kwargs=[1]), "cannot be used"),
        (arguments(synthesis_kwargs={"conv_clamp": "x\ny"}), "conv_clamp="),
        (arguments(synthesis_kwargs={"resample_filter": "x"}), "cannot be used"),
        (arguments(synthesis_kwargs={"w_dim": 4}), "multiple values"),
        (arguments(surprise=1), "unexpected keyword argument"),
        (arguments(forward=1), "unexpected keyword argument"),
        (without_weights(_init_kwargs=3), "they are no arguments"),
        (without_weights(_init_kwargs={1: 2}), "cannot be used"),
        (without_weights(_init_args=(1,) * 50), "there are 50"),
    ],
)
def test_networks_that_are_none_or_do_not_fit_are_refused(write, content, words):
    assert words in refusal(write(pickled(content)))


def test_a_state_that_contains_itself_is_read_once(write):
    assert list(load_pickle(write(pickled(circle())))) == ["G_ema"]


def test_objects_that_are_no_class_instances_are_refused(write):
    for meta in ({}, {"type": "function"}, {"type": "class", "class_name": 1}, "text"):
        refusal(write(pickled({"G_ema": Foreign(RECONSTRUCT, meta)})))
