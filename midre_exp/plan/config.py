"""Reading configs: where they lie, how a node becomes an object, and how a node becomes a key."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.trust import check_made, check_targets

_PACKAGE = Path(__file__).resolve().parents[1]
#: The Hydra configs: inside the package in an installed wheel, beside it in a checkout.
CONF_DIR = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())
#: The environment variable that names a config folder of the user's own, to this process and to all that it
#: starts.
OWN_CONFIGS = "MIDRE_CONF"
T = TypeVar("T")


def use_own_configs(folder: str | None) -> None:
    """Read ``folder`` beside the packaged configs from here on (``--config-dir``); None changes nothing.
    Raises ConfigError.
    """
    if folder is not None:
        os.environ[OWN_CONFIGS] = str(Path(folder).resolve())
    own_configs()


def use_own_packages() -> None:
    """Let classes of the user's be imported from the folder the command is started in, behind our packages:
    a folder of the same name there changes nothing.
    """
    ours, here = str(_PACKAGE.parent), str(Path.cwd())
    elsewhere = [path for path in sys.path if os.path.realpath(path) != os.path.realpath(here)]
    sys.path[:] = [*([] if ours in elsewhere else [ours]), *elsewhere, here]


def own_configs() -> Path | None:
    """The user's own config folder, if there is one. Raises ConfigError when it is no folder."""
    given = os.environ.get(OWN_CONFIGS)
    if not given:
        return None
    folder = Path(given).resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"the config folder {given} (--config-dir or {OWN_CONFIGS}) is no folder; correct it"
        )
    return folder


def config_files(group: str, packaged: Path | None = None) -> dict[str, Path]:
    """The yaml of every choice of a group by name, sorted: the packaged ones, and the user's own under other
    names.
    """
    folders = [folder / group for folder in (own_configs(), packaged or CONF_DIR) if folder is not None]
    found = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return {name: found[name] for name in sorted(found)}


def read_yaml(path: Path) -> Any:
    """The content of a yaml file, interpolations as they are written. Raises ConfigError, naming the file."""
    try:
        return OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")), resolve=False)
    except Exception as error:  # the readers of yaml raise what they stumble over
        raise ConfigError(f"{path} cannot be read as yaml: {' '.join(str(error).split())}") from error


def plain(node: Any) -> Any:
    """A config node as plain dictionaries, lists and values, interpolations resolved; missing values (???)
    are a ConfigError.
    """
    if not isinstance(node, (DictConfig, ListConfig)):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (MissingMandatoryValue, InterpolationToMissingValueError) as error:
        names = sorted(_missing(OmegaConf.to_container(node, resolve=False)))
        raise ConfigError(
            f"the config needs a value for {', '.join(names)}; give it as {names[0]}=VALUE"
        ) from error


def _missing(node: Any, path: str = "") -> Iterable[str]:
    """The keys whose value is ???."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _missing(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _missing(value, f"{path}.{index}")
    elif node == "???":
        yield path


def digest(value: Any) -> str:
    """16 hex digits that identify a plain value: SHA-256 of its canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping without some of its keys."""
    return {key: value for key, value in node.items() if key not in keys}


@overload
def build(node: Any, *args: Any, kind: type[T], trusted: Iterable[str] = (), **kwargs: Any) -> T: ...


@overload
def build(node: Any, *args: Any, kind: object = ..., trusted: Iterable[str] = ..., **kwargs: Any) -> Any: ...


def build(node: Any, *args: Any, kind: object = Any, trusted: Iterable[str] = (), **kwargs: Any) -> Any:
    """Instantiate a config node by its ``_target_``, which must be of ``kind``: a class, a type of
    functions, or the name of either where importing it takes torch; Any: a public class of this project.

    Instantiating runs code, so what a node may name is checked first (midre_exp/plan/trust.py); ``trusted``:
    the user's ``runtime.trusted_packages``. Raises ConfigError naming the target when it is not allowed, not
    importable, of another kind, or given unknown arguments.
    """
    import hydra.utils
    from hydra.errors import InstantiationException

    node = plain(node)
    check_targets(node, kind, trusted)
    try:
        made = hydra.utils.instantiate(node, *args, _convert_="all", **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        reason = " ".join(str(error.__cause__ or error).split())
        given = ", ".join(
            f"{k}={v!r}" for k, v in node.items() if not k.startswith("_") and not isinstance(v, (dict, list))
        )
        raise ConfigError(
            f"cannot build {node.get('_target_', node)} with {given or 'no values'}: {reason}"
        ) from error
    check_made(made, node["_target_"], kind)
    return made


#: Packages of the user's own whose classes a config may name.
Trusted = tuple[str, ...]
#: A resolved config, as plain containers.
Settings = Mapping[str, Any]


def trusted_packages(settings: Settings) -> Trusted:
    """The packages of the user's own whose classes a config may name."""
    return tuple(settings["runtime"]["trusted_packages"])


def texts_below(place: str, node: Any) -> Iterator[tuple[str, str]]:
    """Every text in a plain mapping below the key ``place``, with its own key."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from texts_below(f"{place}.{key}", value)
