"""Opens the network pickles of NVIDIA's StyleGAN2-ADA (ffhq.pkl, afhqdog.pkl, ...) without executing anything
of them.

The weights are published for research and evaluation only; they are read from the user's own copy.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.nvidia_pickle import Persistent, read_pickle
from midre_exp.store.files import is_special
from midre_exp.weights.restricted_pickle import UnsafeFile

_LOG = logging.getLogger(__name__)
_CLASSES: dict[str, type[StyleGAN2Generator] | type[StyleGAN2Discriminator]] = {
    "G": StyleGAN2Generator,
    "D": StyleGAN2Discriminator,
    "G_ema": StyleGAN2Generator,
}
#: What NVIDIA's code, and so its files, call our classes.
OFFICIAL_NAMES: dict[type[nn.Module], str] = {
    StyleGAN2Generator: "Generator",
    StyleGAN2Discriminator: "Discriminator",
}
_VERSION = 6
_DEPTH = 16  # modules within modules; a generator has four
_LISTED = 4


def load_pickle(path: str | Path, *, max_bytes: int = 2 << 30) -> dict[str, nn.Module]:
    """The networks ``G``, ``D`` and ``G_ema`` of an NVIDIA network pickle, as far as it has them.

    They are built from the constructor arguments in the file, on the CPU, in eval mode and without gradients;
    draw with ``G_ema``. The source code that such files carry is passed over. Raises CheckpointError when the
    file is missing, larger than ``max_bytes``, damaged, holds anything else than such networks, or weights
    that do not fit them.
    """
    path = Path(path).expanduser()
    content = _content(path, max_bytes)
    entries = content if type(content) is dict else {}
    found = {name: entries[name] for name in _CLASSES if entries.get(name) is not None}
    if not found:
        raise CheckpointError(f"{path} has none of the networks G, D, G_ema; give NVIDIA's own file")
    try:
        return {name: _network(name, entry) for name, entry in found.items()}
    except UnsafeFile as refusal:
        raise CheckpointError(f"{path} {refusal}") from refusal


def _content(path: Path, max_bytes: int) -> Any:
    """What the file holds, networks as Persistent."""
    if is_special(path):
        raise CheckpointError(f"{path} is a pipe or device, not a file; give the network pickle itself")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > max_bytes:
                raise CheckpointError(
                    f"{path} has {size} bytes, more than the limit of {max_bytes}; raise max_bytes if it is "
                    "right"
                )
            start = file.read(256)
            file.seek(0)
            if reason := _no_pickle(start):
                raise CheckpointError(f"{path} {reason}")
            return read_pickle(file, size)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; check the path of the network pickle") from error
    except IsADirectoryError as error:
        raise CheckpointError(f"{path} is a folder; give the network pickle inside it") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except UnsafeFile as refusal:
        raise CheckpointError(f"{path} {refusal}") from refusal
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # foreign bytes trip the reader in many ways
        raise CheckpointError(
            f"{path} is damaged or incomplete; compare its size with the source's and download it again"
        ) from error


def _no_pickle(start: bytes) -> str | None:
    """Why a file that begins so is none of NVIDIA's pickles; None if it may be one."""
    if not start:
        return "is empty; download it again"
    if start.startswith(b"\x80"):
        return None
    if start.startswith(b"PK"):
        return "is a zip file, PyTorch weights perhaps; give NVIDIA's network pickle"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not a network; fetch the file with git lfs pull"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "is a web page, not a network; download the file itself with a browser"
    return "is no network pickle; give a file such as ffhq.pkl"


def _network(name: str, entry: Any) -> nn.Module:
    """Build and load one network. Raises UnsafeFile when class, arguments or weights do not fit."""
    kind = _CLASSES[name]
    official = OFFICIAL_NAMES[kind]
    if not isinstance(entry, Persistent) or entry.class_name != official:
        given = ascii(entry.class_name[:40]) if isinstance(entry, Persistent) else type(entry).__name__
        raise UnsafeFile(f"has {given} where {name}, a {official}, belongs; give NVIDIA's own file")
    if entry.version != _VERSION:
        _LOG.warning("%s has format version %d; version %d is known", name, entry.version, _VERSION)
    tensors = dict(_tensors(entry, name))
    try:
        with torch.device("meta"):  # neither time nor memory before the weights are known to fit
            network = kind(**_arguments(kind, entry))
    except (ConfigError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = ascii(str(error)[:200])[1:-1]
        raise UnsafeFile(
            f"has constructor arguments of {name} that cannot be used ({reason}); give NVIDIA's own file"
        ) from error
    _compare(name, network, tensors)
    network.requires_grad_(False)
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _arguments(kind: type[nn.Module], entry: Persistent) -> dict[str, Any]:
    """The constructor arguments by name."""
    positional, named = entry.state.get("_init_args", ()), entry.state.get("_init_kwargs", {})
    if type(positional) not in (tuple, list) or type(named) is not dict:
        raise TypeError("they are no arguments")
    order = list(inspect.signature(kind).parameters)
    if len(positional) > len(order):
        raise TypeError(f"there are {len(positional)}, but {kind.__name__} takes {len(order)}")
    return {**dict(zip(order, positional, strict=False)), **named}


def _tensors(entry: Persistent, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The state dict of ``entry``, in the order PyTorch gives it. Raises UnsafeFile unless it is a tree of
    tensors.
    """
    seen: set[int] = set()

    def walk(part: Any, name: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        if not isinstance(part, Persistent) or id(part) in seen or depth > _DEPTH:
            raise UnsafeFile(f"has no tree of modules in {prefix}; download it again")
        seen.add(id(part))
        skipped = part.state.get("_non_persistent_buffers_set")
        skipped = skipped if type(skipped) is set else set()
        for group in ("_parameters", "_buffers"):
            for key, value in items(part, group):
                if value is None or (group == "_buffers" and key in skipped):
                    continue
                if not isinstance(value, Tensor):
                    raise UnsafeFile(
                        f"has a {type(value).__name__} among the tensors of {prefix}; download it again"
                    )
                yield f"{name}{key}", value
        for key, child in items(part, "_modules"):
            if child is not None:
                yield from walk(child, f"{name}{key}.", depth + 1)

    def items(part: Persistent, group: str) -> list[tuple[str, Any]]:
        entries = part.state.get(group, {})
        if type(entries) is not dict or any(type(key) is not str for key in entries):
            raise UnsafeFile(f"has no named {group.strip('_')} in {prefix}; download it again")
        return list(entries.items())

    yield from walk(entry, "", 0)


def _compare(name: str, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raise UnsafeFile unless the file has exactly the network's tensors, in float32."""
    expected = network.state_dict()
    wrong = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": [
            f"{key} {list(value.shape)} for {list(expected[key].shape)}"
            for key, value in tensors.items()
            if key in expected and value.shape != expected[key].shape
        ],
        "not float32": [key for key, value in tensors.items() if value.dtype != torch.float32],
    }
    found = [f"{len(keys)} {what} ({_short(keys)})" for what, keys in wrong.items() if keys]
    if found:
        raise UnsafeFile(
            f"has weights that do not fit the {name} it describes: {', '.join(found)}; download it again"
        )


def _short(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(ascii(key[:60])[1:-1] for key in keys[:_LISTED]) + more
