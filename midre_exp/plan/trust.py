"""Which classes and functions a config may name: everything between a ``_target_`` and code that runs.

A ``_target_`` is followed module by module to the object it names, and the object counts, not the text: it
must be defined in this project, in ``runtime.trusted_packages``, or be one of torch's optimisers or
schedules, and it must be of the kind that its place in the config wants. So a module that merely imports
``os`` lends nobody ``os.symlink``, and a helper function of ours is nothing that a config could call.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from midre_exp.errors import ConfigError
from midre_exp.plan.public_names import public_names

#: Top-level packages whose classes a config may name; users add theirs with
#: ``runtime.trusted_packages=[my_package]``.
OURS = ("midre_exp", "attacks", "defenses")
#: What a config may name of torch, and what it must derive from.
_TORCH = "torch.optim"
_TORCH_KINDS = ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler")

#: What a place in a config wants: a class to derive from, a type of functions, or the name of a class where
#: importing it takes torch.
Kind = object


def targets_of(node: Any) -> Iterable[str]:
    """Every ``_target_`` in a plain config, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets_of(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from targets_of(value)


def check_names(node: Any, trusted: Iterable[str] = ()) -> None:
    """Raise ConfigError for a ``_target_`` anywhere in a plain config that names another package than this
    project's, torch's or a trusted one. Nothing is imported.
    """
    allowed = (*(f"{root}." for root in (*OURS, *trusted)), f"{_TORCH}.")
    for target in targets_of(node):
        if not target.startswith(allowed):
            root = target.split(".")[0]
            only = f" ({_TORCH} is allowed)" if root == "torch" else ""
            raise ConfigError(
                f"_target_ {target} is not allowed; add runtime.trusted_packages=[{root}] if you trust that "
                f"package{only}"
            )


def check_targets(node: Any, kind: Kind, trusted: Iterable[str] = ()) -> None:
    """Raise ConfigError unless a plain node names a class of ``kind``, and every node within it one that the
    class around it takes there. Imports what is named, after looking at all names.
    """
    check_names(node, trusted)
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        shown = " ".join(str(node).split())
        raise ConfigError(f"{shown[:80]} is no {_name_of(kind)}; give a node with a _target_")
    _check(node, _imported(kind), tuple(trusted))


def check_made(made: object, target: str, kind: Kind) -> None:
    """Raise ConfigError unless what a node made is of its kind: functions of trusted packages make what they
    like.
    """
    kind = _imported(kind)
    is_class = isinstance(kind, type) and kind is not Any and not getattr(kind, "_is_protocol", False)
    if is_class and not isinstance(made, typing.cast(type, kind)):
        raise ConfigError(
            f"_target_ {target} makes a {type(made).__name__}, which does not derive from {_name_of(kind)}"
        )


def named_class(target: Any, kind: Kind, trusted: Iterable[str] = ()) -> type:
    """The class that a ``_target_`` names. Raises ConfigError for one that is not allowed, and unless it is
    of ``kind``.
    """
    check_targets({"_target_": target}, kind, trusted)
    found = _named(target, tuple(trusted))
    if not isinstance(found, type):
        raise ConfigError(f"_target_ {target} is a function; name a class that derives from {_name_of(kind)}")
    return found


def _check(node: Mapping[str, Any], wanted: Any, trusted: tuple[str, ...]) -> None:
    """``wanted``: the kind of the place, or the annotation of the argument; Any where nothing tells."""
    target = node["_target_"]
    found = _named(target, trusted)
    home = found.__module__.split(".")[0]
    foreign = home in trusted and home not in OURS
    given = frozenset(name for name in node if not name.startswith("_")) if node.get("_partial_") else None
    if not _fits(found, wanted, given, foreign=foreign):
        raise ConfigError(
            f"_target_ {target} cannot be used here; its place takes {_name_of(wanted)}, which it is not"
        )
    for argument, value in node.items():
        if argument == "_args_":
            _check_within(value, Any, trusted)
        elif not argument.startswith("_"):
            _check_within(value, _annotation(found, argument), trusted)


def _check_within(value: Any, wanted: Any, trusted: tuple[str, ...]) -> None:
    """The nodes in an argument, in whatever lists and mappings it holds them."""
    if isinstance(value, Mapping) and "_target_" in value:
        if not isinstance(value["_target_"], str):
            raise ConfigError(f"_target_ {value['_target_']} is no name of a class")
        _check(value, wanted, trusted)
    elif isinstance(value, Mapping):
        for part in value.values():
            _check_within(part, _of_elements(wanted), trusted)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _check_within(part, _of_elements(wanted), trusted)


def _named(target: str, trusted: tuple[str, ...]) -> Any:
    """The class or function of a dotted name, each hop of which is a module of the one before. Raises
    ConfigError.
    """
    if not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"_target_ {target} is no dotted name of a class, such as attacks.GMI")
    try:
        found = _followed(target)
    except ConfigError:
        raise
    except Exception as error:  # importing runs the code of a package
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot import _target_ {target}: {type(error).__name__}: {reason}") from error
    home = str(getattr(found, "__module__", ""))
    if not isinstance(found, (type, types.FunctionType)):
        raise ConfigError(f"_target_ {target} is neither a class nor a function; name a class")
    if home.split(".")[0] in (*OURS, *trusted):
        return found
    if f"{home}.".startswith(f"{_TORCH}.") and isinstance(found, type):
        if issubclass(found, tuple(map(_imported, _TORCH_KINDS))):
            return found
        raise ConfigError(f"_target_ {target} is neither an optimiser nor a schedule of torch; name one")
    raise ConfigError(
        f"_target_ {target} is defined in {home or 'no module'}, not in the package it is named by; if you "
        f"trust it, name it there and add runtime.trusted_packages=[{home.split('.')[0]}]"
    )


@functools.cache
def _followed(target: str) -> Any:
    """What a dotted name names, as Hydra would find it. Raises ConfigError where a hop leaves its package."""
    parts = target.split(".")
    found, path = import_module(parts[0]), parts[0]
    for number, part in enumerate(parts[1:], 2):
        path = f"{path}.{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(path)
        if number < len(parts) and not (isinstance(found, types.ModuleType) and found.__name__ == path):
            raise ConfigError(
                f"_target_ {target} goes through {path}, which is no module of that package; name the class "
                "where it is defined"
            )
    return found


def _imported(kind: Any) -> Any:
    """The class of a kind that is given by name."""
    if not isinstance(kind, str):
        return kind
    module, _, name = kind.rpartition(".")
    return getattr(import_module(module), name)


# -- whether an object is of a kind --


def _fits(found: Any, wanted: Any, given: frozenset[str] | None, *, foreign: bool) -> bool:
    """Whether ``found``, called with the node's arguments, gives what is ``wanted``.

    ``given``: the names of its arguments where it is not called, but handed on as a function of those that
    are missing. ``foreign``: from a package of the user's, whose word is taken where only running could tell.
    """
    if wanted is Any or isinstance(wanted, typing.TypeVar):
        return foreign or (isinstance(found, type) and _is_public(found))
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(found, one, given, foreign=foreign) for one in arguments)
    if origin is functools.partial:
        return given is not None and _fits(found, arguments[0], None, foreign=foreign)
    if origin is Callable:
        takes, result = arguments
        return _gives_function(found, takes, result, given, foreign=foreign)
    wanted = origin or wanted
    if not isinstance(wanted, type) or wanted in _PLAIN or given is not None:
        return False
    if getattr(wanted, "_is_protocol", False):
        return _has_call_of(found, wanted, foreign=foreign)
    return issubclass(found, wanted) if isinstance(found, type) else foreign


_PLAIN = (object, type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)


def _gives_function(
    found: Any, takes: Any, result: Any, given: frozenset[str] | None, *, foreign: bool
) -> bool:
    """Whether ``found`` gives a function from ``takes`` to ``result``: a class whose objects can be called
    so, or a public function that takes these beside the arguments ``given``, and is not called before.
    """
    if foreign:
        return True
    if isinstance(found, type):
        call = getattr(found, "__call__", None)  # noqa: B004  # of its objects, not of the class
        return given is None and isinstance(call, types.FunctionType) and _maps(call, [Any, *takes], result)
    return given is not None and _is_public(found) and _maps(found, list(takes), result, given)


def _maps(
    function: types.FunctionType, takes: list[Any], result: Any, given: frozenset[str] = frozenset()
) -> bool:
    """Whether a function has these types, as far as its own are known, and needs no other arguments; ``Any``
    is any.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(*[None] * len(takes), **dict.fromkeys(given))
        hints = _hints(function)
    except (TypeError, NameError):
        return False
    names = list(signature.parameters)[: len(takes)]
    pairs = zip(takes, (hints.get(name, Any) for name in names), strict=True)
    return hints.get("return") == result and all(one is Any or one == other for one, other in pairs)


def _is_public(found: Any) -> bool:
    return f"{found.__module__}.{found.__qualname__}" in public_names()


def _has_call_of(found: Any, protocol: type, *, foreign: bool) -> bool:
    """Whether objects of a class can be called as a protocol says, by its signature."""
    if foreign:
        return True
    call, wanted = (vars(one).get("__call__") for one in (found, protocol))
    call = call or getattr(found, "__call__", None)  # noqa: B004  # an inherited one
    if not isinstance(found, type) or not isinstance(call, types.FunctionType):
        return False
    ours, theirs = (list(inspect.signature(one).parameters) for one in (call, typing.cast(Any, wanted)))
    return ours == theirs and _result(call) == _result(typing.cast(types.FunctionType, wanted))


def _result(function: types.FunctionType) -> Any:
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):  # a name for type checkers alone
        return Any


def _annotation(owner: Any, argument: str) -> Any:
    """The annotation of an argument of a class or function; Any where it has none, or none that is known when
    programs run.
    """
    try:
        if isinstance(owner, type) and argument in getattr(owner, "__dataclass_fields__", {}):
            return _hints(owner).get(argument, Any)
        function = vars(owner).get("__init__", owner) if isinstance(owner, type) else owner
        return _hints(function).get(argument, Any)
    except (NameError, TypeError, AttributeError):
        return Any


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def _of_elements(wanted: Any) -> Any:
    """What a list or mapping of this annotation holds."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        within = [_of_elements(one) for one in arguments if one is not type(None)]
        return typing.Union[tuple(within)] if within else Any  # noqa: UP007  # of a list made here
    if isinstance(origin, type) and issubclass(origin, Iterable) and arguments:
        return next((one for one in reversed(arguments) if one is not Ellipsis), Any)
    return Any


def _name_of(kind: Any) -> str:
    """A kind in words."""
    if isinstance(kind, str):
        return kind
    if kind is Any:
        return "a public class of this project"
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        name = f"{kind.__module__}.{kind.__qualname__}"
        return public_names().get(name, name)
    return " ".join(str(kind).split())
