"""Reads what torch.save wrote, in either of its formats: the one place that calls torch.load.

``weights_only`` runs no code, yet believes a file in much else: it unpacks compressed entries of any size,
hashes tuples nested a million deep until the process dies, and makes tensors that are larger than their data.
So a file is inspected before torch reads it, and ``plain_tensor`` checks what came of it.
"""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from midre_exp.weights.restricted_pickle import (
    Constructor,
    RestrictedUnpickler,
    Stream,
    Stub,
    Symbol,
    UnsafeFile,
    scalar_key,
)

_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before zip: five pickles, then the numbers
_PICKLES = 5
_HEAVIEST = 10_000  # tuples that one tuple may hold, at any depth; a tensor's arguments hold five

_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage", "UntypedStorage", "QInt8Storage"), 1),
    **dict.fromkeys(("QUInt8Storage",), 1),
    "ComplexDoubleStorage": 16,
}
_CONTAINERS = ("OrderedDict", "Counter", "defaultdict", "dict")
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


#: Objects that trainings save beside their weights. They are passed over: a Stub takes their place.
_HARMLESS = (
    *("argparse.Namespace", "types.SimpleNamespace"),
    *("datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone"),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "collections.deque"),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any"),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String")),
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("PosixPath", "WindowsPath")),  # Python 3.13
    *("numpy.dtype", "numpy.ndarray"),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")  # before NumPy 2, since
        for name in ("scalar", "_reconstruct")
    ),
)
#: Dictionaries of other names, read as such.
_DICTIONARIES = (
    "easydict.EasyDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


class _PassedOver(Stub):
    """A Stub as torch's unpickler handles objects."""

    def __setstate__(self, state: Any) -> None:
        self.build(state)


def read_torch(source: Path | BytesIO, *, pass_over: bool = True) -> Any:
    """Whatever ``source`` holds, tensors on the CPU; nothing of it is executed.

    ``pass_over``: harmless objects beside the weights (NumPy's numbers, argparse's namespaces) become Stubs;
    otherwise they are refused as any other object. Raises UnsafeFile for a file that tries more than
    torch.save writes, and whatever torch or damaged bytes provoke.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            _inspect(file, source.stat().st_size)
    else:
        _inspect(source, source.getbuffer().nbytes)
        source.seek(0)
    stand_ins: list[tuple[type, str]] = []
    if pass_over:
        stand_ins += [(_PassedOver, name) for name in _HARMLESS]
        stand_ins += [(OrderedDict, name) for name in _DICTIONARIES]
    with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
        return torch.load(source, map_location="cpu", weights_only=True)


def entries(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """The items of a mapping from a file; its methods are not asked, since a file may lay attributes over
    them.
    """
    return dict(dict.items(content)) if isinstance(content, dict) else {}


def plain_tensor(value: Tensor) -> Tensor:
    """The numbers of a tensor from a file, without attributes. Raises UnsafeFile unless they all lie in
    memory, each once.
    """
    usual = type(value) in (Tensor, nn.Parameter, nn.Buffer) and value.layout == torch.strided
    if not usual or value.device.type != "cpu" or value.dtype not in _DTYPES:
        raise UnsafeFile(
            "has tensors of an unusual kind (sparse, quantised, without data); save ordinary ones"
        )
    tensor = Tensor.detach(value)  # not value.detach(): a file may lay attributes over a parameter's methods
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UnsafeFile("has a tensor larger than its data; download it again")
    return tensor


def _inspect(file: BinaryIO, size: int) -> None:
    """Raise unless torch may be given the file."""
    if file.read(4) == b"PK\x03\x04":
        return _inspect_zip(file, size)
    file.seek(0)
    if file.read(1) != b"\x80":
        raise UnsafeFile("is no file of torch.save")
    file.seek(0)
    stream = Stream(file, size)
    inspector = _Inspector(_AnyName(), _bounded(size))
    for number in range(_PICKLES):
        content = inspector.run(stream)
        if number == 0 and content != _MAGIC:
            return None  # some other pickle, all of which torch will see: it can name what is in it
    return None


def _inspect_zip(file: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        found = archive.infolist()
        names = [entry.filename.lower() for entry in found]  # torch finds entries in either case
        as_written = all(
            entry.compress_type == zipfile.ZIP_STORED
            and entry.file_size == entry.compress_size
            and not entry.flag_bits & 1  # encrypted
            for entry in found
        )
        if archive.comment or min(entry.header_offset for entry in found) or not as_written:
            raise UnsafeFile("is a zip file, but not as torch.save writes it")
        if len(set(names)) < len(names) or sum(entry.file_size for entry in found) > size:
            raise UnsafeFile("is a zip file whose entries overlap")
        if archive.testzip() is not None:
            raise UnsafeFile("has an entry whose checksum is wrong")
        folder = found[0].filename.partition("/")[0]
        inside = all(
            folder and entry.filename.startswith(f"{folder}/") and ".." not in entry.filename.split("/")
            for entry in found
        )
        pickles = {entry.filename for entry in found if entry.filename.lower().endswith(".pkl")}
        if f"{folder}/constants.pkl" in pickles:
            raise UnsafeFile("is a TorchScript program")
        if not inside or pickles != {f"{folder}/data.pkl"}:
            raise UnsafeFile("has other entries than torch.save writes")
        content = archive.read(f"{folder}/data.pkl")
        sizes = {entry.filename: entry.file_size for entry in found}
    _Inspector(_AnyName(), _recorded(sizes, folder)).run(Stream(BytesIO(content), len(content)))


def _recorded(sizes: Mapping[str, int], folder: str) -> Callable[[Any], Any]:
    """What checks a storage of the zip format against its entry."""

    def check(identity: Any) -> Stub:
        key, wanted, _ = _storage(identity)
        if sizes.get(f"{folder}/data/{key}") != wanted:
            raise UnsafeFile("has a storage of another size than its data")
        return Stub()

    return check


def _bounded(size: int) -> Callable[[Any], Any]:
    """What checks that all storages of the older format together fit into the file."""
    seen: set[str] = set()
    left = size

    def check(identity: Any) -> Stub:
        nonlocal left
        key, wanted, more = _storage(identity)
        if len(more) != 1:
            raise TypeError("a storage of unknown form")
        left -= 0 if key in seen else wanted  # torch makes room when it meets a key for the first time
        seen.add(key)
        if left < 0:
            raise UnsafeFile("has storages larger than the file")
        return Stub()

    return check


def _storage(identity: Any) -> tuple[str, int, tuple[Any, ...]]:
    """(key, bytes, the rest) of a storage's persistent id."""
    kind, storage, key, _, count, *more = identity
    named = kind == "storage" and isinstance(storage, Symbol) and storage.name in _BYTES
    if not named or type(key) is not str or type(count) is not int or count < 0:
        raise TypeError("a storage of unknown form")
    return key, count * _BYTES[storage.name], tuple(more)


class _AnyName(dict[tuple[str, str], Any]):
    """Something for every name: which of them a file may use, torch decides."""

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        module, name = key
        if module.startswith("torch") and name.endswith(("Storage", "Tensor")):
            return Symbol(name)  # mere types here: called, they would make room for any number of numbers
        if name in _CONTAINERS:
            return Constructor(_container, is_class=True)
        return Constructor(Stub, is_class=True)


def _container(*arguments: Any) -> dict[Any, Any]:
    del arguments  # their number is counted where it is called
    return {}


@dataclass
class _Inspector(RestrictedUnpickler):
    """Goes through a pickle with nothing but Stubs, to find what would exhaust or crash torch's reader."""

    weights: dict[int, int] = field(default_factory=dict)  # tuples in a tuple, by its id
    kept: list[Any] = field(default_factory=list)  # so that no id is used twice

    def _tuple(self, size: int | None) -> None:
        super()._tuple(size)
        made = self._stack[-1]
        weight = 1 + sum(self.weights[id(item)] for item in made if type(item) is tuple)
        if weight > _HEAVIEST:
            raise UnsafeFile("nests tuples too deep")
        self.weights[id(made)] = weight
        self.kept.append(made)

    def _fill(self, kind: type, *, many: bool) -> None:
        start = self._mark() if many else len(self._stack) - (2 if kind is dict else 1)
        target = self._stack[start - 1] if start else None
        if not isinstance(target, Stub):
            return super()._fill(kind, many=many)
        items = self._pop_to_mark() if many else self._pop(2 if kind is dict else 1)
        if kind is not list:
            list(map(scalar_key, items[::2] if kind is dict else items))
        return None

    def _call(self, what: Any, arguments: Any, *, empty: bool) -> None:
        if isinstance(what, Symbol) or type(arguments) is not tuple:
            raise UnsafeFile("makes tensors without data")
        for part in arguments:
            if type(part) in (list, tuple, dict, set):
                self.operations[0] -= len(part)  # one that is used again and again costs its reader as often
        self._stack.append(what.make(*arguments) if isinstance(what, Constructor) else Stub())

    def _build(self, target: Any, state: Any) -> None:
        self._stack.append(target)
