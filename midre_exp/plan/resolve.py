"""Interpolations in plain containers, resolved as OmegaConf would: in a tenth of its time, because most
values of a config are none. What this does not know is left to OmegaConf (``NotKnown``).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

#: A whole value or a part of one that is what stands at a place: ``${data.root}``, ``${..epochs}``.
_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_][\w.]*)\}")
#: What stands at a place, and a word or number where there is none.
_SELECTED = re.compile(r"\$\{oc\.select:([A-Za-z_][\w.]*),(null|-?\d+|-?\d+\.\d+|[a-z_]{4,})\}")
#: A resolver of ours, whose arguments are words, numbers and what stands at places.
_CALLED = re.compile(r"\$\{[a-z_]+:(?:[\w-]+|\$\{[A-Za-z_][\w.]*\})(?:,(?:[\w-]+|\$\{[A-Za-z_][\w.]*\}))*\}")
_WORDS = {"null": None, "true": True, "false": False}
_NOTHING = object()
_SAID = "_said_"


class NotKnown(Exception):
    """A value that only OmegaConf can resolve, or refuse."""


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """The config with every interpolation in place of what it stands for. Raises ``NotKnown``."""
    return _Resolution(config).whole()


class _Resolution:
    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._waiting: set[tuple[str, ...]] = set()  # a value that stands for itself is OmegaConf's to refuse

    def whole(self) -> dict[str, Any]:
        found = self._node(self._config, ())
        assert isinstance(found, dict)
        return found

    def _node(self, node: Any, place: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {key: self._node(value, (*place, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [self._node(value, (*place, "[]")) for value in node]
        if not isinstance(node, str):
            return node
        if node == "???" or "\\" in node:
            raise NotKnown(node)
        return self._text(node, place) if "${" in node else node

    def _text(self, text: str, place: tuple[str, ...]) -> Any:
        if (match := _REFERENCE.fullmatch(text)) is not None:
            found = self._referred(match, place)
            if found is _NOTHING:
                raise NotKnown(text)
            return found
        if (match := _SELECTED.fullmatch(text)) is not None:
            found = self._at(tuple(match[1].split(".")))
            return _word(match[2]) if found is _NOTHING else found
        if _CALLED.fullmatch(text) is not None:
            return self._called(text)
        if "${" in _REFERENCE.sub("", text):
            raise NotKnown(text)
        return _REFERENCE.sub(lambda match: str(self._value(match, place)), text)

    def _value(self, match: re.Match[str], place: tuple[str, ...]) -> Any:
        """The single value that a reference within a text stands for."""
        found = self._referred(match, place)
        if found is _NOTHING or isinstance(found, dict | list):
            raise NotKnown(match.string)
        return found

    def _referred(self, match: re.Match[str], place: tuple[str, ...]) -> Any:
        dots, path = match[1], tuple(match[2].split("."))
        if "[]" in place and dots:
            raise NotKnown(match.string)
        return self._at((*place[: len(place) - len(dots)], *path) if dots else path)

    def _at(self, path: tuple[str, ...]) -> Any:
        """The resolved value at an absolute place."""
        node: Any = self._config
        for number, part in enumerate(path):
            if isinstance(node, str) and "${" in node:  # a section that stands for another
                node = self._once(node, path[:number])
            if not isinstance(node, dict):
                raise NotKnown(".".join(path))
            if part not in node:
                return _NOTHING
            node = node[part]
        return self._once(node, path)

    def _once(self, node: Any, place: tuple[str, ...]) -> Any:
        if place in self._waiting:
            raise NotKnown(".".join(place))
        self._waiting.add(place)
        try:
            return self._node(node, place)
        finally:
            self._waiting.discard(place)

    def _called(self, text: str) -> Any:
        """What a resolver says; it sees its arguments, and of the config the values at the top that are no
        sections and stand for nothing else.
        """
        seen: dict[str, Any] = {
            name: value
            for name, value in self._config.items()
            if not isinstance(value, dict) and "${" not in str(value) and "???" not in str(value)
        }
        told = {match[2]: self._value(match, ()) for match in _REFERENCE.finditer(text)}
        try:
            return _said(text, json.dumps(seen), json.dumps(told))
        except (OmegaConfBaseException, TypeError, ValueError) as error:
            raise NotKnown(text) from error


@lru_cache(maxsize=10_000)  # the jobs of a sweep share most of theirs
def _said(text: str, seen: str, told: str) -> Any:
    """What an interpolation stands for in a config of these values at its top, and of these told by place."""
    config = OmegaConf.create(json.loads(seen))
    for place, value in json.loads(told).items():
        OmegaConf.update(config, place, value, force_add=True)
    config[_SAID] = text
    OmegaConf.set_struct(config, True)  # what is not there is refused
    found = config[_SAID]
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def _word(text: str) -> Any:
    """A word or number as OmegaConf reads it."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def overridden(config: dict[str, Any], key: str, value: Any) -> None:
    """Put a plain value at a key that is there. Raises ``NotKnown`` where more than that is asked."""
    *path, name = key.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or name not in node:
        raise NotKnown(key)
    if isinstance(value, dict | list) or isinstance(node[name], dict | list):
        raise NotKnown(key)
    node[name] = value
