"""What NVIDIA's network pickles may hold, as inert stand-ins: networks' class names and states, tensors,
plain data.

Such files carry the source code of their classes, which is passed over. Every name they may ask for is in one
table.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from midre_exp.weights.restricted_pickle import (
    Constructor,
    RestrictedUnpickler,
    Stream,
    Stub,
    Symbol,
    UnsafeFile,
    scalar_key,
)

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before the zip format

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_SCALARS = {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"}


@dataclass
class Persistent:
    """What a file says of one NVIDIA object: the class's name and the instance's state, nothing of its
    source.
    """

    class_name: str
    version: int
    state: dict[Any, Any]


class _Dtype(Stub):
    """A NumPy dtype: its code, and the byte order that its state tells."""

    def __init__(self, code: Any, *flags: Any):
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        self.order = state[1]


@dataclass(frozen=True)
class _Storage:
    data: Tensor  # flat


def read_pickle(file: BinaryIO, size: int) -> Any:
    """The content of a pickle of ``size`` bytes: plain data, CPU tensors, and Persistent for NVIDIA's
    objects.

    Raises UnsafeFile for anything else a file may hold, and whatever damaged bytes provoke.
    """
    stream = Stream(file, size)
    machine = RestrictedUnpickler({})
    machine.names = _names(machine.operations, size)
    content = machine.run(stream)
    if stream.tell() != size:
        raise UnsafeFile(f"has {size - stream.tell()} bytes too many after its end; download it again")
    return content


def _names(operations: list[int], size: int) -> dict[tuple[str, str], Any]:
    """Everything a file may ask for. All its storages together may be no larger than the file, of ``size``
    bytes.
    """
    left = [size]

    def storage(data: Any) -> _Storage:
        if type(data) is not bytes:
            raise TypeError("a storage that is no bytes")
        left[0] -= len(data)
        if left[0] < 0:
            raise UnsafeFile("unpacks to more than its own size; give NVIDIA's own file")
        return _Storage(_read_storage(data, operations))

    def collect(items: list[Any] | tuple[Any, ...] = ()) -> set[Any]:
        if type(items) not in (list, tuple):
            raise TypeError("a set of something else than items")
        operations[0] -= len(items)  # a list may be used again and again
        return set(map(scalar_key, items)) if operations[0] > 0 else set()

    table: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Constructor(_persistent),
        ("dnnlib.util", "EasyDict"): Constructor(_empty_dict, is_class=True),
        ("collections", "OrderedDict"): Constructor(_empty_dict, is_class=True),
        ("torch._utils", "_rebuild_tensor_v2"): Constructor(_tensor),
        ("torch._utils", "_rebuild_parameter"): Constructor(_parameter),
        ("torch.storage", "_load_from_bytes"): Constructor(storage),
        ("torch", "Size"): Constructor(_size),
        ("torch", "device"): Constructor(Stub),
        ("numpy", "dtype"): Constructor(_Dtype),
        ("numpy", "ndarray"): Symbol("numpy.ndarray"),
    }
    for core in ("numpy.core", "numpy._core"):  # before NumPy 2, since
        table[f"{core}.multiarray", "scalar"] = Constructor(_scalar)
        table[f"{core}.multiarray", "_reconstruct"] = Constructor(Stub)
        table[f"{core}.numeric", "_frombuffer"] = Constructor(Stub)
    for builtins in ("builtins", "__builtin__"):
        table[builtins, "set"] = Constructor(collect)
    for dtype in set(_DTYPES.values()):
        name = str(dtype).removeprefix("torch.")
        table["torch", name] = Symbol(name)
    return table


def _persistent(meta: Any) -> Persistent:
    if type(meta) is not dict or meta.get("type") != "class":
        raise UnsafeFile("holds an object that is no class instance; give NVIDIA's own file")
    name, version, state = meta.get("class_name"), meta.get("version"), meta.get("state")
    if type(name) is not str or type(version) is not int or type(state) is not dict:
        raise UnsafeFile("holds an object without class name, version or state; download it again")
    return Persistent(name, version, state)


def _empty_dict() -> dict[Any, Any]:
    return {}


def _size(items: Any) -> tuple[int, ...]:
    if type(items) is not tuple:
        raise TypeError("a size that is no tuple")
    return items


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> Tensor:
    """The part of a storage; refused unless it lies inside and has no more elements than the storage."""
    if not isinstance(storage, _Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError("a tensor without storage, size or stride")
    numbers = (offset, *size, *stride)
    if not len(size) == len(stride) <= 8 or any(type(n) is not int or not 0 <= n < 1 << 40 for n in numbers):
        raise ValueError("a tensor of impossible size or stride")
    count, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        count, last = count * n, last + (n - 1) * step
    if (count and last >= len(storage.data)) or count > len(storage.data):
        raise UnsafeFile("has a tensor larger than its data; download it again")
    return storage.data.as_strided(size, stride, offset if count else 0)


def _parameter(data: Any, *flags: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("a parameter that is no tensor")
    return data


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    known = isinstance(dtype, _Dtype) and type(dtype.code) is str and dtype.code in _SCALARS
    if not known or dtype.order not in ("<", "|"):
        raise TypeError("a NumPy number of unknown kind")
    (number,) = np.frombuffer(data, np.dtype(f"<{dtype.code}"))
    value: int | float | bool = number.item()
    return value


def _read_storage(data: bytes, operations: list[int]) -> Tensor:
    """The flat tensor in the bytes of ``torch.save(storage)`` in the format before zip: five pickles, a
    count, the numbers.

    torch.load would do, but not in versions whose ``weights_only`` could be got around, and it unpacks
    archives.
    """
    stream = io.BytesIO(data)
    ids: list[Any] = []

    def plain(persistent: Callable[[Any], Any] | None = None) -> Any:
        names = {("torch", name): Symbol(name) for name in _DTYPES} if persistent else {}
        return RestrictedUnpickler(names, persistent, operations).run(stream)

    def remember(identity: Any) -> Any:
        ids.append(identity)
        return identity

    if data[:1] != b"\x80" or plain() != _MAGIC or plain() != _PROTOCOL:
        raise UnsafeFile("has a storage in another format than NVIDIA's files; give NVIDIA's own file")
    system = plain()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise UnsafeFile("has a storage of another byte order; give NVIDIA's own file")
    plain(remember)
    keys = plain()
    ((kind, storage, key, _, count, view),) = ids
    whole = kind == "storage" and isinstance(storage, Symbol) and type(key) is str and view is None
    if not whole or keys != [key]:
        raise UnsafeFile("has a storage of another kind than NVIDIA's files; give NVIDIA's own file")
    dtype = _DTYPES[storage.name]
    start = stream.tell() + 8
    stated = int.from_bytes(data[start - 8 : start], "little")
    if type(count) is not int or stated != count or len(data) - start != count * dtype.itemsize:
        raise UnsafeFile("has a storage whose data are incomplete; download it again")
    if not count:
        return torch.empty(0, dtype=dtype)
    if dtype == torch.bool:
        return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8) != 0
    return torch.frombuffer(bytearray(memoryview(data)[start:]), dtype=dtype)
