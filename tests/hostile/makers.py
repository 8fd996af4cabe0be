"""Files that somebody made to do harm: each with a name, what it tries, and its bytes.

Every one that could run code would create the file ``sentinel``. None needs more than a few hundred kilobytes
on disk.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Crafted:
    """``make(sentinel)`` gives the bytes."""

    name: str
    tries: str
    make: Callable[[Path], bytes]


# --- pickles by hand ---


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def shell(sentinel: Path) -> bytes:
    """A call of os.system."""
    return name("os", "system") + text(f"touch '{sentinel}'") + b"\x85R"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4, more: bytes = b"") -> bytes:
    return (
        b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + more + b"tQ"
    )


def tensor(
    inside: bytes, *, offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)
) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    parts = inside + number(offset) + numbers(*size) + numbers(*stride) + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + parts + b"tR"


def state_dict(value: bytes, key: bytes | None = None) -> bytes:
    return b"\x80\x02}" + (key or text("weight")) + value + b"s."


GOOD = state_dict(tensor(storage()))


def deep(levels: int) -> bytes:
    """A tuple in a tuple in a tuple ..."""
    return b")" + b"\x85" * levels


def laughs(levels: int) -> bytes:
    """A pair of the same pair of the same pair ...: 2 ** levels when walked."""
    again = b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(levels))
    return b")" + again


# --- files of torch.save ---


def archive(
    content: bytes,
    entries: list[tuple[str, bytes]] | None = None,
    *,
    method: int = zipfile.ZIP_STORED,
    change: Callable[[zipfile.ZipFile], None] = lambda _: None,
) -> bytes:
    """The zip format of torch.save around a pickle, with one storage of four numbers unless ``entries`` are
    given.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("archive/data.pkl", content)
        made.writestr("archive/byteorder", "little")
        for entry, data in entries if entries is not None else [("archive/data/0", bytes(16))]:
            made.writestr(entry, data)
        made.writestr("archive/version", "3\n")
        change(made)
    return file.getvalue()


def flagged(data: bytes, old: int, new: bytes) -> bytes:
    """The archive with bytes of every central entry replaced, ``old`` bytes behind its start."""
    out, at = bytearray(data), data.find(b"PK\x01\x02")
    while at >= 0:
        out[at + old : at + old + len(new)] = new
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(out)


def damaged(data: bytes, what: bytes) -> bytes:
    """One bit of ``what`` flipped, checksums left alone."""
    at = data.index(what)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def one_entry_many_times(made: zipfile.ZipFile) -> None:
    for copies in range(200):
        twin = copy.copy(made.getinfo("archive/data/0"))
        twin.filename = f"archive/data/{copies + 1}"
        made.filelist.append(twin)


def doubled(made: zipfile.ZipFile) -> None:
    twin = copy.copy(made.getinfo("archive/data.pkl"))
    made.filelist.append(twin)


def legacy(content: bytes, keys: Any = ("0",), tail: bytes | None = None, system: Any = None) -> bytes:
    """The format before zip."""
    head = [MAGIC, 1001, system or {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
    numbers = struct.pack("<q", 4) + bytes(16) if tail is None else tail
    pickles = [pickle.dumps(part, protocol=2) for part in head]
    return b"".join(pickles) + content + pickle.dumps(list(keys), protocol=2) + numbers


def legacy_tensor(count: int = 4, view: bytes = b"N", **shape: Any) -> bytes:
    return state_dict(tensor(storage(count=count, more=view), **shape))


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def torn_tar(sentinel: Path) -> bytes:
    """What torch.save wrote in 2016, with a call in each of its pickles."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for part in ("storages", "tensors", "pickle"):
            content = b"\x80\x02" + shell(sentinel) + b"."
            entry = tarfile.TarInfo(part)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def long_name_bomb(_: Path) -> bytes:
    """A compressed tar whose first name is 64 MB long."""
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    return gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20), 1)


def quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


# --- safetensors ---


def safe(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(start: int = 0, stop: int = 16, shape: Any = (4,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


ZIPS = [
    Crafted("call", "a call of os.system in data.pkl", lambda s: archive(state_dict(shell(s)))),
    Crafted("call as a key", "the call where a name belongs", lambda s: archive(state_dict(b"N", shell(s)))),
    Crafted(
        "call deep inside",
        "the call in a list in a dictionary in a wrapper",
        lambda s: archive(state_dict(b"}" + text("opt") + b"]" + shell(s) + b"as")),
    ),
    Crafted(
        "second pickle",
        "a call in a pickle beside data.pkl",
        lambda s: archive(
            GOOD, [("archive/data/0", bytes(16)), ("archive/more.pkl", b"\x80\x02" + shell(s) + b".")]
        ),
    ),
    Crafted(
        "upper case",
        "an entry that is data.pkl for readers who ignore case",
        lambda s: archive(
            GOOD, [("archive/data/0", bytes(16)), ("archive/DATA.PKL", b"\x80\x02" + shell(s) + b".")]
        ),
    ),
    Crafted(
        "entry twice",
        "two entries of one name, which readers choose between",
        lambda _: archive(GOOD, change=doubled),
    ),
    Crafted(
        "absolute entry",
        "an entry that unpacks to the root of the disk",
        lambda s: archive(GOOD, [("archive/data/0", bytes(16)), (str(s), b"x")]),
    ),
    Crafted(
        "entry above",
        "an entry that unpacks above the folder",
        lambda _: archive(GOOD, [("archive/data/0", bytes(16)), ("archive/../../../was_run", b"x")]),
    ),
    Crafted(
        "other folder",
        "an entry of another archive",
        lambda _: archive(GOOD, [("archive/data/0", bytes(16)), ("etc/passwd", b"x")]),
    ),
    Crafted("wrong checksum of the pickle", "a changed pickle", lambda _: damaged(archive(GOOD), b"weight")),
    Crafted(
        "wrong checksum of the numbers",
        "changed numbers, which torch does not notice",
        lambda _: damaged(archive(GOOD, [("archive/data/0", b"sixteen bytes...")]), b"sixteen"),
    ),
    Crafted("encrypted", "the flag of an encrypted entry", lambda _: flagged(archive(GOOD), 8, b"\x01\x00")),
    Crafted("no central directory", "the last hundred bytes cut off", lambda _: archive(GOOD)[:-100]),
    Crafted(
        "half a central directory",
        "the central directory cut in the middle, its end kept",
        lambda _: (lambda d: d[: d.index(b"PK\x01\x02") + 60] + d[-22:])(archive(GOOD)),
    ),
    Crafted(
        "bomb",
        "16 MB of zeros packed to 16 kB",
        lambda _: archive(
            state_dict(tensor(storage(count=4 << 20))),
            [("archive/data/0", bytes(16 << 20))],
            method=zipfile.ZIP_DEFLATED,
        ),
    ),
    Crafted(
        "pickle bomb",
        "a packed pickle of a long text",
        lambda _: archive(b"\x80\x02" + text("a" * (8 << 20)) + b".", method=zipfile.ZIP_DEFLATED),
    ),
    Crafted(
        "one entry under 200 names",
        "a small file that counts 200 times",
        lambda _: archive(GOOD, change=one_entry_many_times),
    ),
    Crafted(
        "lying size",
        "a central directory that says 2 GB of each entry",
        lambda _: flagged(archive(GOOD), 20, struct.pack("<II", 1 << 31, 1 << 31)),
    ),
    Crafted(
        "comment",
        "a second end of the archive in its comment",
        lambda _: archive(GOOD, change=lambda z: setattr(z, "comment", b"PK\x05\x06" + bytes(18))),
    ),
    Crafted(
        "pickle and zip in one",
        "a call that stands before a good archive",
        lambda s: b"\x80\x02" + shell(s) + b"." + archive(GOOD),
    ),
    Crafted(
        "local header first",
        "an archive with foreign bytes in front",
        lambda _: b"PK\x03\x04" + bytes(60) + archive(GOOD),
    ),
    Crafted(
        "program",
        "a TorchScript program",
        lambda _: archive(
            GOOD, [("archive/constants.pkl", b"\x80\x02)."), ("archive/code/__torch__.py", b"import os")]
        ),
    ),
    Crafted(
        "no pickle", "an archive without data.pkl", lambda _: archive(GOOD).replace(b"data.pkl", b"data.txt")
    ),
    Crafted(
        "empty archive", "an archive without entries", lambda _: b"PK\x03\x04" + b"PK\x05\x06" + bytes(18)
    ),
]

TENSORS = [
    Crafted(
        "storage larger than its data",
        "numbers from beyond the file's end",
        lambda _: archive(state_dict(tensor(storage(count=1000), size=(1000,)))),
    ),
    Crafted(
        "storage smaller than its data",
        "another count than there is",
        lambda _: archive(state_dict(tensor(storage(count=2), size=(2,)))),
    ),
    Crafted(
        "negative storage", "a count below zero", lambda _: archive(state_dict(tensor(storage(count=-4))))
    ),
    Crafted(
        "endless storage", "a count of 2 ** 62", lambda _: archive(state_dict(tensor(storage(count=1 << 62))))
    ),
    Crafted(
        "storage without entry",
        "a storage that the archive lacks",
        lambda _: archive(state_dict(tensor(storage(key="../data.pkl")))),
    ),
    Crafted(
        "tensor larger than its storage",
        "numbers behind the storage",
        lambda _: archive(state_dict(tensor(storage(), size=(5,)))),
    ),
    Crafted(
        "one number a trillion times",
        "a stride of 0",
        lambda _: archive(state_dict(tensor(storage(), size=(1 << 40,), stride=(0,)))),
    ),
    Crafted(
        "negative stride",
        "numbers before the storage",
        lambda _: archive(state_dict(tensor(storage(), stride=(-1,)))),
    ),
    Crafted(
        "negative offset",
        "numbers before the storage",
        lambda _: archive(state_dict(tensor(storage(), offset=-4))),
    ),
    Crafted(
        "negative size", "a size below zero", lambda _: archive(state_dict(tensor(storage(), size=(-1,))))
    ),
    Crafted(
        "overflowing size",
        "sizes whose product wraps around to 0",
        lambda _: archive(state_dict(tensor(storage(), size=(1 << 32, 1 << 32), stride=(1 << 32, 1)))),
    ),
    Crafted(
        "without data",
        "a tensor on the device meta",
        lambda _: saved({"weight": torch.zeros(1 << 30, device="meta")}),
    ),
    Crafted(
        "sparse",
        "a sparse tensor of 2 ** 40 numbers",
        lambda _: saved({"weight": torch.sparse_coo_tensor([[0]], [1.0], (1 << 40,))}),
    ),
    Crafted("quantised", "a quantised tensor", lambda _: saved({"weight": quantised()})),
    Crafted(
        "room for nothing",
        "a call of torch.FloatTensor(2 ** 34)",
        lambda _: archive(state_dict(name("torch", "FloatTensor") + number(1 << 34) + b"\x85R")),
    ),
    Crafted(
        "subclass",
        "a tensor of a type of the file's choice",
        lambda _: archive(
            state_dict(
                name("torch._tensor", "_rebuild_from_type_v2")
                + b"("
                + name("builtins", "eval")
                + name("torch", "Tensor")
                + text("1")
                + b"\x85}tR"
            )
        ),
    ),
]

PICKLES = [
    Crafted(
        "old call",
        "INST: a call in the oldest protocol",
        lambda s: f"(S\"touch '{s}'\"\nios\nsystem\n.".encode(),
    ),
    Crafted(
        "old object",
        "OBJ: the same with its arguments behind a mark",
        lambda s: b"\x80\x02(" + name("os", "system") + text(f"touch '{s}'") + b"o.",
    ),
    Crafted(
        "text protocol",
        "GLOBAL and REDUCE in protocol 0",
        lambda s: f"cos\nsystem\n(S\"touch '{s}'\"\ntR.".encode(),
    ),
    Crafted(
        "name on the stack",
        "STACK_GLOBAL of os.system",
        lambda s: b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(f"touch '{s}'") + b"\x85R.",
    ),
    Crafted(
        "name with a dot",
        "STACK_GLOBAL of an attribute of an attribute",
        lambda s: (
            b"\x80\x04\x8c\x05torch\x8c\x12serialization.os.system\x93"[:-1].replace(b"\x12", b"\x17")
            + b"\x93"
            + text(f"touch '{s}'")
            + b"\x85R."
        ),
    ),
    Crafted(
        "name with a line break",
        "a module whose name ends a line of the message and clears the screen",
        lambda _: b"\x80\x04" + text("os\n\x1b[2J\r") + text("system\n") + b"\x93)R.",
    ),
    Crafted(
        "keyword instance",
        "NEWOBJ_EX of a subprocess",
        lambda s: (
            b"\x80\x04"
            + text("subprocess")
            + text("Popen")
            + b"\x93"
            + text(f"touch '{s}'")
            + b"\x85}"
            + text("shell")
            + b"\x88s\x92."
        ),
    ),
    Crafted(
        "instance",
        "NEWOBJ of a subprocess",
        lambda s: b"\x80\x02" + name("subprocess", "Popen") + text(f"touch '{s}'") + b"\x85\x81.",
    ),
    Crafted(
        "state",
        "BUILD of an object with __setstate__",
        lambda s: (
            b"\x80\x02"
            + name("torch.nn.modules.module", "Module")
            + b")\x81}"
            + text("forward")
            + shell(s)
            + b"sb."
        ),
    ),
    Crafted(
        "call in a namespace",
        "a harmless object whose attribute is a call",
        lambda s: archive(
            b"\x80\x02" + name("argparse", "Namespace") + b")\x81}" + text("lr") + shell(s) + b"sb."
        ),
    ),
    Crafted(
        "call as a number",
        "NumPy's number made of a call",
        lambda s: archive(b"\x80\x02" + name("numpy.core.multiarray", "scalar") + shell(s) + b"\x85R."),
    ),
    Crafted(
        "shadowed methods",
        "BUILD that lays attributes over a dictionary's own methods",
        lambda _: archive(
            b"\x80\x02"
            + name("collections", "OrderedDict")
            + b")R}("
            + b"".join(text(n) + b"K\x01" for n in ("items", "get", "keys", "values", "__iter__"))
            + b"ub."
        ),
    ),
    Crafted("extension code", "EXT1 of a registry", lambda _: b"\x80\x02\x82\x01)R."),
    Crafted("persistent id", "PERSID that names a file", lambda s: f"\x80\x02P{s}\n.".encode("latin-1")),
    Crafted(
        "persistent container",
        "BINPERSID of a module with its source",
        lambda s: (
            b"\x80\x02(" + text("module") + name("os", "system") + text(str(s)) + text("source") + b"tQ."
        ),
    ),
    Crafted("unknown memo", "BINGET of what was never put", lambda _: b"\x80\x02h\x07."),
    Crafted(
        "memo exchanged",
        "a harmless name put, then replaced by another",
        lambda s: (
            b"\x80\x02"
            + name("collections", "OrderedDict")
            + b"q\x000"
            + name("os", "system")
            + b"q\x000h\x00"
            + text(f"touch '{s}'")
            + b"\x85R."
        ),
    ),
    Crafted(
        "deep key",
        "a name that is a tuple a million deep: hashing it ends the process",
        lambda _: archive(state_dict(b"N", deep(1_000_000))),
    ),
    Crafted(
        "laughing key",
        "a name that takes 2 ** 60 steps to hash",
        lambda _: archive(state_dict(b"N", laughs(60))),
    ),
    Crafted(
        "laughing set",
        "the same in a set",
        lambda _: archive(b"\x80\x02" + name("__builtin__", "set") + b"]" + laughs(60) + b"a\x85R."),
    ),
    Crafted(
        "laughing storage",
        "the same as the name of a storage",
        lambda _: archive(
            state_dict(
                tensor(
                    b"("
                    + text("storage")
                    + name("torch", "FloatStorage")
                    + laughs(60)
                    + text("cpu")
                    + number(4)
                    + b"tQ"
                )
            )
        ),
    ),
    Crafted(
        "deep list",
        "lists twenty thousand deep",
        lambda _: archive(b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."),
    ),
    Crafted(
        "deep dictionary",
        "dictionaries twenty thousand deep",
        lambda _: archive(b"\x80\x02" + b"}N" * 20_000 + b"}" + b"s" * 20_000 + b"."),
    ),
    Crafted(
        "circle",
        "a dictionary that holds itself",
        lambda _: archive(b"\x80\x02}q\x00" + text("weight") + b"h\x00s."),
    ),
    Crafted(
        "circle of wrappers",
        "a state_dict that is its own wrapper",
        lambda _: archive(b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s."),
    ),
    Crafted(
        "list again and again",
        "a list of ten thousand, counted ten thousand times",
        lambda _: archive(
            b"\x80\x02]("
            + b"K\x01" * 10_000
            + b"eq\x00"
            + (name("collections", "Counter") + b"q\x01")
            + b"h\x00\x85R"
            + b"h\x01h\x00\x85R" * 10_000
            + b"."
        ),
    ),
    Crafted(
        "huge frame",
        "a frame of 2 ** 62 bytes",
        lambda _: b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
    ),
    Crafted(
        "huge bytes",
        "a bytearray of 2 ** 40 bytes",
        lambda _: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    ),
    Crafted(
        "huge text in an archive",
        "a text of 4 GB that is not there",
        lambda _: archive(b"\x80\x02X\xff\xff\xff\xffabc."),
    ),
    Crafted("out-of-band buffer", "NEXT_BUFFER", lambda _: b"\x80\x05\x97\x98."),
    Crafted(
        "loader as data",
        "a call of torch.load without its guard",
        lambda s: b"\x80\x02" + name("torch", "load") + text(str(s)) + b"\x85R.",
    ),
    Crafted(
        "hub",
        "a call of torch.hub.load",
        lambda _: b"\x80\x02" + name("torch.hub", "load") + text("x/y") + text("z") + b"\x86R.",
    ),
    Crafted(
        "source code",
        "NVIDIA's persistence with source that creates a file",
        lambda s: (
            b"\x80\x02"
            + name("torch_utils.persistence", "_reconstruct_persistent_obj")
            + b"}("
            + text("type")
            + text("class")
            + text("version")
            + b"K\x06"
            + text("class_name")
            + text("Generator")
            + text("module_src")
            + text(f"open({str(s)!r}, 'w')")
            + text("state")
            + b"}u\x85R."
        ),
    ),
    Crafted(
        "NumPy array of objects",
        "a .npy file whose array is a pickle",
        lambda s: (
            b"\x93NUMPY\x01\x00\x3e\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }"
            b"       \n\x80\x02" + shell(s) + b"."
        ),
    ),
]

LEGACY = [
    Crafted(
        "legacy call",
        "a call in the fourth pickle of the older format",
        lambda s: legacy(state_dict(shell(s))),
    ),
    Crafted(
        "legacy call in the keys",
        "a call in the fifth pickle",
        lambda s: legacy(legacy_tensor()).replace(
            pickle.dumps(["0"], protocol=2), b"\x80\x02" + shell(s) + b"."
        ),
    ),
    Crafted(
        "legacy endless storage", "room for 2 ** 40 numbers", lambda _: legacy(legacy_tensor(count=1 << 40))
    ),
    Crafted("legacy negative storage", "a count below zero", lambda _: legacy(legacy_tensor(count=-1))),
    Crafted(
        "legacy many storages",
        "room for 2 ** 20 numbers a thousand times",
        lambda _: legacy(
            b"\x80\x02]("
            + b"".join(tensor(storage(key=str(i), count=1 << 20, more=b"N")) for i in range(1000))
            + b"e.",
            keys=map(str, range(1000)),
        ),
    ),
    Crafted(
        "legacy view",
        "a view of a storage beyond its end",
        lambda _: legacy(legacy_tensor(view=b"(" + text("1") + number(1 << 40) + number(4) + b"t")),
    ),
    Crafted("legacy unknown key", "a key without storage", lambda _: legacy(legacy_tensor(), keys=["1"])),
    Crafted("legacy truncated", "half of the numbers", lambda _: legacy(legacy_tensor())[:-8]),
    Crafted(
        "legacy lying numbers",
        "another count before the numbers than in the pickle",
        lambda _: legacy(legacy_tensor(), tail=struct.pack("<q", 1 << 40) + bytes(16)),
    ),
    Crafted(
        "legacy stride of zero",
        "one number a trillion times",
        lambda _: legacy(legacy_tensor(size=(1 << 40,), stride=(0,))),
    ),
    Crafted(
        "legacy protocol",
        "a protocol that does not exist",
        lambda _: legacy(legacy_tensor()).replace(
            pickle.dumps(1001, protocol=2), pickle.dumps(1002, protocol=2)
        ),
    ),
    Crafted(
        "legacy deep key", "a name a million tuples deep", lambda _: legacy(state_dict(b"N", deep(1_000_000)))
    ),
    Crafted(
        "legacy deep system",
        "the same in the third pickle",
        lambda _: legacy(legacy_tensor()).replace(
            b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe9\x03.\x80\x02}" + deep(1_000_000) + b"Ns.", 1
        ),
    ),
    Crafted("tar of 2016", "the oldest format with calls in its pickles", torn_tar),
    Crafted("compressed tar", "a name of 64 MB in 64 kB", long_name_bomb),
]

SAFE = [
    Crafted(
        "header of 2 ** 63 bytes", "a length beyond any file", lambda _: safe({"w": entry()}, length=1 << 63)
    ),
    Crafted(
        "header longer than the file",
        "a length beyond this file",
        lambda _: safe({"w": entry()}, length=10_000),
    ),
    Crafted("header of 0 bytes", "no header", lambda _: safe(b"")),
    Crafted("overlapping", "two tensors of the same bytes", lambda _: safe({"a": entry(), "b": entry()})),
    Crafted("negative offsets", "bytes before the data", lambda _: safe({"w": entry(-16, 0)})),
    Crafted("reversed offsets", "an end before its start", lambda _: safe({"w": entry(16, 0)})),
    Crafted(
        "offsets beyond the end",
        "bytes behind the file",
        lambda _: safe({"w": entry(0, 1 << 40, (1 << 38,))}),
    ),
    Crafted(
        "shape of another size",
        "a shape that its bytes do not fill",
        lambda _: safe({"w": entry(shape=(1 << 20,))}),
    ),
    Crafted(
        "overflowing shape",
        "a shape whose product wraps around",
        lambda _: safe({"w": entry(shape=(1 << 32, 1 << 32))}),
    ),
    Crafted("hole", "bytes that belong to no tensor", lambda _: safe({"w": entry()}, bytes(64))),
    Crafted(
        "NaN",
        "metadata that are no JSON",
        lambda _: safe(b'{"__metadata__":{"a":NaN},"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    ),
    Crafted(
        "infinite offset",
        "an offset of 1e999",
        lambda _: safe(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,1e999]}}'),
    ),
    Crafted(
        "deep header",
        "brackets fifty thousand deep",
        lambda _: safe(b'{"w":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    ),
    Crafted("header that is a list", "no names", lambda _: safe([entry()])),
    Crafted(
        "not UTF-8",
        "a name of broken bytes",
        lambda _: safe(b'{"\xff\xfe":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    ),
    Crafted("unknown dtype", "numbers of 1024 bits", lambda _: safe({"w": entry(dtype="F1024")})),
    Crafted(
        "metadata of other types",
        "metadata that are no text",
        lambda _: safe({"__metadata__": {"a": {"b": 1}}, "w": entry()}),
    ),
    Crafted("no tensors", "an empty header", lambda _: safe({}, b"")),
]

EVERY = [*ZIPS, *TENSORS, *PICKLES, *LEGACY, *SAFE]
