"""Composing thousands of configs: what Hydra would make of each list of overrides, at a hundredth of its
time.

Hydra reads and merges some thirty files for every job. Jobs of a sweep share most of them, so here Hydra
composes once per distinct choice of groups, and of the defenses once alone; values such as ``seed=1`` are
then laid over a copy. Whatever is not plainly of this kind goes to Hydra itself, and a job that starts
composes with Hydra again and compares keys, so a difference could never go unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from midre_exp.plan.config import plain

#: The group whose content depends on no other choice and on which no other choice depends: every job of a
#: sweep has another.
_APART = "defense"
_REFERENCE = re.compile(r"\$\{(\.*)([\w.]+)\}")
_Path = tuple[Any, ...]
_SCALARS = (bool, int, float, str, type(None))


class Composer:
    """Resolved settings of jobs. ``compose`` is Hydra's: overrides to a config without the node ``hydra``;
    ``is_group`` tells whether a name before ``=`` is a config group. What it has read it remembers, so use
    one for one sweep.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig], is_group: Callable[[str], bool]):
        self._compose, self._is_group = compose, is_group
        self._parser = OverridesParser.create()
        self._groups: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], dict[str, Any]] = {}

    def settings(self, job: Sequence[str]) -> dict[str, Any]:
        """The resolved config of one job, as plain containers. Raises what Hydra raises, and ConfigError for
        missing values.
        """
        try:
            return self._quickly(job)
        except _NotPlain:
            settings: dict[str, Any] = plain(self._compose(list(job)))
            return settings

    def _quickly(self, job: Sequence[str]) -> dict[str, Any]:
        chosen, apart, values = self._sorted(job)
        settings = deepcopy(self._unresolved(chosen))
        if apart:
            settings[_APART] = deepcopy(self._unresolved(apart)[_APART])
        for override in values:
            _set(settings, override.key_or_group.split("."), override.value())
        return _Resolver(settings).resolved()

    def _sorted(self, job: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], list[Override]]:
        """The choices of groups, that of the group apart, and the values of a job."""
        chosen, apart, values = [], [], []
        for text, override in zip(job, self._parser.parse_overrides(list(job)), strict=True):
            name = override.key_or_group
            # how jobs are launched, e.g. hydra.launcher.partition=gpu, is no part of their configs
            if name.startswith("hydra."):
                continue
            if (
                override.type is not OverrideType.CHANGE
                or override.is_sweep_override()
                or override.package is not None
            ):
                raise _NotPlain
            if name not in self._groups:
                self._groups[name] = self._is_group(name)
            if not self._groups[name]:
                values.append(override)
            elif name == _APART:
                apart = [text]  # the last one wins
            else:
                chosen.append(text)
        return tuple(chosen), tuple(apart), values

    def _unresolved(self, groups: tuple[str, ...]) -> dict[str, Any]:
        if groups not in self._composed:
            content: Any = OmegaConf.to_container(self._compose(list(groups)), resolve=False)
            self._composed[groups] = content
        return self._composed[groups]


class _NotPlain(Exception):
    """A job that is left to Hydra."""


def _set(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Replace an existing value by a scalar or a list of them."""
    node: Any = settings
    for name in path[:-1]:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or path[-1] not in node:
        raise _NotPlain  # Hydra knows how to say it
    scalar = isinstance(value, _SCALARS)
    if not scalar and not (isinstance(value, list) and all(isinstance(part, _SCALARS) for part in value)):
        raise _NotPlain
    if type(value) not in (*_SCALARS, list):
        value = str(value)  # a quoted string
    node[path[-1]] = value


class _Resolver:
    """Follows ``${a.b}``, ``${.b}`` and ``${..b}`` through a tree of dicts and lists; of anything further
    Hydra takes care.
    """

    def __init__(self, root: dict[str, Any]):
        self._root = root

    def resolved(self) -> dict[str, Any]:
        """The tree without interpolations, sharing nothing."""
        settings: dict[str, Any] = self._walk(self._root, (), ())
        return settings

    def _walk(self, node: Any, place: _Path, followed: tuple[_Path, ...]) -> Any:
        if isinstance(node, dict):
            return {key: self._walk(value, (*place, key), followed) for key, value in node.items()}
        if isinstance(node, list):
            return [self._walk(value, (*place, at), followed) for at, value in enumerate(node)]
        if not isinstance(node, str) or ("${" not in node and node != "???"):
            return node
        return self._follow(node, place, followed)

    def _follow(self, text: str, place: _Path, followed: tuple[_Path, ...]) -> Any:
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return self._fill_in(text, place, followed)
        dots, names = len(match[1]), match[2].split(".")
        start = place[: len(place) - dots] if dots else ()
        path = (*start, *names)
        if path in followed or dots > len(place):
            raise _NotPlain
        node: Any = self._root
        for name in path:
            if isinstance(node, str) and "${" in node:  # on the way: what it stands for
                raise _NotPlain
            if (isinstance(node, Mapping) and name in node) or (
                isinstance(node, list) and isinstance(name, int)
            ):
                node = node[name]
            else:
                raise _NotPlain
        return self._walk(node, path, (*followed, path))

    def _fill_in(self, text: str, place: _Path, followed: tuple[_Path, ...]) -> str:
        """A text with references in it."""

        def value(match: re.Match[str]) -> str:
            found = self._follow(match[0], place, followed)
            if not isinstance(found, (str, int)) or isinstance(found, bool):
                raise _NotPlain
            return str(found)

        filled = _REFERENCE.sub(value, text)
        if "${" in filled or "\\" in text or text == "???":
            raise _NotPlain
        return filled
