"""Reading foreign weight files: published layouts load, all else is refused in words, nothing runs."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import pickle
import tarfile
import types
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import Tensor, nn

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.targets import load_checkpoint
from midre_exp.targets.architectures.resnet import ResNet
from midre_exp.targets.architectures.vgg import VGG16
from midre_exp.weights.state_dict import class_count, load_backbone, read_state_dict
from tests.golden.fill import fill

State = dict[str, Tensor]


def small_net(classes: int = 3) -> ResNet:
    return ResNet(num_classes=classes, width=0.02, stem="small")


def copy(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def prefixed(state: Mapping[str, Tensor], prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.fixture
def trained() -> State:
    return copy(fill(small_net()))


LAYOUTS: list[tuple[str, Callable[[State], Any], str | None, tuple[str, ...]]] = [
    ("bare", lambda s: s, None, ()),
    ("KedMI .tar", lambda s: {"state_dict": prefixed(s, "module.")}, "state_dict", ("module.",)),
    ("PLG-MI", lambda s: {"model": s, "opt": {"state": {}, "lr": 0.1}}, "model", ()),
    ("PPA release", lambda s: prefixed(s, "model."), None, ("model.",)),
    (
        "MIDRE trainer",
        lambda s: {
            "epoch": 99,
            "model_state_dict": prefixed(s, "model._orig_mod."),
            "optimizer_state_dict": {},
        },
        "model_state_dict",
        ("model.", "_orig_mod."),
    ),
    (
        "compiled, parallel",
        lambda s: prefixed(s, "_orig_mod.module.model."),
        None,
        ("_orig_mod.", "module.", "model."),
    ),
]


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("name", "pack", "wrapper", "prefixes"), LAYOUTS, ids=[layout[0] for layout in LAYOUTS]
)
def test_every_published_layout_loads(
    name: str,
    pack: Callable[[State], Any],
    wrapper: str | None,
    prefixes: tuple[str, ...],
    zip_format: bool,
    trained: State,
    tmp_path: Path,
) -> None:
    path = tmp_path / "VGG16_88.26.tar"  # an ordinary torch file, whatever its suffix says
    torch.save(pack(trained), path, _use_new_zipfile_serialization=zip_format)
    model = small_net()
    loaded = load_checkpoint(model, path)
    assert_same(model.state_dict(), trained)
    assert (loaded.path, loaded.wrapper, loaded.prefixes) == (path, wrapper, prefixes)
    assert loaded.kept == loaded.unused == ()


def test_safetensors_load(trained: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(prefixed(trained, "module."), path)
    model = small_net()
    assert load_checkpoint(model, str(path)).prefixes == ("module.",)
    assert_same(model.state_dict(), trained)


def test_a_genuine_key_segment_is_not_taken_for_a_prefix(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": nn.Linear(2, 2)})  # its own keys start with "model."
    expected = {key: value + 1 for key, value in copy(model).items()}
    for prefix, stripped in (("", ()), ("module.", ("module.",)), ("model.", ("model.",))):
        torch.save(prefixed(expected, prefix), tmp_path / "w.pth")
        assert load_checkpoint(model, tmp_path / "w.pth").prefixes == stripped
        assert_same(model.state_dict(), expected)


def test_a_prefix_that_only_some_keys_carry_is_left_alone(trained: State, tmp_path: Path) -> None:
    mixed = {("module." + key if key.startswith("fc") else key): value for key, value in trained.items()}
    torch.save(mixed, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"missing: fc.weight, fc.bias\n  unexpected: module.fc.weight"):
        load_checkpoint(small_net(), tmp_path / "w.pth")


def test_names_that_fit_nothing_are_reported_as_they_are_in_the_file(tmp_path: Path) -> None:
    torch.save({"model.trunk": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"unexpected: model.trunk"):
        load_checkpoint(small_net(), tmp_path / "w.pth")


def test_files_older_than_batch_counters_load(trained: State, tmp_path: Path) -> None:
    old = {key: value for key, value in trained.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pth")
    loaded = load_checkpoint(small_net(), tmp_path / "w.pth")
    assert set(loaded.kept) == set(trained) - set(old)
    torch.save({**old, "bn1.num_batches_tracked": torch.tensor(0)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"missing: layer1.0.bn1.num_batches_tracked"):
        load_checkpoint(small_net(), tmp_path / "w.pth")


def test_a_mismatch_names_file_and_keys_and_leaves_the_model_untouched(
    trained: State, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    wrong = {key: value for key, value in trained.items() if not key.startswith("layer4.1")}
    wrong["layer1.0.conv1.weight"] = torch.zeros(9, 1, 3, 3)
    wrong["conv1.weight"] = trained["conv1.weight"].long()
    wrong["classifier.0.weight"] = torch.zeros(2)
    torch.save(wrong, path)
    model = small_net()
    before = copy(model)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, path)
    first, *lists = str(caught.value).split("\n")
    assert first.startswith(f"{path} does not fit ResNet: 12 missing, 1 unexpected, 2 of another shape; ")
    assert [line.split(":")[0].strip() for line in lists] == ["missing", "unexpected", "of another shape"]
    assert lists[0].count("layer4.1.") == 8
    assert lists[0].endswith("and 4 more")
    assert lists[1] == "  unexpected: classifier.0.weight"
    assert "conv1.weight (file int64 [1, 3, 3, 3], model [1, 3, 3, 3])" in lists[2]
    assert "layer1.0.conv1.weight (file [9, 1, 3, 3], model [1, 1, 3, 3])" in lists[2]
    assert_same(model.state_dict(), before)


def test_another_class_count_is_named_as_such(tmp_path: Path) -> None:
    torch.save(small_net(530).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"the file has 530 classes, so build the model with num_classes=530"
    ):
        load_checkpoint(small_net(7), tmp_path / "w.pth")


class Gadget:
    """Unpickling this runs a shell command, unless the reader refuses."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


def hidden_gadgets(folder: Path) -> list[Path]:
    """The gadget in every disguise: zip, legacy, under a wrapper, a plain pickle, old opcodes."""
    gadget, proof = Gadget(folder / "proof"), folder / "proof"
    files = [folder / f"{number}.pth" for number in range(6)]
    torch.save({"a": gadget}, files[0])
    torch.save({"a": gadget}, files[1], _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"w": torch.zeros(1)}, "opt": [gadget]}, files[2])
    files[3].write_bytes(pickle.dumps(gadget, protocol=2))
    files[4].write_bytes(f"(S\"touch '{proof}'\"\nios\nsystem\n.".encode())
    files[5].write_bytes(f"(cos\nsystem\nS\"touch '{proof}'\"\no.".encode())
    return files


def test_files_with_code_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    files = hidden_gadgets(tmp_path)
    for path in files:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(small_net(), path)
        assert str(caught.value).startswith(f"{path} ")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "proof").exists()
    with pytest.raises(
        CheckpointError, match=r"holds code or whole objects \(posix.system\), which are never run"
    ):
        read_state_dict(files[0])
    pickle.loads(files[3].read_bytes())  # the trap is live: the proof appears as soon as somebody does run it
    assert (tmp_path / "proof").exists()


def test_a_pickled_module_is_refused_with_a_remedy(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"\(torch.nn.modules.linear.Linear\).*save model.state_dict\(\)"
    ):
        read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_harmless_objects_beside_the_weights_are_passed_over(
    zip_format: bool, trained: State, tmp_path: Path
) -> None:
    beside = {
        "best_acc": np.float64(88.26),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(lr=0.1, nested=argparse.Namespace(seed=np.int64(3))),
        "options": types.SimpleNamespace(root=Path("data"), started=datetime.datetime(2024, 1, 1)),
        "hyper_parameters": AttributeDict(width=1.0),
    }
    path = tmp_path / "w.pth"
    torch.save({**beside, "state_dict": trained}, path, _use_new_zipfile_serialization=zip_format)
    model = small_net()
    assert load_checkpoint(model, path).wrapper == "state_dict"
    assert_same(model.state_dict(), trained)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_code_within_a_harmless_object_is_refused_and_does_not_run(
    zip_format: bool, trained: State, tmp_path: Path
) -> None:
    proof, path = tmp_path / "proof", tmp_path / "w.pth"
    namespace = argparse.Namespace(lr=Gadget(proof))
    torch.save({"args": namespace, "state_dict": trained}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r"\(posix.system\), which are never run"):
        load_checkpoint(small_net(), path)
    assert not proof.exists()


def test_weights_that_are_no_tensors_are_refused(trained: State, tmp_path: Path) -> None:
    torch.save({**trained, "conv1.weight": trained["conv1.weight"].numpy()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no named tensors, conv1.weight \(PassedOver\); save"):
        load_checkpoint(small_net(), tmp_path / "w.pth")


def test_the_entry_of_a_file_with_several_state_dicts_can_be_chosen(trained: State, tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in trained.items()}
    shadow = {"state_dict": prefixed(averaged, "module."), "decay": 0.999}
    torch.save({"model": trained, "model_ema": averaged, "ema": shadow, "epoch": 3}, tmp_path / "w.pth")
    for entry, expected in ((None, trained), ("model", trained), ("model_ema", averaged), ("ema", averaged)):
        model = small_net()
        loaded = load_checkpoint(model, tmp_path / "w.pth", entry=entry)
        assert loaded.wrapper == (entry or "model")
        assert_same(model.state_dict(), expected)
    assert_same(read_state_dict(tmp_path / "w.pth", entry="model_ema"), averaged)
    for missing in ("epoch", "average"):
        with pytest.raises(
            CheckpointError, match=rf"has no state dict {missing}; .* choose from: model, model_ema, ema$"
        ):
            load_checkpoint(small_net(), tmp_path / "w.pth", entry=missing)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_truncated_files_are_refused(share: float, zip_format: bool, trained: State, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(trained, path, _use_new_zipfile_serialization=zip_format)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="is damaged, incomplete or no weight file"):
        load_checkpoint(small_net(), path)


def test_truncated_safetensors_are_refused(trained: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(trained, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged, incomplete or no weight file"):
        load_checkpoint(small_net(), path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>Quota exceeded</title>", "is a web page"),
        (b"\xef\xbb\xbf<HTML><body>Sign in", "is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"hello, this is a text file" * 9, "is damaged, incomplete or no weight file"),
        (b'{"error": 404}', "is a JSON text, not weights"),
        (b"\x1f\x8b\x08" + bytes(40), "is a gzip archive, not weights; unpack it"),
        (b"\xfd7zXZ\x00" + bytes(40), "is an xz archive, not weights; unpack it"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "is a zstandard archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "is a 7-Zip archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "is an HDF5 file"),
        (b"\x93NUMPY\x01" + bytes(40), "is a NumPy array"),
        (b"\x08\x08\x12\x07pytorch\x1a" + bytes(40), "is an ONNX program"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights_are_named_for_what_they_are(
    content: bytes, what: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=what) as caught:
        load_checkpoint(small_net(), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_archives_are_named(trained: State, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_state_dict(tmp_path)
    torch.save(trained, tmp_path / "w.pth")
    with tarfile.open(tmp_path / "real.tar", "w") as archive:
        archive.add(tmp_path / "w.pth", "w.pth")
    with pytest.raises(CheckpointError, match="is a tar archive; unpack it"):
        read_state_dict(tmp_path / "real.tar")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            {"state_dict": {"w": torch.zeros(1), "epoch": 3, "name": "x"}},
            r"no named tensors, epoch \(int\), name \(str\)",
        ),
        ({"epoch": 3, "x": {"w": 1}}, r"epoch \(int\), x \(dict\)"),
        (
            {"a": {"w": torch.zeros(1)}, "b": {"w": torch.zeros(1)}},
            r"may be weights, a, b; .*checkpoint_entry",
        ),
        ({0: torch.zeros(1)}, r"no named tensors, 0 \(Tensor\)"),
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({}, "has no tensors"),
    ],
)
def test_content_other_than_named_tensors_is_refused_by_name(content: Any, what: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=what):
        read_state_dict(tmp_path / "w.pth")


def torchvision_vgg(width: float) -> State:
    """A file in the layout of torchvision's vgg16_bn: no batch counters, no feature norm, another head."""
    state = copy(fill(VGG16(num_classes=2, width=width).feature))
    convolutions = {
        f"features.{key}": v for key, v in state.items() if not key.endswith("num_batches_tracked")
    }
    return {**convolutions, "classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[State], None]:
    """Makes torchvision's download server offer the given weights, whatever the architecture."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))

    def offer(state: State) -> None:
        monkeypatch.setattr(
            torch.hub, "download_url_to_file", lambda url, path, digest: torch.save(state, path)
        )

    return offer


def test_vgg_takes_torchvisions_convolutions_and_says_what_it_left(
    library: Callable[[State], None], caplog: pytest.LogCaptureFixture
) -> None:
    public = torchvision_vgg(0.05)
    library(public)
    model = VGG16(num_classes=5, width=0.05)
    before = copy(model)
    with caplog.at_level(logging.INFO, logger="midre_exp"):
        loaded = load_backbone(model, "imagenet")
    assert loaded.path.name == "vgg16_bn-6c64b313.pth"
    for key, value in public.items():
        if key.startswith("features."):
            assert torch.equal(model.state_dict()[key.replace("features.", "feature.")], value)
    for key in ("bn.weight", "bn.running_var", "fc_layer.weight", "fc_layer.bias"):
        assert torch.equal(model.state_dict()[key], before[key])
        assert key in loaded.kept
    assert loaded.unused == ("classifier.0.weight", "classifier.0.bias")
    assert "VGG16 took 78 of 98 tensors" in caplog.text
    assert "unused in the file: classifier.0.weight, classifier.0.bias" in caplog.text


def test_vgg_takes_its_own_file_whole(tmp_path: Path) -> None:
    source, model = fill(VGG16(num_classes=5, width=0.05)), VGG16(num_classes=5, width=0.05)
    torch.save({"state_dict": prefixed(source.state_dict(), "module.")}, tmp_path / "w.tar")
    loaded = load_backbone(model, str(tmp_path / "w.tar"))
    assert_same(model.state_dict(), source.state_dict())
    assert loaded.kept == loaded.unused == ()


@pytest.mark.parametrize("classes", [3, 4])
def test_library_weights_never_bring_their_head(
    classes: int, trained: State, library: Callable[[State], None]
) -> None:
    library(trained)
    model = small_net(classes)
    head = model.fc.weight.clone()
    loaded = load_backbone(model, "imagenet")
    assert torch.equal(model.fc.weight, head)
    assert loaded.kept == loaded.unused == ("fc.weight", "fc.bias")
    assert torch.equal(model.conv1.weight, trained["conv1.weight"])


def test_a_files_head_is_left_out_only_when_the_class_count_differs(trained: State, tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "w.pth")
    same, other, headless = small_net(3), small_net(4), small_net(3)
    assert load_backbone(same, str(tmp_path / "w.pth")).kept == ()
    assert_same(same.state_dict(), trained)
    assert load_backbone(other, str(tmp_path / "w.pth")).kept == ("fc.weight", "fc.bias")
    torch.save(
        {key: value for key, value in trained.items() if not key.startswith("fc.")}, tmp_path / "w.pth"
    )
    assert load_backbone(headless, str(tmp_path / "w.pth")).kept == ("fc.weight", "fc.bias")


def test_a_backbone_that_does_not_fit_is_refused_unless_the_part_is_declared_fresh(
    trained: State, tmp_path: Path
) -> None:
    torch.save({**trained, "layer4.0.conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    model = small_net()
    with pytest.raises(CheckpointError, match=r"1 of another shape; .*\n.*layer4.0.conv1.weight"):
        load_backbone(model, str(tmp_path / "w.pth"))
    model.fresh = ("layer4",)  # as surgery of the last stage does
    loaded = load_backbone(model, str(tmp_path / "w.pth"))
    assert set(loaded.kept) == {key for key in trained if key.startswith("layer4.")} == set(loaded.unused)
    assert torch.equal(model.layer3[0].conv1.weight, trained["layer3.0.conv1.weight"])


def test_library_weights_already_on_disk_need_no_download(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = (
        Path(torch.hub.get_dir()) / "checkpoints" / Path(torchvision.models.ResNet18_Weights.DEFAULT.url).name
    )
    file.parent.mkdir(parents=True)
    torch.save(trained, file)
    assert load_backbone(small_net(), "imagenet").path == file


def test_offline_library_weights_end_in_one_sentence_with_file_folder_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(CheckpointError) as caught:
        load_backbone(small_net(), "imagenet")
    text = str(caught.value)
    assert "\n" not in text
    for part in ("resnet18", "no route to host", str(tmp_path), "resnet18-f37072fd.pth", "target.weights"):
        assert part in text


def test_an_architecture_without_library_weights_says_so() -> None:
    model = small_net()
    model.library = ""
    with pytest.raises(ConfigError, match="ResNet has no ImageNet weights"):
        load_backbone(model, "imagenet")


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str, bool], str]) -> list[bool]:
    """Puts ``answer`` in the place of the hub's client; returns the list of calls, True where the network was
    allowed.
    """
    calls: list[bool] = []

    def download(repository: str, file: str, *, local_files_only: bool = False) -> str:
        calls.append(not local_files_only)
        return answer(repository, file, local_files_only)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_timms_weights_come_from_the_hubs_cache_without_network_if_there(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def cached(repository: str, file: str, _: bool) -> str:
        asked.append((repository, file))
        return str(tmp_path / file)

    safetensors.torch.save_file(trained, tmp_path / "model.safetensors")
    calls = hub(monkeypatch, cached)
    model = small_net()
    model.library = "timm/resnest101e"
    loaded = load_backbone(model, "imagenet")
    assert asked == [("timm/resnest101e.in1k", "model.safetensors")]
    assert calls == [False]
    assert set(loaded.kept) == set(loaded.unused) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.conv1.weight, trained["conv1.weight"])


def test_timms_weights_are_downloaded_when_not_in_the_cache(
    trained: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def online(_: str, file: str, local: bool) -> str:
        if local:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        safetensors.torch.save_file(trained, tmp_path / file)
        return str(tmp_path / file)

    calls = hub(monkeypatch, online)
    model = small_net()
    model.library = "timm/resnest101e"
    assert load_backbone(model, "imagenet").path == tmp_path / "model.safetensors"
    assert calls == [False, True]


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), RuntimeError("no route to host.")])
def test_offline_timm_weights_end_in_one_sentence_with_repository_file_and_key(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(_: str, __: str, local: bool) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache") if local else error

    hub(monkeypatch, offline)
    model = small_net()
    model.library = "timm/resnest101e"
    with pytest.raises(CheckpointError) as caught:
        load_backbone(model, "imagenet")
    text = str(caught.value)
    assert "\n" not in text
    assert "(no route to host)" in text
    for part in ("resnest101e", "timm/resnest101e.in1k", "model.safetensors", "target.weights"):
        assert part in text


def test_a_timm_model_that_does_not_exist_has_no_weights() -> None:
    model = small_net()
    model.library = "timm/resnest1"
    with pytest.raises(ConfigError, match="timm has no ImageNet weights of resnest1"):
        load_backbone(model, "imagenet")


def without(state: State, part: str) -> State:
    return {key: value for key, value in state.items() if not key.startswith(f"{part}.")}


OPTIONAL: list[tuple[str, Callable[[State], State], bool]] = [
    ("missing", lambda s: without(s, "layer4"), False),
    ("of other shapes", lambda s: {**s, "layer4.0.conv1.weight": torch.zeros(9, 1, 3, 3)}, True),
    (
        "without counters",
        lambda s: without({k: v for k, v in s.items() if "batches" not in k}, "layer4"),
        False,
    ),
]


@pytest.mark.parametrize("reader", ["checkpoint", "backbone"])
@pytest.mark.parametrize(("name", "change", "present"), OPTIONAL, ids=[case[0] for case in OPTIONAL])
def test_an_optional_part_that_does_not_fit_is_kept_and_said(
    name: str,
    change: Callable[[State], State],
    present: bool,
    reader: str,
    trained: State,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "w.pth"
    torch.save(prefixed(change(trained), "model."), path)
    model = small_net()
    with pytest.raises(CheckpointError):
        load_checkpoint(model, path)
    model.optional = ("layer4",)
    before = copy(model)
    with caplog.at_level(logging.INFO, logger="midre_exp"):
        loaded = load_checkpoint(model, path) if reader == "checkpoint" else load_backbone(model, str(path))
    part = {key for key in trained if key.startswith("layer4.")}
    assert {key for key in loaded.kept if "batches" not in key} == {
        key for key in part if "batches" not in key
    }
    assert set(loaded.unused) == (part if present else set())
    assert "layer4.0.conv1.weight" in caplog.text
    for key, value in model.state_dict().items():
        if "batches" not in key:
            assert torch.equal(value, (before if key in part else trained)[key])


def test_an_optional_part_that_fits_is_loaded(trained: State, tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "w.pth")
    model = small_net()
    model.optional = ("layer4",)
    assert load_checkpoint(model, tmp_path / "w.pth").kept == ()
    assert_same(model.state_dict(), trained)


@pytest.mark.parametrize("reader", ["checkpoint", "backbone"])
def test_an_optional_part_that_is_incomplete_or_has_foreign_names_is_refused(
    reader: str, trained: State, tmp_path: Path
) -> None:
    incomplete = {key: value for key, value in trained.items() if key != "layer4.1.bn2.bias"}
    foreign = {**trained, "layer4.2.conv1.weight": torch.zeros(2)}
    for state, what in ((incomplete, "missing: layer4.1.bn2.bias"), (foreign, "unexpected: layer4.2.conv1")):
        torch.save(state, tmp_path / "w.pth")
        model = small_net()
        model.optional = ("layer4",)
        with pytest.raises(CheckpointError, match=what):
            if reader == "checkpoint":
                load_checkpoint(model, tmp_path / "w.pth")
            else:
                load_backbone(model, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model._orig_mod."])
def test_classes_are_counted_under_any_known_prefix(prefix: str, trained: State, tmp_path: Path) -> None:
    second_head = {"AuxLogits.fc.weight": torch.zeros(1000, 2)}
    torch.save({"model_state_dict": prefixed({**second_head, **trained}, prefix)}, tmp_path / "w.pth")
    assert class_count(tmp_path / "w.pth", "fc") == 3


@pytest.mark.parametrize("state", [{"conv1.weight": torch.zeros(1, 3, 3, 3)}, {"fc.weight": torch.zeros(7)}])
def test_a_file_without_head_has_no_class_count(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"w.pth has no fc.weight to count the classes of; give num_classes"
    ):
        class_count(tmp_path / "w.pth", "fc")
