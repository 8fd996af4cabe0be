"""State of a training that is still going on, so that a killed stage continues where it was.

One file, replaced atomically, read without running anything: a header (magic, SHA-256 of the file's place and
the rest) and what ``torch.save`` writes. The checksum is ours because torch does not notice a flipped byte in
a tensor; the place is in it because the state of another stage may fit as well.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import torch

from midre_exp.store.files import explain, write_atomic
from midre_exp.weights.torch_file import read_torch

_LOG = logging.getLogger(__name__)

_MAGIC = b"midre-checkpoint-3\n"
_DIGEST = hashlib.sha256().digest_size
_PLAIN = (type(None), bool, int, float, str, torch.Tensor, torch.nn.Parameter)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a dict of tensors, numbers, strings, and lists, tuples or dicts of them, replacing the old file.

    Raises TypeError, naming the place, for anything ``load`` would refuse, and StoreError when the disk does.
    """
    if type(state) is not dict:
        raise TypeError(f"a checkpoint is a dict, not a {type(state).__name__}")
    _check_plain(state, "state")
    buffer = io.BytesIO(bytes(len(_MAGIC) + _DIGEST))
    buffer.seek(0, io.SEEK_END)
    torch.save(state, buffer)
    content = buffer.getbuffer()
    body = content[len(_MAGIC) + _DIGEST :]
    content[: len(_MAGIC) + _DIGEST] = _MAGIC + _digest(path, body)
    write_atomic(path, content)


def load(path: Path) -> dict[str, Any] | None:
    """The state last saved, tensors on the CPU; None when there is none.

    A damaged or foreign file is renamed to ``<name>.damaged`` with one warning and None is returned: the
    stage starts from scratch. Only tensors and plain containers are ever unpickled. StoreError when the file
    cannot be read or renamed.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, path, "read") from error
    try:
        return _decode(path, content)
    except _Refusal as reason:
        aside = path.with_name(f"{path.name}.damaged")
        try:
            path.replace(aside)
        except OSError as error:
            raise explain(error, path, "set aside the damaged") from error
        _LOG.warning("checkpoint %s %s; moved to %s, training starts from scratch", path, reason, aside.name)
        return None


class _Refusal(Exception):
    """Why a file is no checkpoint, as the predicate of a sentence."""


def _digest(path: Path, body: bytes | memoryview) -> bytes:
    """The checksum of a checkpoint at its place: its name, in a store with the folders below ``work``,
    wherever the store lies.
    """
    parts = path.parts
    below = parts[len(parts) - parts[::-1].index("work") :] if "work" in parts else parts[-1:]
    digest = hashlib.sha256("/".join(below).encode() + b"\0")
    digest.update(body)
    return digest.digest()


def _decode(path: Path, content: bytes) -> dict[str, Any]:
    magic, digest = content[: len(_MAGIC)], content[len(_MAGIC) : len(_MAGIC) + _DIGEST]
    body = memoryview(content)[len(_MAGIC) + _DIGEST :]
    if magic != _MAGIC:
        raise _Refusal("is damaged or was not written by this version")
    if _digest(path, body) != digest:
        raise _Refusal("is damaged or belongs elsewhere (its checksum differs)")
    try:
        state = read_torch(io.BytesIO(body), pass_over=False)
    except MemoryError:
        raise
    except Exception as error:  # made on purpose, as the checksum is right: torch refuses in many ways
        raise _Refusal(f"holds what a checkpoint may not ({type(error).__name__})") from error
    if type(state) is not dict:
        raise _Refusal(f"holds a {type(state).__name__} instead of a dict")
    return state


def _check_plain(value: Any, where: str) -> None:
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):  # schedulers keep their milestones in a Counter
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif kind not in _PLAIN:
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}; make it a tensor, number, string or list"
        )
