"""A machine that runs the operations of a pickle on data alone, without Python's unpickler.

It imports nothing and calls nothing but the stand-ins of the table of names it is given; every other name is
refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

_OPERATIONS = 2_000_000  # a network of 1024 pixels takes 15,000
_LINE = 1 << 12
_MARK = object()


class Refused(Exception):
    """The reason, to follow the file's name in a sentence, why a file is not read."""


@dataclass(frozen=True)
class Maker:
    """A name that a file may call, or, ``is_class``, also make an empty instance of."""

    make: Callable[..., Any]
    is_class: bool = False


@dataclass(frozen=True)
class Named:
    """A name that stands for itself, a dtype say."""

    name: str


class Inert:
    """An object whose content plays no part."""

    def __init__(self, *parts: Any):
        del parts

    def build(self, state: Any) -> None:
        """Take ``state``; passed over here."""


@dataclass
class Machine:
    """Runs the operations of a pickle on data alone.

    ``names`` maps (module, name) to a stand-in; ``persistent`` answers persistent ids, None refuses them.
    ``operations`` counts down over everything one file contains.
    """

    names: Mapping[tuple[str, str], Any]
    persistent: Callable[[Any], Any] | None = None
    operations: list[int] = field(default_factory=lambda: [_OPERATIONS])

    def run(self, stream: BinaryIO | Stream) -> Any:
        """The object of the pickle that starts at the stream's position, which ends behind it.

        Raises Refused for a name outside ``names``, and whatever damaged bytes provoke.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        for operation, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            self.operations[0] -= 1
            if self.operations[0] < 0:
                raise Refused(f"has more than {_OPERATIONS} pickle operations; give NVIDIA's own file")
            if operation.name != "STOP":
                self._step(operation.name, argument)
        (result,) = self._stack
        return result

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name in ("FRAME", "PROTO"):
            if name == "PROTO" and not 2 <= argument <= 5:
                raise Refused(f"has pickle protocol {argument}, not 2 to 5; give NVIDIA's own file")
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _FILLS:
            self._fill(_FILLS[name], many=name.endswith("S"))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, wanted = argument.split(" ", 1) if argument else self._pop(2)
            stack.append(self._named(module, wanted))
        elif name in ("REDUCE", "NEWOBJ"):
            self._call(*self._pop(2), empty=name == "NEWOBJ")
        elif name == "BUILD":
            self._build(*self._pop(2))
        elif name == "BINPERSID" and self.persistent:
            stack.append(self.persistent(stack.pop()))
        else:
            raise Refused(
                f"uses the pickle operation {name}, which networks do not need; give NVIDIA's own file"
            )

    def _pop(self, n: int) -> list[Any]:
        if len(self._stack) < n:
            raise IndexError("stack is empty")
        items = self._stack[-n:]
        del self._stack[-n:]
        return items

    def _mark(self) -> int:
        """Where the newest mark is."""
        return next(i for i in range(len(self._stack) - 1, -1, -1) if self._stack[i] is _MARK)

    def _pop_to_mark(self) -> list[Any]:
        start = self._mark()
        items = self._stack[start + 1 :]
        del self._stack[start:]
        return items

    def _tuple(self, size: int | None) -> None:
        items = self._pop_to_mark() if size is None else self._pop(size) if size else []
        self._stack.append(tuple(items))

    def _fill(self, kind: type, *, many: bool) -> None:
        items = self._pop_to_mark() if many else self._pop(2 if kind is dict else 1)
        target = self._stack[-1]
        if type(target) is not kind:
            raise TypeError(f"a {type(target).__name__} cannot be filled as a {kind.__name__}")
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(map(scalar_key, items))
        elif isinstance(target, dict):
            target.update(zip(map(scalar_key, items[::2]), items[1::2], strict=True))

    def _named(self, module: Any, name: Any) -> Any:
        if not (type(module) is str and type(name) is str):
            raise TypeError("a name that is no text")
        found = self.names.get((module, name))
        if found is None:
            raise Refused(_foreign(module, name))
        return found

    def _call(self, what: Any, arguments: Any, *, empty: bool) -> None:
        if not isinstance(what, Maker) or type(arguments) is not tuple:
            raise Refused("calls something that is no function; give NVIDIA's own file")
        if empty and (arguments or not what.is_class):
            raise Refused("makes an object of what is no class; give NVIDIA's own file")
        self._stack.append(what.make(*arguments))

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Inert):
            target.build(state)
        elif not isinstance(target, dict):  # whose attributes play no part
            raise Refused("sets attributes of what is no object; give NVIDIA's own file")
        self._stack.append(target)


_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
_FILLS: dict[str, type] = {
    "APPEND": list,
    "APPENDS": list,
    "SETITEM": dict,
    "SETITEMS": dict,
    "ADDITEMS": set,
}


class Stream:
    """A file that never hands out, or makes room for, more bytes than it has."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, n: int) -> bytes:
        """At most ``n`` bytes."""
        return self._file.read(max(0, min(n, self._size - self._file.tell())))

    def readline(self) -> bytes:
        """A line, or the first bytes of one that is too long for a name or a number."""
        return self._file.readline(_LINE)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


def _foreign(module: str, name: str) -> str:
    if module.startswith("dnnlib.tflib"):
        return "is a TensorFlow network; convert it with NVIDIA's legacy.py, or give the PyTorch file"
    wanted = ascii(f"{module}.{name}"[:80])[1:-1]
    return f"holds code or foreign objects ({wanted}), which are never run; give NVIDIA's own file"


def scalar_key(key: Any) -> Any:
    """A key that is cheap and safe to hash."""
    if key is not None and type(key) not in (str, int, float, bool, bytes):
        raise TypeError(f"a {type(key).__name__} as a key")
    return key
