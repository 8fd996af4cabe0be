"""An unpickler that runs no code: it carries out a pickle's operations on plain data and stand-ins alone.

Why not Python's: ``pickle`` imports whatever a file names and calls it. ``torch.load(weights_only=True)``
does not, but neither reads NVIDIA's network pickles (an own persistence scheme around tensors and source
code) nor resists files made to exhaust memory or the stack. This one imports nothing. A file's names are
looked up in a table of stand-ins given by the caller, and every other name is refused; the number of
operations is bounded. ``torch_file`` inspects torch's files with it before torch reads them, and
``priors.stylegan.nvidia_pickle`` reads NVIDIA's.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

_OPERATIONS = 2_000_000  # a network of 1024 pixels takes 15,000
_LINE = 1 << 12
_MARK = object()


class UnsafeFile(Exception):
    """The reason why a file is not read, to follow the file's name in a sentence."""


@dataclass(frozen=True)
class Constructor:
    """The stand-in of a name that a file may call."""

    make: Callable[..., Any]
    is_class: bool = False  #: whether a file may also make an empty instance of it


@dataclass(frozen=True)
class Symbol:
    """The stand-in of a name that a file may only mention, a dtype for example."""

    name: str


class Stub:
    """The stand-in of an object whose content is passed over."""

    def __init__(self, *arguments: Any):
        del arguments

    def build(self, state: Any) -> None:
        """Take the state that the file sets; passed over here."""


@dataclass
class RestrictedUnpickler:
    """Reads pickles of protocols 2 to 5 that hold plain data and the stand-ins in ``names``."""

    #: Stand-ins by (module, name): a Constructor, a Symbol, or anything the file may hold as it is.
    names: Mapping[tuple[str, str], Any]
    #: Answers persistent ids; None refuses them.
    persistent: Callable[[Any], Any] | None = None
    #: What is left of the operations allowed to a file, shared by all readers of that file.
    operations: list[int] = field(default_factory=lambda: [_OPERATIONS])

    def run(self, stream: BinaryIO | Stream) -> Any:
        """The object of the pickle that starts at the stream's position, which ends behind it.

        Raises UnsafeFile for a name outside ``names``, and whatever damaged bytes provoke.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        for operation, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            self.operations[0] -= 1
            if self.operations[0] < 0:
                raise UnsafeFile(f"has more than {_OPERATIONS} pickle operations; give NVIDIA's own file")
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
                raise UnsafeFile(f"has pickle protocol {argument}, not 2 to 5; give NVIDIA's own file")
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
            raise UnsafeFile(
                f"uses the pickle operation {name}, which networks do not need; give NVIDIA's own file"
            )

    def _pop(self, n: int) -> list[Any]:
        if len(self._stack) < n:
            raise IndexError("stack is empty")
        items = self._stack[-n:]
        del self._stack[-n:]
        return items

    def _mark(self) -> int:
        """The position of the newest mark."""
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
            raise UnsafeFile(_foreign_name(module, name))
        return found

    def _call(self, what: Any, arguments: Any, *, empty: bool) -> None:
        if not isinstance(what, Constructor) or type(arguments) is not tuple:
            raise UnsafeFile("calls something that is no function; give NVIDIA's own file")
        if empty and (arguments or not what.is_class):
            raise UnsafeFile("makes an object of what is no class; give NVIDIA's own file")
        self._stack.append(what.make(*arguments))

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Stub):
            target.build(state)
        elif not isinstance(target, dict):  # whose attributes play no part
            raise UnsafeFile("sets attributes of what is no object; give NVIDIA's own file")
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


def _foreign_name(module: str, name: str) -> str:
    if module.startswith("dnnlib.tflib"):
        return "is a TensorFlow network; convert it with NVIDIA's legacy.py, or give the PyTorch file"
    wanted = ascii(f"{module}.{name}"[:80])[1:-1]
    return f"holds code or foreign objects ({wanted}), which are never run; give NVIDIA's own file"


def scalar_key(key: Any) -> Any:
    """A key that is cheap and safe to hash."""
    if key is not None and type(key) not in (str, int, float, bool, bytes):
        raise TypeError(f"a {type(key).__name__} as a key")
    return key
