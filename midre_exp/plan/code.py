"""Which source files a class of a config stands on, and their digest: told from the files; nothing is
imported.

A file counts by its syntax tree: comments, docstrings and layout change no digest. What is no source (an
extension module, a zip) counts by its bytes, and so does a package that was installed, as a whole.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from midre_exp.plan.config import digest
from midre_exp.plan.public_names import public_names
from midre_exp.plan.source import Module, Source, closed, source_of
from midre_exp.plan.trust import OURS, targets_of

#: What of ours carries a run out and computes no number of it.
MACHINERY = (
    *("plan", "store", "tracking", "sweep", "stages", "report", "study", "doctor", "cost"),
    *("errors", "records", "runtime", "executor", "run", "__main__"),
)
#: Top-level names that need no trust: libraries, which a manifest names by version, and ours.
_KNOWN = frozenset({*OURS, "torch", "pytorch_lightning"})
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_SUFFIXES = (
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,
)


class Sources:
    """Files as they are while it lives: each is looked at once."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str], Source] = {}
        self._closures: dict[tuple[object, ...], dict[str, Module]] = {}
        self._digests: dict[tuple[object, ...], str] = {}
        self._files = cache(_files_in)
        self._found = cache(self._find)
        self._tops = cache(_top)
        self._is_own = cache(lambda name: _is_own(self._tops(name)))

    def own(self, names: Iterable[str], trusted: Iterable[str]) -> dict[str, Module]:
        """The modules outside of ours and of libraries behind the dotted ``names``, by their labels."""
        return self._closure(tuple(sorted(set(names))), tuple(sorted({*_roots(trusted)})), ours=False)

    def all(self, names: Iterable[str], trusted: Iterable[str]) -> dict[str, Module]:
        """As ``own``, and ours behind them but for what only carries runs out."""
        looked_at = {name for name in names if name.split(".")[0] not in _KNOWN - {*OURS}}
        return self._closure(tuple(sorted(looked_at)), tuple(sorted({*_roots(trusted)})), ours=True)

    def own_code(self, config: Any, trusted: Iterable[str]) -> dict[str, str]:
        """The digest of the code behind every class, function or value outside of ours and torch's that a
        plain config names.
        """
        packages = tuple(trusted)
        names = own_names(config, packages)
        return {name: self.digest_of(self.own((name,), packages)) for name in sorted(names)}

    def code(self, names: Iterable[str], trusted: Iterable[str]) -> str:
        """The digest of all code, ours too, behind dotted ``names``."""
        place = (tuple(sorted(set(names))), tuple(sorted({*_roots(trusted)})))
        if place not in self._digests:
            self._digests[place] = self.digest_of(self.all(names, trusted))
        return self._digests[place]

    def digest_of(self, modules: Mapping[str, Module]) -> str:
        """16 hex digits of the normalised source of some modules."""
        return digest({label: self._source(module).digest for label, module in modules.items()})

    def _closure(self, names: tuple[str, ...], trusted: tuple[str, ...], *, ours: bool) -> dict[str, Module]:
        place = (names, trusted, ours)
        if place not in self._closures:
            self._closures[place] = self._walk(names, trusted, ours=ours)
        return self._closures[place]

    def _walk(self, names: Iterable[str], trusted: Collection[str], *, ours: bool) -> dict[str, Module]:
        reached: dict[str, Module] = {}
        whole: set[str] = set()
        waiting = [(name, True) for name in names]
        followed = {*trusted, *(name.split(".")[0] for name in names)} - {*OURS}
        while waiting:
            name, is_root = waiting.pop()
            if name.split(".")[0] in OURS:
                name = public_names_by_lender().get(name, name)
                if not ours or _is_machinery(name):
                    continue
            top = name.split(".")[0]
            if not (is_root or top in followed or (ours and top in OURS) or self._is_own(top)):
                continue
            path, rest = self._found(name)
            if path and top not in OURS and top not in whole and self._is_whole(path, rest):
                whole.add(top)
                path = [path[0], *self._everything_in(path[0])]
            for module in path:
                if module.name in reached or module.name == "midre_exp":
                    continue
                reached[module.name] = module
                if module.file is not None and (top in OURS or self._is_own(top)):
                    waiting += [(text, False) for text in self._source(module).imports]
        return {module.label: module for module in reached.values() if module.file is not None}

    def _find(self, name: str) -> tuple[list[Module], str]:
        """The modules on the way to a dotted name, packages first, and what is left of the name: something in
        the last of them. Nothing is imported.
        """
        first, *others = name.split(".")
        top = self._tops(first)
        if top is None:
            return [], name
        path = [top]
        for number, part in enumerate(others):
            below = self._below(path[-1], part)
            if below is None:
                return path, ".".join(others[number:])
            path.append(below)
        return path, ""

    def _below(self, package: Module, part: str) -> Module | None:
        """The submodule of that name, as Python's own finder looks for it."""
        name, namespace = f"{package.name}.{part}", []
        for folder in package.folders:
            files, place = self._files(folder), Path(folder, part)
            if part in files:
                inside = self._files(str(place))
                for suffix in _SUFFIXES:
                    if f"__init__{suffix}" in inside:
                        return Module(name, place / f"__init__{suffix}", (str(place),))
            for suffix in _SUFFIXES:
                if f"{part}{suffix}" in files:
                    return Module(name, place.with_name(f"{part}{suffix}"), ())
            if part in files and place.is_dir():
                namespace.append(str(place))
        return Module(name, None, tuple(namespace)) if namespace else None

    def _everything_in(self, package: Module) -> Iterator[Module]:
        """Every module of a package at any depth."""
        parts = {file.split(".")[0] for folder in package.folders for file in self._files(folder)}
        for part in sorted(parts - {"__init__", "__pycache__"}):
            found = self._below(package, part) if part.isidentifier() else None
            if found is not None:
                yield found
                yield from self._everything_in(found)

    def _is_whole(self, path: list[Module], rest: str) -> bool:
        """Whether more of a package may be loaded than is seen: imports are hidden, or it is a library."""
        if not self._is_own(path[0].name):
            return True
        sources = [self._source(module) for module in path if module.file is not None]
        if any(source.is_dynamic for source in sources):
            return True
        bound = sources[-1].bound if sources and path[-1].file is not None else frozenset()
        return bool(rest) and bound is not None and rest.split(".")[0] not in bound

    def _source(self, module: Module) -> Source:
        place = (str(module.file), module.name)
        if place not in self._sources:
            top = module.name.split(".")[0]
            looks_inside = top in OURS or self._is_own(top)
            self._sources[place] = source_of(module) if looks_inside else closed(module)
        return self._sources[place]


_current: ContextVar[Sources | None] = ContextVar("sources", default=None)


@contextmanager
def sources_once() -> Iterator[None]:
    """Within, every source file is looked at once: for planning many runs."""
    token = _current.set(Sources())
    try:
        yield
    finally:
        _current.reset(token)


def sources() -> Sources:
    """The files as they are now, or as they were within ``sources_once``."""
    return _current.get() or Sources()


def names_in(config: Any, trusted: Iterable[str]) -> set[str]:
    """What a plain config names: every ``_target_``, and every other dotted name in a trusted package."""
    roots = _roots(trusted)
    others = (text for text in _texts(config) if _DOTTED.fullmatch(text) and text.split(".")[0] in roots)
    return {*targets_of(config), *others}


def own_names(config: Any, trusted: Iterable[str]) -> set[str]:
    """Those of ``names_in`` that are neither ours nor torch's."""
    return {name for name in names_in(config, trusted) if name.split(".")[0] not in _KNOWN}


def code_of_classes(classes: Iterable[type]) -> dict[str, dict[str, str]]:
    """For what is cached of objects of these classes: ``{"code": digest by name}`` of those that are neither
    ours nor of a library that needs no trust, nothing where there are none.
    """
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in classes}
    own = sorted(name for name in names if name.split(".")[0] not in _KNOWN)
    found = {name: sources().digest_of(sources().own((name,), ())) for name in own}
    return {"code": found} if found else {}


@cache
def public_names_by_lender() -> dict[str, str]:
    """The full name behind every public name of ours."""
    return {public: full for full, public in public_names().items()}


def _is_machinery(name: str) -> bool:
    package, _, rest = name.partition(".")
    return package == "midre_exp" and (not rest or rest.split(".")[0] in MACHINERY)


def _roots(trusted: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in trusted}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value)


# finding


def _top(name: str) -> Module | None:
    try:
        spec = importlib.util.find_spec(name)  # of a top-level name it imports nothing
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin and spec.has_location else None
    return Module(name, file, tuple(spec.submodule_search_locations or ()))


def _files_in(folder: str) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in os.scandir(folder))
    except OSError:
        return frozenset()


@cache
def _is_library(folder: str) -> bool:
    """Whether what lies in a folder of the search path was installed there, or is Python's own."""
    path = Path(folder)
    standard = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    if path.name in ("site-packages", "dist-packages", "lib-dynload") or path.resolve() in standard:
        return True
    return path.suffix == ".zip" or any(path.glob("*.dist-info"))


def _is_own(top: Module | None) -> bool:
    """Whether a top-level module is somebody's own work beside ours: not installed, and not Python's."""
    if top is None or top.name in OURS or top.name == "hydra_plugins":
        return False
    places = [Path(folder).parent for folder in top.folders]
    if not places and top.file is not None:
        places = [top.file.parent]
    return bool(places) and not any(_is_library(str(place)) for place in places)
