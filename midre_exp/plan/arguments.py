"""Whether a value fits the annotation of what it is given to: a type, perhaps with a ``Range``; and whether a
config node gives its ``_target_`` what that takes.

Annotations that say nothing testable (tensors, types of other people's that cannot be resolved) accept
everything. Torch is loaded only by the classes that a config names.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import inspect
import math
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import hydra.utils

from midre_exp.plan.ranges import NotEmpty, Range
from midre_exp.plan.trust import check_targets

#: Keys of a node that say how it is made, and are no arguments.
_HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)


_LIMITS = (Range, NotEmpty)
_WORDS: dict[Any, str] = {
    None: "null",
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


class Fault(NamedTuple):
    """A value that cannot be used: its key, and one sentence or, in ``wanted``, what would fit."""

    key: str
    value: Any
    wanted: str
    sentence: str = ""

    def __str__(self) -> str:
        return self.sentence or f"{self.key}={shown(self.value)} cannot be used; give {self.wanted}"


class Option(NamedTuple):
    """One argument of a class or function: the type of its values, and whether it has to be given."""

    hint: Any
    required: bool
    default: Any = inspect.Parameter.empty


class Options(NamedTuple):
    """The arguments of a class or function by name, and the type of further ones, if it takes any."""

    named: dict[str, Option]
    others: Option | None


#: Packages of the user's own whose classes may be named.
_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


@contextmanager
def trusting(packages: Iterable[str]) -> Iterator[None]:
    """Within, nodes may name classes of these packages."""
    token = _trusted.set(tuple(packages))
    try:
        yield
    finally:
        _trusted.reset(token)


class Keys:
    """Base of dataclasses that say what keys a config node without a ``_target_`` has; those with a default
    may be missing. ``others``: the type of further keys, None where there are none.
    """

    others: ClassVar[Any] = None


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """Marks a mapping that has to name a ``_target_`` of a ``kind``, the name of a class. ``own``: arguments
    that the engine gives it; ``also``: types of arguments whose own annotations say less; ``beside``: keys
    that are read by others, which may be missing if they may be null.
    """

    kind: str
    own: tuple[str, ...] = ()
    also: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] | None = None


def shown(value: Any) -> str:
    """A value as a yaml has it, shortened; a text that looks like something else in quotes."""
    text = _yaml(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f'"{value}"' if _looks_like_another_type(value) else value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


def _looks_like_another_type(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("", "true", "false", "null", "yes", "no", "on", "off")
    return True


# -- values --


def fault(value: Any, hint: Any, key: str) -> Fault | None:
    """What is wrong with a value for a type; None when it fits."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated_fault(value, hint, key)
    if origin in (Union, types.UnionType):
        return _union_fault(value, hint, key)
    kind = origin or hint
    if isinstance(value, Mapping) and "_target_" in value:  # of what kind it is: ``trust.check_targets``
        plain = kind in (*_WORDS, *_LISTS, Literal)
        return Fault(key, value, wanted(hint)) if plain else node_fault(value, key)
    if origin is Literal:
        fits = any(type(value) is type(word) and value == word for word in parts)
        return None if fits else Fault(key, value, wanted(hint))
    if typing.is_typeddict(kind) or _is_keys(kind):
        if not isinstance(value, Mapping):
            return Fault(key, value, f"a mapping of {', '.join(options_of(kind).named)}")
        return arguments_fault(value, options_of(kind), key)
    if kind in _LISTS:
        return _list_fault(value, hint, key)
    if kind in _MAPPINGS:
        if not isinstance(value, Mapping):
            return Fault(key, value, wanted(hint))
        return _each(value.items(), parts[1] if len(parts) == 2 else Any, key)
    if kind is Any and isinstance(value, (Mapping, list)):  # nodes in it are made all the same
        return _each(value.items() if isinstance(value, Mapping) else enumerate(value), Any, key)
    return None if _is_plain(value, kind) else Fault(key, value, wanted(hint))


def _annotated_fault(value: Any, hint: Any, key: str) -> Fault | None:
    kind, *limits = get_args(hint)
    node = next((limit for limit in limits if isinstance(limit, Node)), None)
    if node is not None:
        if not isinstance(value, Mapping) or not isinstance(value.get("_target_"), str):
            return Fault(key, value, wanted(hint))
        return node_fault(value, key, node)
    found = fault(value, kind, key)
    outside = not found and any(isinstance(limit, _LIMITS) and value not in limit for limit in limits)
    return Fault(key, value, wanted(hint)) if outside or (found and not found.sentence) else found


def _union_fault(value: Any, hint: Any, key: str) -> Fault | None:
    faults = [fault(value, part, key) for part in get_args(hint)]
    if not all(faults):
        return None
    deeper = [found for found in faults if found and (found.key != key or found.sentence)]
    return deeper[0] if deeper else Fault(key, value, wanted(hint))


def _each(values: Iterable[tuple[Any, Any]], hint: Any, key: str) -> Fault | None:
    return next((found for name, value in values if (found := fault(value, hint, f"{key}.{name}"))), None)


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain type, or of one of which nothing is known."""
    if kind in (None, type(None)):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return type(value) is int
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in (str, Path):
        return isinstance(value, str)
    return kind in (Any, object) or not isinstance(kind, type) or _is_foreign(kind)


def _list_fault(value: Any, hint: Any, key: str) -> Fault | None:
    parts = get_args(hint)
    fixed = get_origin(hint) is tuple and Ellipsis not in parts
    if not isinstance(value, (list, tuple)) or (fixed and len(value) != len(parts)):
        return Fault(key, value, wanted(hint))
    inner = parts if fixed else [parts[0] if parts else Any] * len(value)
    for number, (entry, kind) in enumerate(zip(value, inner, strict=True)):
        found = fault(entry, kind, f"{key}.{number}")
        if found is not None:
            itself = found.key == f"{key}.{number}" and not found.sentence
            return Fault(key, value, wanted(hint)) if itself else found
    return None


# -- words --


def wanted(hint: Any) -> str:
    """What values a type has, as in "give ...", e.g. "a whole number from 1, or null"; empty for a type that
    accepts everything.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if any(isinstance(part, Node) for part in parts):
            return "a mapping with a _target_"
        limits = " and ".join(str(part) for part in parts[1:] if isinstance(part, _LIMITS))
        return f"{wanted(parts[0])} {limits}".rstrip()
    if origin in (Union, types.UnionType):
        told = list(dict.fromkeys(filter(None, map(wanted, parts))))
        return ", or ".join(told)
    if origin is Literal:
        words = [shown(part) for part in parts]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    kind = origin or hint
    if kind in _LISTS:
        return _wanted_list(hint)
    if kind in _MAPPINGS or typing.is_typeddict(kind) or _is_keys(kind):
        return "a mapping of names to values"
    if kind is collections.abc.Callable or (isinstance(kind, type) and kind in (partial, types.FunctionType)):
        return "a node whose _target_ makes a function"
    if kind in _WORDS:
        return _WORDS[kind]
    if isinstance(kind, type) and kind not in (Any, object) and not _is_foreign(kind):
        return f"a node whose _target_ makes a {kind.__name__}"
    return ""


def _wanted_list(hint: Any) -> str:
    parts = get_args(hint)
    if get_origin(hint) is tuple and Ellipsis not in parts and parts:
        each = list(dict.fromkeys(map(wanted, parts)))
        inner = f", each {each[0]}" if len(each) == 1 and each[0] else f": {', '.join(each)}"
        return f"a list of {len(parts)} values{inner}"
    inner = wanted(parts[0]) if parts else ""
    return f"a list, each entry {inner}" if inner else "a list"


def _is_foreign(kind: type) -> bool:
    """Whether a class may be made of other values than nodes: devices of torch, and the like. Of a tensor no
    value in a config is one.
    """
    return kind.__module__.split(".")[0] in ("torch", "numpy", "builtins") and kind.__name__ != "Tensor"


# -- nodes --


def node_fault(node: Mapping[str, Any], key: str, marked: Node | None = None) -> Fault | None:
    """What is wrong with the arguments of a node's ``_target_``. Raises ConfigError for one that is not
    trusted, or not of the kind that is wanted.
    """
    target = str(node["_target_"])
    if marked is None:  # within another, with which it was looked at
        marked = Node("")
    else:
        arguments = {name: value for name, value in node.items() if name not in (marked.beside or ())}
        check_targets(arguments, marked.kind, _trusted.get())
    options = options_of(_found(target))
    named = {name: option for name, option in options.named.items() if name not in marked.own}
    for name, hint in (marked.also or {}).items():
        if name in named:
            named[name] = named[name]._replace(hint=hint)
    for name, hint in (marked.beside or {}).items():
        named[name] = Option(hint, required=type(None) not in get_args(hint))
    if node.get("_partial_") or node.get("_args_"):  # the rest is given later, or before
        named = {name: option._replace(required=False) for name, option in named.items()}
    given = {name: value for name, value in node.items() if name not in _HYDRA_KEYS}
    return arguments_fault(given, Options(named, options.others), key, _short(target))


def arguments_fault(given: Mapping[str, Any], options: Options, key: str, taker: str = "") -> Fault | None:
    """What is wrong with values by name; ``taker``: what they are given to."""
    place = f"{key}." * bool(key)
    for name in given:
        if name not in options.named and options.others is None:
            close = difflib.get_close_matches(str(name), options.named, n=1)
            hint = f"did you mean {place}{close[0]}? " if close else ""
            known = f"{taker or key or 'a run'} takes {', '.join(options.named) or 'no option'}"
            return Fault(key, given, "", f"{place}{name} is read by nothing; {hint}{known}")
    for name, option in options.named.items():
        if option.required and name not in given:
            told = f"{place}{name} is missing; give it as ++{place}{name}={_example(option.hint)}"
            return Fault(key, given, "", told)
    further = [name for name in given if name not in options.named]
    for name in (*(name for name in options.named if name in given), *further):
        takes = options.named.get(name) or options.others
        if takes is not None and not _is_default(given[name], takes):
            found = fault(given[name], takes.hint, f"{place}{name}")
            if found is not None and (found.sentence or found.wanted):
                return found
    return None


def _example(hint: Any) -> str:
    return f"VALUE, {wanted(hint)}" if wanted(hint) else "VALUE"


def _is_default(value: Any, option: Option) -> bool:
    """Whether a value is what the argument is without it: fine, whatever its annotation says."""
    return type(value) is type(option.default) and bool(value == option.default)


def _short(target: str) -> str:
    return target.rpartition(".")[2]


@cache
def _found(target: str) -> Any:
    return hydra.utils.get_object(target)


@cache
def options_of(target: Any) -> Options:
    """The arguments of a class or function with their types."""
    if typing.is_typeddict(target):
        required: frozenset[str] = target.__required_keys__
        hints = typing.get_type_hints(target, include_extras=True)
        return Options({name: Option(hint, name in required) for name, hint in hints.items()}, None)
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # of C code, which tells none
        return Options({}, Option(Any, required=False))
    known: dict[str, Option] = {}
    others = getattr(target, "others", None) if _is_keys(target) else None
    further = None if others is None else Option(others, required=False)
    hints = dict(_hints(target))
    for name, parameter in parameters.items():
        hint = hints.get(name, parameter.annotation)
        hint = Any if hint is parameter.empty or isinstance(hint, str) else hint
        if parameter.kind is parameter.VAR_KEYWORD:
            further = Option(hint, required=False)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            known[name] = Option(hint, parameter.default is parameter.empty, parameter.default)
    return Options(known, further)


def _is_keys(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Keys)


def _hints(target: Any) -> Iterator[tuple[str, Any]]:
    """Each annotation of the arguments, evaluated where it was written; those that cannot be are left out."""
    if isinstance(target, type):
        maker = next((kind for kind in target.__mro__ if "__init__" in vars(kind)), object)
        if "__dataclass_params__" in vars(maker) and vars(maker)["__dataclass_params__"].init:
            for kind in reversed(maker.__mro__):
                yield from _evaluated(
                    vars(kind).get("__annotations__", {}), vars(sys.modules[kind.__module__])
                )
            return
        target = vars(maker)["__init__"]
    function = inspect.unwrap(target)
    yield from _evaluated(getattr(function, "__annotations__", {}), getattr(function, "__globals__", {}))


def _evaluated(annotations: Mapping[str, Any], names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, annotation in annotations.items():
        try:
            one = SimpleNamespace(__annotations__={name: annotation})
            yield name, get_type_hints(one, names, include_extras=True)[name]
        except Exception:  # a name that exists for type checkers alone
            continue
