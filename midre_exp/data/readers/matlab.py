"""Reads lists of text and of numbers from a MATLAB file (level 5, that of ``save`` without options), and
nothing else of it.

Not scipy.io.loadmat, because a damaged file ends the process: SciPy 1.17.1 dies of a segmentation fault on
28 of 3,000 randomly changed lists of Stanford Dogs and on a matrix of unknown numbers (tests/hostile).
Layout: MathWorks, "MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

Values = list[str | None] | list[float]

_HEADER = 128
_LARGEST = 1 << 26  # bytes, unpacked; the lists of Stanford Dogs have one million
_MATRIX, _COMPRESSED = 14, 15  # kinds of elements
_CELL, _TEXT, _NUMBERS = 1, 4, range(6, 16)  # classes of matrices
_COMPLEX = 0x800
_NUMERALS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}


def read_variables(path: Path, wanted: Collection[str]) -> dict[str, Values]:
    """The ``wanted`` variables that a file has, column by column: a cell as the text of each entry, None
    where it is no line of text; a matrix as numbers.

    Raises OSError when it cannot be read, and ValueError, zlib.error or struct.error for damaged files and
    other formats.
    """
    data = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:_HEADER]))
    if order is None or bytes(data[:6]) != b"MATLAB":
        raise ValueError("it is no MATLAB file of level 5")
    found: dict[str, Values] = {}
    for kind, content in _elements(data[_HEADER:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = memoryview(unpacker.decompress(content, _LARGEST))
            if not unpacker.eof:
                raise ValueError("a variable is cut off, or larger than any list")
            ((kind, content),) = _elements(unpacked, order)
        if kind == _MATRIX:
            name, values = _matrix(content, order)
            if name in wanted and values is not None:
                found[name] = values
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(kind, content) of each element."""
    at = 0
    while at < len(data):
        first, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        kind, short = first & 0xFFFF, first >> 16
        if short:  # of four bytes at most, in place of its size
            size, start = short, at + 4
        at += 8 if short else 8 + size
        if not short and kind != _COMPRESSED:
            at += -size % 8
        if (short and size > 4) or start + size > len(data):
            raise ValueError("an element is cut off")
        yield kind, data[start : start + size]


def _matrix(content: memoryview, order: str, *, inside: bool = False) -> tuple[str, Values | None]:
    """Name and values of a matrix; None for a kind that no list has."""
    (_, flags), (_, dims), (_, name), *parts = _elements(content, order)
    (flag,) = struct.unpack_from(f"{order}I", flags)
    sides = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    count = math.prod(sides)
    if len(sides) < 2 or min(sides) < 0:
        raise ValueError("a matrix of impossible size")
    values: Values | None = None
    kind = flag & 0xFF
    if kind == _CELL and not inside:
        if len(parts) != count or any(part != _MATRIX for part, _ in parts):
            raise ValueError("a cell without its entries")
        cells = [_matrix(cell, order, inside=True)[1] for _, cell in parts]
        values = [text[0] if text and isinstance(text[0], str) else None for text in cells]
    elif kind == _TEXT and len(parts) == 1 and sides[:-1] == (1,):
        line: list[str | None] = [_text(*parts[0], order)]
        values = line
    elif kind in _NUMBERS and len(parts) == 1 and not flag & _COMPLEX:
        numeral = _NUMERALS.get(parts[0][0])
        numbers = np.frombuffer(parts[0][1], f"{order}{numeral}") if numeral else np.empty(0)
        if len(numbers) != count:
            raise ValueError("a matrix without its numbers")
        values = numbers.tolist()
    return bytes(name).decode("latin-1"), values


def _text(kind: int, content: memoryview, order: str) -> str:
    encoding = _ENCODINGS.get(kind)
    if encoding is None:
        raise ValueError("text of unknown encoding")
    ending = {"<": "-le", ">": "-be"}[order] if encoding == "utf-16" else ""
    return bytes(content).decode(encoding + ending)
