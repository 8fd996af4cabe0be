"""Which network a weight file is of: architecture, width, stem and classes, by the names and shapes of its
tensors and by what the file says of itself. Nothing in it is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model_weights  # type: ignore[attr-defined]

from midre_exp.errors import CheckpointError, ConfigError, UserError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import build, config_files
from midre_exp.targets.architectures.resnet import DEPTHS, OTHER_STEMS, STEMS
from midre_exp.targets.architectures.wrapped import on_no_device, torchvision_names
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.fitting import fitting_options
from midre_exp.weights.state_dict import (
    MismatchError,
    load_checkpoint,
    read_remarks,
    read_state_dict,
    take_prefixes_off,
)

#: Red, green and blue in a grey picture (ITU-R 601), as Pillow and torchvision take them.
_LUMINANCE = (0.299, 0.587, 0.114)
#: Buffers, which are no parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
#: A head behind dropout or the like, as in ``fc = Sequential(Dropout(), Linear())``.
_IN_SEQUENCE = re.compile(r"(fc|classifier|head|heads|fc_layer)\.\d+\.(weight|bias)")
#: Names under which files tell their architecture.
_ARCHITECTURE = ("arch", "architecture", "model_name", "model_arch", "backbone")


@dataclass(frozen=True)
class Network:
    """A network that a weight file fits; several where shapes do not tell them apart (strides, pooling)."""

    name: str  # of the target, as records have it
    model: Mapping[str, Any]  # its node, without mean and std
    what: str  # in words


@dataclass(frozen=True)
class Checkpoint:
    """A weight file and what is known of it."""

    path: Path  # the file to load: the given one, or a copy whose tensors are named as the network's
    given: Path  # the file itself
    classes: int
    networks: tuple[Network, ...]
    remarks: Mapping[str, object] = field(default_factory=dict)  # what the file says beside its tensors
    trained_with: Mapping[str, Any] | None = None  # the defense, where it is one of ours and says so
    notes: tuple[str, ...] = ()  # what was done to read it, in sentences

    def build(self, network: Network, mean: Sequence[float], std: Sequence[float]) -> Classifier:
        """The network with the file's weights, in eval mode on the CPU. Raises CheckpointError."""
        node = {**network.model, "mean": list(mean), "std": list(std)}
        made = build(node, num_classes=self.classes, kind=Classifier, trusted=trusted_by(network))
        load_checkpoint(made, self.path)
        return made.eval()


def trusted_by(network: Network) -> tuple[str, ...]:
    """The package of the user's that a network comes from, if it does."""
    factory = network.model.get("factory")
    return (str(factory["_target_"]).partition(".")[0],) if factory else ()


def read_checkpoint(path: Path, *, model: str | None = None, folder: Path) -> Checkpoint:
    """What a weight file is. ``model``: ``timm:NAME``, ``torchvision:NAME``, ``package.module:function`` or a
    choice of conf/target; None: found out. ``folder``: for a copy, where names have to be changed.

    Raises CheckpointError for a file that cannot be read and for one that fits nothing that was tried, naming
    it; ConfigError for a model that nobody knows.
    """
    path = path.expanduser()
    state, remarks = read_state_dict(path), read_remarks(path)
    said = _ours(remarks)
    named = model or _named_by(path, remarks, said)
    tried: list[str] = []
    for candidate, taken in _candidates(state, named, given=model is not None):
        tried.append(candidate[0].what)
        fitting, notes = taken
        classes = _classes(fitting)
        found = Checkpoint(path, path, classes, tuple(candidate), remarks, said.get("defense"), tuple(notes))
        if notes:  # names or shapes were changed, so the file itself would not fit
            copy = folder / "weights.safetensors"
            copy.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous().clone() for key, value in fitting.items()}, copy)
            found = replace(found, path=copy)
        if problem := _problem(found):
            if model is not None:
                raise problem
            continue
        return found
    raise CheckpointError(
        f"{path} fits none of the networks that were tried ({', '.join(dict.fromkeys(tried)) or 'none'}; its "
        f"{len(state)} tensors begin with {', '.join(list(state)[:3])}); say which it is by --model "
        "timm:NAME, --model torchvision:NAME or --model package.module:function, a function of num_classes"
    )


def _problem(found: Checkpoint) -> CheckpointError | None:
    try:
        found.build(found.networks[0], (0.0,) * 3, (1.0,) * 3)
    except MismatchError as error:
        return error
    return None


def _ours(remarks: Mapping[str, object]) -> Mapping[str, Any]:
    """What one of our own files says of itself."""
    said = remarks.get("midre_exp")
    return said if isinstance(said, dict) else {}


def _named_by(path: Path, remarks: Mapping[str, object], said: Mapping[str, Any]) -> str | None:
    """The architecture that a file, or what lies beside it, names; None where nothing does."""
    if isinstance(said.get("target"), str) and said["target"] in config_files("target"):
        return str(said["target"])
    words = [remarks.get(name) for name in _ARCHITECTURE]
    with suppress(OSError, ValueError, AttributeError):  # as the Hugging Face hub keeps timm's
        words.append(json.loads((path.parent / "config.json").read_bytes()).get("architecture"))
    words.append(path.stem)
    for word in (word for word in words if isinstance(word, str)):
        name = word.partition(".")[0].lower()
        if name in torchvision_names():
            return f"torchvision:{name}"
        if timm.is_model(name):
            return f"timm:{name}"
    return None


def _candidates(
    state: dict[str, Tensor], named: str | None, *, given: bool
) -> Iterator[tuple[list[Network], tuple[dict[str, Tensor], list[str]]]]:
    """Networks to try, the likeliest first, each with the tensors as it would name them and what was changed;
    ``given``: only the named one.
    """
    if named is not None and (given or ":" not in named):
        networks = _by_name(named, state)
        yield from ((group, taken) for group, taken in networks)
        if given:
            return
    yield from _resnets(state)
    ours = config_files("target")
    likely = [named] if named is not None and ":" in named else []
    likely += [f"torchvision:{name}" for name in _torchvision_of(state)]
    for name in dict.fromkeys(likely):
        if (own := name.partition(":")[2]) in ours:  # which knows its layers
            yield from _of_conf(own, state)
        yield from _by_name(name, state)
    for own in ours:
        yield from _of_conf(own, state)


def _by_name(
    name: str, state: dict[str, Tensor]
) -> Iterator[tuple[list[Network], tuple[dict[str, Tensor], list[str]]]]:
    """The network that a name means. Raises ConfigError for one that means none."""
    library, _, network = name.partition(":")
    if not network:
        if name not in config_files("target"):
            raise ConfigError(
                f"--model {name} is no network; give timm:NAME, torchvision:NAME, package.module:function or "
                f"one of {', '.join(config_files('target'))}"
            )
        if name.startswith("resnet"):
            yield from _resnets(state)
        yield from _of_conf(name, state)
        return
    classes = _classes(state)
    if library in ("timm", "torchvision"):
        kind = {"timm": "TimmNetwork", "torchvision": "TorchvisionNetwork"}[library]
        node: dict[str, Any] = {"_target_": f"midre_exp.targets.{kind}", "network": network}
        found = Network(f"{library}-{network}", node, f"{library}'s {network}")
    else:
        factory = {"_target_": f"{library}.{network}", "_partial_": True}
        node = {"_target_": "midre_exp.targets.FactoryNetwork", "factory": factory}
        found = Network(
            re.sub(r"[^A-Za-z0-9._+-]", "-", f"{library}.{network}"), node, f"{library}:{network}"
        )
    trusted = trusted_by(found)
    try:
        made = on_no_device(lambda: build(node, num_classes=classes, kind=Classifier, trusted=trusted))
    except NotImplementedError:  # one that computes while it is made
        made = build(node, num_classes=classes, kind=Classifier, trusted=trusted)
    yield [found], _taken(state, made.state_dict())


def _resnets(
    state: dict[str, Tensor],
) -> Iterator[tuple[list[Network], tuple[dict[str, Tensor], list[str]]]]:
    """ResNets of any width, stem and number of blocks: shapes tell all but strides and pooling."""
    state = take_prefixes_off(state, "conv1.weight".__eq__)
    first = state.get("conv1.weight")
    if first is None or first.ndim != 4 or "layer1.0.conv1.weight" not in state:
        return
    blocks = [_count(state, f"layer{number}") for number in range(1, 5)]
    deep = "layer1.0.conv3.weight" in state
    depth = next((d for d, (_, known) in DEPTHS.items() if known == blocks and (d >= 50) == deep), None)
    kernel, channels = int(first.shape[-1]), len(first)
    stems = [stem for stem, (size, _, _) in {**STEMS, **OTHER_STEMS}.items() if size == kernel]
    if not stems or not all(blocks):
        return
    name = f"resnet{depth}" if f"resnet{depth}" in config_files("target") else "resnet18"
    shape = {} if depth else {"blocks": blocks}
    networks = [
        Network(
            name,
            {
                "_target_": "midre_exp.targets.ResNet",
                "depth": depth or (50 if deep else 18),
                "width": channels / 64,
                "stem": stem,
                **shape,
            },
            f"a ResNet{f'-{depth}' if depth else f' of {blocks} blocks'}"
            + (f" of width {channels / 64:g}" if channels != 64 else "")
            + (f" with the stem {stem}" if stem != "imagenet" else ""),
        )
        for stem in stems
    ]
    made = on_no_device(lambda: build(networks[0].model, num_classes=_classes(state), kind=Classifier))
    yield networks, _taken(state, made.state_dict())


def _count(state: Mapping[str, Tensor], stage: str) -> int:
    """How many blocks a stage has."""
    return len({key.split(".")[1] for key in state if key.startswith(f"{stage}.")})


def _of_conf(
    name: str, state: dict[str, Tensor]
) -> Iterator[tuple[list[Network], tuple[dict[str, Tensor], list[str]]]]:
    """A network of conf/target with the options that shapes tell; those that they do not tell apart."""
    try:
        node = {k: v for k, v in choice("target", name)["model"].items() if k not in ("mean", "std")}
        made = on_no_device(lambda: build(node, num_classes=_classes(state), kind=Classifier))
    except (HydraException, OmegaConfBaseException, UserError, NotImplementedError):
        return
    expected = made.state_dict()
    taken, notes = _taken(state, expected)
    alike = taken.keys() & expected.keys()
    if len(alike) < 0.5 * max(len(taken), len(expected)):  # another architecture altogether
        return
    options = fitting_options(name, node, taken)
    if options is None:
        return
    base = {**node, **options}
    stems = [base["stem"]] if "stem" in base else [None]
    if base.get("stem") in ("small", "half"):
        stems += [stem for stem in ("small", "half") if stem not in stems]
    networks = [
        Network(name, base if stem is None else {**base, "stem": stem}, _in_words(name, options, stem))
        for stem in stems
    ]
    yield networks, (taken, notes)


def _in_words(name: str, options: Mapping[str, Any], stem: object) -> str:
    told = {**options, **({} if stem in (None, "imagenet", "published") else {"stem": stem})}
    return name + "".join(f", {key} {value}" for key, value in told.items())


def _torchvision_of(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Classifiers of torchvision with as many parameters, the head set aside."""
    heads = [key for key, value in state.items() if value.ndim == 2 and key.endswith(".weight")]
    if not heads:
        return
    classes, features = state[heads[-1]].shape
    bias = f"{heads[-1].removesuffix('weight')}bias" in state
    own = sum(v.numel() for k, v in state.items() if k.rpartition(".")[2] not in _BUFFERS)
    published = own + (1000 - classes) * (features + bias)
    for name in torchvision_names():
        every = get_model_weights(name)
        if any(weights.meta.get("num_params") == published for weights in every):
            yield name


def _taken(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A file's tensors as a network would name and shape them, and what was changed beyond prefixes."""
    state = take_prefixes_off(state, expected.__contains__)
    notes = []
    inner = [key for key in state if key not in expected and _IN_SEQUENCE.fullmatch(key)]
    outer = {key: re.sub(r"\.\d+\.", ".", key) for key in inner}
    if inner and set(outer.values()) <= set(expected) and len(set(outer.values())) == len(inner):
        state = {outer.get(key, key): value for key, value in state.items()}
        notes.append(f"its head {inner[0].rpartition('.')[0]} stands behind layers without weights")
    first = next((key for key, value in state.items() if value.ndim == 4), None)
    if (
        first is not None
        and state[first].shape[1] == 1
        and first in expected
        and expected[first].shape[1] == 3
    ):
        weight = state[first]
        state = {**state, first: torch.cat([share * weight for share in _LUMINANCE], dim=1)}
        notes.append(f"{first} takes grey pictures, and was made to take the grey of colours")
    return state, notes


def _classes(state: Mapping[str, Tensor]) -> int:
    """The rows of the last weight of two dimensions, a head; of a network that ends in a convolution, of the
    last weight.
    """
    for dims in (2, 4):
        rows = [len(value) for key, value in state.items() if value.ndim == dims and key.endswith(".weight")]
        if rows:
            return rows[-1]
    raise CheckpointError("the file has no weights of a classifier; give one with a linear head")
