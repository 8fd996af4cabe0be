"""What one source file says: the digest of its syntax tree, what it imports and which names it binds. Nothing
is imported.

What is no source (an extension module, a zip) counts by its bytes.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.plan.answers import answer
from midre_exp.store.files import Stamp, is_settled, known_sha256, stamp

#: Names by which a module may import what nobody sees in its import statements.
_DYNAMIC = frozenset(
    {
        *("import_module", "__import__", "exec_module", "load_module", "spec_from_file_location"),
        *("attach", "attach_stub", "resolve_name", "iter_modules", "walk_packages", "run_path", "run_module"),
    }
)
_EXECUTING = frozenset({"exec", "eval"})


class Module(NamedTuple):
    """A module that was found; ``file`` None: a namespace package, which has none."""

    name: str
    file: Path | None
    folders: tuple[str, ...]  # where its submodules lie; empty for one that is no package

    @property
    def label(self) -> str:
        """Its file below the folder it is imported from, such as ``mylab/smoothing.py``."""
        assert self.file is not None
        place = self.name.replace(".", "/")
        return f"{place}/{self.file.name}" if self.folders else f"{place}{self.file.suffix}"


class Source(NamedTuple):
    """What one file says."""

    digest: str
    imports: tuple[str, ...]  # dotted names, of modules or of something in one
    bound: frozenset[str] | None  # names it defines; None where these cannot be told
    is_dynamic: bool


_read: dict[tuple[str, str], tuple[Stamp, Source]] = {}  # by file and module


def normalised(text: bytes | str) -> str:
    """64 hex digits of a source without comments, docstrings and layout, the same in every Python that can
    read it. Raises SyntaxError or ValueError for what is no source, RecursionError for one too deep.
    """
    return _tree_digest(ast.parse(text))


def closed(module: Module) -> Source:
    """A file of an installed package by its bytes."""
    assert module.file is not None
    try:
        return Source(known_sha256(module.file), (), None, False)
    except OSError:
        return source_of(module)


def source_of(module: Module) -> Source:
    """What the file of a module says, read once for as long as it does not change."""
    assert module.file is not None
    place = (str(module.file), module.name)
    try:
        now = stamp(module.file)
    except OSError:  # in a zip, or just removed
        archive = next((folder for folder in module.file.parents if folder.is_file()), None)
        return Source(known_sha256(archive) if archive else "absent", (), None, False)
    known = _read.get(place)
    if known is not None and known[0] == now:
        return known[1]
    source = _parse(module, module.file)
    if is_settled(now):
        _read[place] = (now, source)
    return source


def _parse(module: Module, file: Path) -> Source:
    content = file.read_bytes()
    raw = Source(hashlib.sha256(content).hexdigest(), (), None, False)
    if file.suffix != ".py":
        return raw

    def read() -> list[Any]:
        source = _parsed(module, content) or raw
        bound = None if source.bound is None else sorted(source.bound)
        return [source.digest, list(source.imports), bound, source.is_dynamic]

    made, imports, bound, dynamic = answer(
        ["source", raw.digest, module.name, bool(module.folders)], read, ()
    )
    return Source(made, tuple(imports), None if bound is None else frozenset(bound), dynamic)


def _parsed(module: Module, content: bytes) -> Source | None:
    """What a source says; None for what is none, of which whoever imports it tells."""
    try:
        tree = ast.parse(content)
        made = _tree_digest(tree)
    except (SyntaxError, ValueError, RecursionError):
        return None
    package = module.name if module.folders else module.name.rpartition(".")[0]
    imports: dict[str, None] = {}
    aliases: dict[str, str] = {}
    dynamic, nodes = False, list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports[alias.name] = None
                aliases[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            imports[base] = None
            for alias in node.names:
                if alias.name != "*":
                    imports[f"{base}.{alias.name}"] = None
                    aliases[alias.asname or alias.name] = f"{base}.{alias.name}"
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            dynamic |= name in _DYNAMIC or (isinstance(node, ast.Name) and name in _EXECUTING)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called, given = node.func, node.args[0].value
            function = getattr(called, "id", getattr(called, "attr", ""))
            if function in ("import_module", "__import__") and isinstance(given, str):
                imports[f"{package}{given}" if given.startswith(".") else given] = None
    for node in nodes:  # what is read of a package that lends names
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            imports[f"{aliases[node.value.id]}.{node.attr}"] = None
    bound = _bound(nodes)
    dynamic |= bound is not None and "__getattr__" in bound
    return Source(made, tuple(imports), bound, dynamic)


def _base(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of the module that ``from ... import`` names."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _bound(nodes: Iterable[ast.AST]) -> frozenset[str] | None:
    """The names that a module binds; None where a star import binds more."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            if any(alias.name == "*" for alias in node.names):
                return None
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


def _tree_digest(tree: ast.AST) -> str:
    words: list[str] = []
    _write(tree, words.append)
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()


def _write(node: ast.AST, say: Callable[[str], None]) -> None:
    """A tree as words. Fields that are empty say nothing: newer Pythons have more of them."""
    say(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == [] or name == "type_comment":
            continue
        say(name)
        for part in value if isinstance(value, list) else (value,):
            if not isinstance(part, ast.AST):
                say(repr(part))
            elif not _is_text(part):
                _write(part, say)
        say(")")


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is only text, such as a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
