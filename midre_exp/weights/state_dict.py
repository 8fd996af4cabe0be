"""Loading weight files of others strictly: unwrap, strip prefixes, compare. Nothing in a file is executed.

Layouts follow the published checkpoints: GMI, KedMI and LOMMA ``{"state_dict"}`` with ``module.`` keys,
PLG-MI ``{"model"}``, PPA and MIDRE ``{"model_state_dict"}`` with ``model.`` or ``model._orig_mod.`` keys,
bare state dicts, legacy (PyTorch 1.0) files and safetensors. Where a file holds several state dicts, such as
a moving average beside the weights (``{"model", "model_ema"}``), ``entry`` names another than the usual one;
where only a part of the names is the network's (``backbone.`` beside ``projector.``), ``prefix`` names it.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.weights.finite import unusable
from midre_exp.weights.formats import first_bytes, is_safetensors, kind_of, metadata
from midre_exp.weights.published import library_file
from midre_exp.weights.restricted_pickle import UnsafeFile
from midre_exp.weights.torch_file import entries, plain_tensor, read_torch

_LOG = logging.getLogger(__name__)
_WRAPPERS = ("model_state_dict", "state_dict", "model", "net", "network", "weights")
#: Moving averages of weights, which are another network than the weights beside them.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema")
#: DataParallel, wrapping classes, torch.compile.
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.")
_COUNTER = ".num_batches_tracked"  # older files have none, among them torchvision's own of VGG16
_LISTED = 8
_NAMED = 1000
_LONGEST = 120


@runtime_checkable
class Pretrainable(Protocol):
    """What a network says of itself for ``load_backbone``; ``midre_exp.targets.base.Classifier`` explains."""

    head_name: ClassVar[str]

    @property
    def library(self) -> str: ...

    @property
    def fresh(self) -> tuple[str, ...]: ...

    @property
    def optional(self) -> tuple[str, ...]: ...

    @property
    def head(self) -> nn.Module: ...

    @staticmethod
    def own_key(key: str) -> str | None: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Loaded:
    """How a weight file was read."""

    path: Path
    wrapper: str | None  #: the entry that held the state dict
    prefixes: tuple[str, ...]  #: key segments taken off, outermost first
    kept: tuple[str, ...] = ()  #: model tensors the file did not give
    unused: tuple[str, ...] = ()  #: file tensors that were not taken
    notes: tuple[str, ...] = ()  #: what was chosen among several things that might be meant, in sentences


class MismatchError(CheckpointError):
    """A file whose tensors are not those of the network; ``state``: the file's, prefixes taken off."""

    def __init__(self, text: str, state: Mapping[str, Tensor] | None = None):
        super().__init__(text)
        self.state = dict(state or {})


@dataclass(frozen=True)
class _Read:
    """What was read of a file."""

    state: dict[str, Tensor]
    wrapper: str | None
    notes: tuple[str, ...] = ()


def read_state_dict(path: str | Path, *, entry: str | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU; wrappers are opened, key prefixes stay.

    ``entry`` names the entry to read, e.g. ``model_ema``, where a file holds several state dicts; None takes
    the usual one. Raises CheckpointError when the file is missing, unreadable, damaged, no weight file, has
    no such entry, or holds code or anything else but tensors there.
    """
    return _read(Path(path).expanduser(), entry).state


def read_remarks(path: str | Path) -> dict[str, object]:
    """What a weight file says beside its tensors, by name: texts, numbers, and lists and mappings of these,
    as ``class_to_idx`` or ``arch``. Of a safetensors file, its metadata, JSON where it is some. Errors as in
    ``read_state_dict``.
    """
    path = Path(path).expanduser()
    content = _content(path)
    said: dict[str, object] = {}
    for name, text in metadata(path).items():
        try:
            said[name] = json.loads(text)
        except (ValueError, RecursionError):
            said[name] = text
    for name, value in (entries(content) if isinstance(content, dict) else {}).items():
        if type(name) is str and (found := _plain(value)) is not None:
            said[name] = found
    return said


def _plain(value: object, depth: int = 3) -> object | None:
    """A value that is nothing but text and numbers; None for any other."""
    if type(value) in (str, int, float, bool):
        return value
    if depth and type(value) in (list, tuple):
        parts = [_plain(part, depth - 1) for part in cast("list[object]", value)]
        return None if None in parts else parts
    if depth and isinstance(value, dict):
        found = {key: _plain(part, depth - 1) for key, part in entries(value).items()}
        return found if all(type(k) in (str, int) and v is not None for k, v in found.items()) else None
    return None


def take_prefixes_off(state: dict[str, Tensor], known: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors without the prefixes that all names share (``module.``, ``model.``), just as many as make
    the most names known.
    """
    return _strip(state, known)[0]


def load_checkpoint(
    model: nn.Module, path: str | Path, *, entry: str | None = None, prefix: str | None = None
) -> Loaded:
    """Load every tensor of ``path`` into ``model``, which must have exactly these or stays untouched.

    Key prefixes such as ``module.``, ``model.``, ``_orig_mod.`` that all keys share are taken off as far as
    makes the names fit; of a file with ``prefix`` only the keys below it are taken. Batch counters of
    normalisation layers may be absent altogether, as in files from before PyTorch 0.4.1. A part in
    ``model.optional`` that only one of the two has, or that has other shapes in the file, is left as it is,
    which is logged. ``entry`` and errors as in ``read_state_dict``; further raises MismatchError with lists
    of what does not fit.
    """
    path = Path(path).expanduser()
    read = _read(path, entry)
    state, notes = read.state, list(read.notes)
    if prefix is not None:
        state, left = _below(path, state, prefix)
        notes += [f"{path}: {len(left)} tensors outside of {prefix} are left out"] if left else []
    state, prefixes = _strip(state, model.state_dict().__contains__)
    if prefixes:
        notes.append(f"{path}: the names of its tensors are taken without {''.join(prefixes)}")
    spared = _spared(model, state)
    kept = _load(model, state, path, spared)
    unused = tuple(key for key in state if key in spared)
    if spared:
        _log_parts(model, kept, unused, path)
    for note in notes:
        _LOG.info(note)
    return Loaded(path, read.wrapper, prefixes, kept, unused, tuple(notes))


def class_count(path: str | Path, head_name: str) -> int:
    """The number of classes of the classifier in ``path``: the rows of its head's weight, under any known
    prefix.

    Raises CheckpointError as ``read_state_dict``, or when no head of that name is there.
    """
    path = Path(path).expanduser()
    state, _ = _strip(_read(path).state, f"{head_name}.weight".__eq__)
    weight = state.get(f"{head_name}.weight")
    if weight is None or weight.ndim < 2:
        raise CheckpointError(
            f"{path} has no {head_name}.weight to count the classes of; give num_classes, or its own file"
        )
    return len(weight)


def load_backbone(model: Pretrainable, weights: str, *, fresh_head: bool = False) -> Loaded:
    """Start ``model`` from public weights, and log what was taken and what was not.

    ``weights`` is ``"imagenet"`` for the default weights of ``model.library`` without the head, or the path
    of a file. The head and the parts in ``model.fresh`` keep their initialisation where the file does not fit
    them (another class count, no such part); every other tensor must fit, and those in ``model.optional`` may
    be missing, as in ``load_checkpoint``. With ``fresh_head`` the file is of other classes, however many: the
    head keeps its initialisation, and so do optional parts, which may end in a head of their own. Raises
    CheckpointError as there, or when library weights cannot be downloaded.
    """
    public = weights == "imagenet"
    if public and not model.library:
        name = type(model).__name__
        raise ConfigError(f"{name} has no ImageNet weights; set weights to a file or to null")
    path = library_file(model.library) if public else Path(weights).expanduser()
    expected = model.state_dict()
    read = _read(path)
    state, prefixes = _strip(read.state, lambda key: model.own_key(key) in expected)
    named = {key: model.own_key(key) for key in state}
    ours = {own: state[key] for key, own in named.items() if own is not None}

    spared = _spared(model, ours)
    for part in (model.head_name, *model.fresh):
        tensors = {key for key in expected if key.startswith(f"{part}.")}
        weighty = [key for key in tensors if not key.endswith(_COUNTER)]
        if (public and part == model.head_name) or not all(
            key in ours and _fits(ours[key], expected[key]) for key in weighty
        ):
            spared |= tensors
    if fresh_head:
        ends = tuple(f"{part}." for part in (model.head_name, *model.optional))
        spared |= {key for key in (*expected, *ours) if key.startswith(ends)}
    unused = tuple(key for key, own in named.items() if own is None or own in spared)
    kept = _load(model, ours, path, spared)
    _LOG.info("%s took %d of %d tensors", type(model).__name__, len(expected) - len(kept), len(expected))
    _log_parts(model, kept, unused, path)
    return Loaded(path, read.wrapper, prefixes, kept, unused, read.notes)


def _read(path: Path, entry: str | None = None) -> _Read:
    """The state dict of a file and the entry it lay in."""
    content = _content(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{path} holds a {kind}, not a state dict; save model.state_dict() instead")
    state, notes = entries(content), list[str]()
    if entry is not None:
        state = _entry(path, state, entry)
    wrapper = _wrapper(path, state)
    if wrapper is not None:
        others = [name for name in _AVERAGES if name != wrapper and isinstance(state.get(name), dict)]
        if others:
            notes.append(
                f"{path} holds {wrapper} and {' and '.join(others)}; taken: {wrapper} (an average of "
                f"weights instead: checkpoint_entry={others[0]})"
            )
        elif wrapper not in _WRAPPERS:
            notes.append(f"{path}: the weights are taken from its entry {ascii(wrapper)[1:-1]}")
        state = entries(state[wrapper])
    foreign = [
        f"{key} ({type(value).__name__.lstrip('_')})"
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if foreign or not state:
        what = f"entries that are no named tensors, {_short(foreign)}" if foreign else "no tensors"
        raise CheckpointError(
            f"{path} has {what}; save model.state_dict(), bare or under {', '.join(_WRAPPERS)}"
        )
    try:
        plain = {key: plain_tensor(value) for key, value in state.items()}
        return _Read(plain, entry or wrapper, tuple(notes))
    except UnsafeFile as refusal:
        raise CheckpointError(f"{path} {refusal}") from refusal


def _wrapper(path: Path, state: Mapping[Any, Any]) -> str | None:
    """The entry that holds the weights: of the usual names, or the only one with nothing but tensors; None
    where the tensors lie bare. Raises CheckpointError where several might be meant.
    """
    for name in _WRAPPERS:
        if isinstance(state.get(name), dict):
            return name
    if any(isinstance(value, Tensor) for value in state.values()):
        return None
    found = [
        name
        for name, value in state.items()
        if isinstance(name, str)
        and isinstance(value, dict)
        and (held := list(dict.values(value)))
        and all(isinstance(one, Tensor) for one in held)
    ]
    if len(found) > 1:
        raise CheckpointError(
            f"{path} has several entries that may be weights, {_short(found)}; choose one by "
            "target.checkpoint_entry (of an evaluator evaluator.checkpoint_entry)"
        )
    return found[0] if found else None


def _below(path: Path, state: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors below a prefix, without it, and the names of the others."""
    prefix = prefix.rstrip(".") + "."
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        known = list(dict.fromkeys(key.partition(".")[0] for key in state))
        raise CheckpointError(f"{path} has no tensors below {prefix}; its names begin with {_short(known)}")
    return found, tuple(key for key in state if not key.startswith(prefix))


def _entry(path: Path, state: Mapping[Any, Any], entry: str) -> dict[Any, Any]:
    """What a file holds under ``entry``. Raises CheckpointError, naming the entries there are."""
    if not isinstance(state.get(entry), dict):
        known = [str(name) for name, value in state.items() if isinstance(value, dict)]
        raise CheckpointError(
            f"{path} has no state dict {entry}; its entries to choose from: {_short(known)}"
        )
    return entries(state[entry])


def _content(path: Path) -> Any:
    """Whatever the file holds, read without executing anything of it."""
    start = first_bytes(path)
    try:
        if is_safetensors(start, path.stat().st_size):
            return safetensors.torch.load_file(path)
        return read_torch(path)
    except MemoryError:
        raise
    except Exception as error:  # the readers raise whatever they stumble over in foreign bytes
        raise CheckpointError(f"{path} {_refusal(path, start, str(error))}") from error


def _refusal(path: Path, start: bytes, reason: str) -> str:
    """What to say of a file that begins with ``start`` and that torch or safetensors would not read, for this
    reason.
    """
    if code := re.search(r"GLOBAL ([\w.]*\w)", reason):
        return (
            f"holds code or whole objects ({code.group(1)}), which are never run; save model.state_dict() "
            "with torch.save or as .safetensors where the file is trusted"
        )
    if "TorchScript" in reason:
        return "is a TorchScript program, not weights; save its state_dict() where the file is trusted"
    return kind_of(path, start, _names_in_zip(path, start)) or (
        "is damaged, incomplete or no weight file (PyTorch, .safetensors); compare its size with the source's"
    )


def _names_in_zip(path: Path, start: bytes) -> list[str]:
    if not start.startswith(b"PK"):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()[:_NAMED]
    except Exception:  # of a damaged one, which is told as such
        return []


def _strip(
    state: dict[str, Tensor], known: Callable[[str], bool]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take off prefixes that all keys share, just as many as make the most keys known."""
    keys = list(state)
    most, depth, prefixes = sum(map(known, keys)), 0, list[str]()
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in keys)), None):
        prefixes.append(prefix)
        keys = [key.removeprefix(prefix) for key in keys]
        if (fitting := sum(map(known, keys))) > most:
            most, depth = fitting, len(prefixes)
    cut = len("".join(prefixes[:depth]))
    return {key[cut:]: value for key, value in state.items()}, tuple(prefixes[:depth])


def _spared(model: nn.Module | Pretrainable, state: Mapping[str, Tensor]) -> set[str]:
    """All keys of optional parts that only the model or only the file has, or that differ in shape."""
    expected = model.state_dict()
    spared: set[str] = set()
    for part in model.optional if isinstance(model, Pretrainable) else ():
        ours, theirs = (
            {key: value for key, value in tensors.items() if key.startswith(f"{part}.")}
            for tensors in (expected, state)
        )
        names = [{key for key in tensors if not key.endswith(_COUNTER)} for tensors in (ours, theirs)]
        same = names[0] == names[1]
        if not ours or not theirs or (same and not all(_fits(theirs[key], ours[key]) for key in names[0])):
            spared |= {*ours, *theirs}
    return spared


def _log_parts(
    model: nn.Module | Pretrainable, kept: Sequence[str], unused: Sequence[str], path: Path
) -> None:
    """Log which tensors the file did not give, and which of the file were not taken, apart from counters."""
    left = [[key for key in keys if not key.endswith(_COUNTER)] for keys in (kept, unused)]
    name = type(model).__name__
    _LOG.info("%s kept as initialised: %s; unused in the file: %s; file: %s", name, *map(_short, left), path)


def _load(
    model: nn.Module | Pretrainable, state: Mapping[str, Tensor], path: Path, spared: Collection[str]
) -> tuple[str, ...]:
    """Load ``state`` strictly, apart from the keys in ``spared`` on either side; returns the model's keys
    kept.
    """
    state = {key: value for key, value in state.items() if key not in spared}
    expected = model.state_dict()
    counters = {key for key in expected if key.endswith(_COUNTER)}
    spared = {*spared, *(counters if counters.isdisjoint(state) else ())}
    kept = tuple(key for key in expected if key in spared)
    same = all(value.shape == expected[key].shape for key, value in state.items() if key in expected)
    what = "of another type than floating point" if same else "of another shape"
    wrong = {
        "missing": [key for key in expected if key not in state and key not in kept],
        "unexpected": [key for key in state if key not in expected],
        what: [
            f"{key} (file {_shape(value)}, model {_shape(expected[key])})"
            for key, value in state.items()
            if key in expected and not _fits(value, expected[key])
        ],
    }
    wrong = {what: keys for what, keys in wrong.items() if keys}
    if wrong:
        counts = ", ".join(f"{len(keys)} {what}" for what, keys in wrong.items())
        lines = [f"{what}: {_short(keys)}" for what, keys in wrong.items()]
        text = f"{path} does not fit {type(model).__name__}: {counts}; {_remedy(model, state)}"
        raise MismatchError("\n  ".join([text, *lines]), state)
    require_usable(path, {key: value.to(expected[key].dtype) for key, value in state.items()})
    model.load_state_dict({**{key: expected[key] for key in kept}, **state})
    return kept


def require_usable(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for weights of a file, in the precision they are used in, that are not finite,
    and for negative variances of batch norm.
    """
    if wrong := unusable(tensors):
        raise CheckpointError(
            f"{path} holds weights that cannot be used ({wrong}); its training diverged or the file is "
            "damaged, so give another"
        )


def _remedy(model: nn.Module | Pretrainable, state: Mapping[str, Tensor]) -> str:
    kinds = {value.dtype for value in state.values()}
    if kinds & {torch.int8, torch.uint8, torch.bool} and not any(kind.is_floating_point for kind in kinds):
        return "its weights are quantised or masks; save the floating-point network"
    if isinstance(model, Pretrainable) and isinstance(model.head, nn.Linear):
        weight = state.get(f"{model.head_name}.weight")
        if weight is not None and weight.ndim > 1 and len(weight) != model.head.out_features:
            return f"the file has {len(weight)} classes, so build the model with num_classes={len(weight)}"
    return "build the architecture and options it was trained with, or give its own file"


def _fits(given: Tensor, expected: Tensor) -> bool:
    """Same shape, and no integers or complex numbers where weights belong."""
    return given.shape == expected.shape and (
        given.is_floating_point() or not (expected.is_floating_point() or given.is_complex())
    )


def _shape(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{list(tensor.shape)}" if tensor.is_floating_point() else f"{kind} {list(tensor.shape)}"


def _short(items: Sequence[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    shown = (ascii(item[:_LONGEST])[1:-1] for item in items[:_LISTED])  # a file may name its tensors anything
    return ", ".join(shown) + more if items else "none"
