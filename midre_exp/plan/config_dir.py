"""What a config folder of one's own may hold: choices of a run, but nothing that Hydra itself carries out.

Hydra instantiates callbacks, launchers and sweepers before anything of a run is looked at, and takes
environment variables and search paths from the same node. So the files of a folder are read, and what they
would put there is refused, before Hydra starts. Trust is given on the command line, never by the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from midre_exp.errors import ConfigError
from midre_exp.plan.config import own_configs, read_yaml
from midre_exp.plan.trust import targets_of

#: Folders of definitions that Hydra never composes.
_NOT_COMPOSED = ("table", "figure", "dashboard", "card")
#: Where a user's own choice of how jobs are launched lies; it is named on the command line.
_LAUNCHER = "hydra/launcher"
_PLUGINS = ("hydra_plugins", "hydra")
_PACKAGE = re.compile(r"#\s*@package\s+(\S+)")
_HYDRA = re.compile(r"(^|[/@.\s])hydra($|[/@.:\s])")
#: Flags of Hydra that replace the packaged configs, or unpickle a file.
_REPLACING = ("--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun")


def check_command(arguments: Sequence[str]) -> None:
    """Raise ConfigError for a flag or key by which Hydra would read other configs than the packaged ones and
    those of ``--config-dir``, and for a folder of one's own that holds what only Hydra carries out.
    """
    for text in arguments:
        if text.split("=")[0] in _REPLACING:
            raise ConfigError(
                f"{text.split('=')[0]} is not taken here; give configs of your own by --config-dir"
            )
        if text.lstrip("+~").startswith("hydra.searchpath"):
            raise ConfigError("hydra.searchpath is not taken here; give configs of your own by --config-dir")
    folder = own_configs()
    if folder is not None:
        check_folder(folder, _trusted(arguments))


def check_folder(folder: Path, trusted: Sequence[str]) -> None:
    """Raise ConfigError for a yaml of ``folder`` that sets something of Hydra's own: a ``_target_`` outside
    of ``trusted``, any other key, another choice of launcher; or that trusts a package.
    """
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix()
        if group.split("/")[0] in _NOT_COMPOSED:
            continue
        content = read_yaml(path)
        if isinstance(content, Mapping):
            _check_file(path, group, _package(path.read_text(encoding="utf-8"), group), content, trusted)


def _check_file(
    path: Path, group: str, package: str, content: Mapping[str, Any], trusted: Sequence[str]
) -> None:
    for default in _defaults(content.get("defaults")):
        chosen = default.rpartition(":")[0] if ":" in default else default
        if _HYDRA.search(chosen) or "${" in chosen:
            raise ConfigError(
                f"{path} chooses for Hydra ({default}), which a config folder may not; give it on the "
                "command line"
            )
    placed = {key: value for key, value in content.items() if key != "defaults"}
    for segment in reversed([] if package == "_global_" else package.split(".")):
        placed = {segment: placed}
    runtime = placed.get("runtime")
    if isinstance(runtime, Mapping) and "trusted_packages" in runtime:
        raise ConfigError(
            f"{path} sets runtime.trusted_packages, which a config folder may not; give it on the command "
            "line"
        )
    own = placed.get("hydra")
    if own is None and "hydra" not in content:
        return
    launcher = group == _LAUNCHER and package == "hydra.launcher"
    known = (*trusted, *(_PLUGINS if launcher else ()))
    for target in targets_of([own, content.get("hydra")]):
        if target.split(".")[0] not in known:
            raise ConfigError(
                f"{path} lets Hydra call {target} (hydra.*), which a config folder may not; add "
                f"runtime.trusted_packages=[{target.split('.')[0]}] if you trust that package"
            )
    if not launcher and (key := next(_untargeted(own, "hydra"), None)):
        raise ConfigError(f"{path} sets {key}, which a config folder may not; give it on the command line")


def _package(text: str, group: str) -> str:
    """Where the keys of a file go: what its header says, else its group."""
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        if found := _PACKAGE.search(line):
            named = found.group(1).removeprefix("_global_.")
            return group.replace("/", ".") if named == "_group_" else named
    return "_global_" if group == "." else group.replace("/", ".")


def _defaults(node: Any) -> Iterator[str]:
    """The entries of a defaults list as text: ``GROUP: NAME`` or ``NAME``."""
    for entry in node if isinstance(node, list) else []:
        if isinstance(entry, Mapping):
            yield from (f"{key}: {value}" for key, value in entry.items())
        else:
            yield str(entry)


def _untargeted(node: Any, path: str) -> Iterator[str]:
    """Every key below ``node`` that is not of something with a ``_target_``."""
    if isinstance(node, Mapping) and node and "_target_" not in node:
        for key, value in node.items():
            yield from _untargeted(value, f"{path}.{key}")
    elif not isinstance(node, Mapping):
        yield path


def _trusted(arguments: Sequence[str]) -> list[str]:
    """What the command line says of ``runtime.trusted_packages``; mistakes in it are told elsewhere."""
    trusted: list[str] = []
    for text in arguments:
        if text.lstrip("+").startswith("runtime.trusted_packages="):
            try:
                value = OverridesParser.create().parse_override(text).value()
            except HydraException:
                continue
            trusted = [str(name) for name in value] if isinstance(value, list) else []
    return trusted
