"""From an exception to one sentence that names the key, value or file and the remedy."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.compose import Composer, packaged_configs
from midre_exp.plan.config import CONF_DIR, config_files
from midre_exp.plan.help import GROUPS

_FOLDERS = "paths.store, paths.runs and paths.results"


def explain(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """One sentence for a mistake the user can mend; ``overrides`` are what the user typed."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OSError):
        return _os_error(error)
    text = one_line(str(error))
    unknown = re.search(r"Could not override '([^']+)'", text)
    if isinstance(error, ConfigCompositionException) and unknown:
        key, missing = unknown.group(1), getattr(error.__cause__, "full_key", None)
        if missing and str(missing).startswith(f"{key}."):
            return _missing_in_node(key, str(missing))
        return _unknown_group(key) or _unknown_key(key, overrides)
    cause = error.__cause__
    return f"{text}: {one_line(str(cause))}" if cause is not None else text


def settings_of_job(composer: Composer, job: Sequence[str]) -> dict[str, Any]:
    """The resolved settings of one job of a sweep. Raises ConfigError for what is wrong with that job."""
    try:
        return composer.settings(job)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, job)) from error


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())


def _missing_choice(error: MissingConfigException) -> str:
    wanted = str(error.missing_cfg_file or "")
    group, _, name = wanted.rpartition("/")
    if not group:
        unknown_group = re.search(r"(?:in group|override) '?([\w@./]+)'?", one_line(str(error)))
        return (
            one_line(str(error))
            if unknown_group is None
            else one_line(str(error)).rstrip(".") + "; see --help for all groups"
        )
    options = sorted(error.options or config_files(group))
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"{group}={name} does not exist (there is no conf/{group}/{name}.yaml); {hint}"
        f"choices: {', '.join(options)}"
    )


def _missing_in_node(key: str, missing: str) -> str:
    """What to say of ``KEY={...}`` with a key in it that the node has not."""
    return (
        f"{key}={{...}} is laid over the keys of {key} and {missing} is none of them; add it as "
        f"+{missing}=VALUE, or give another {key} in a yaml of your own (--config-dir)"
    )


def _unknown_group(key: str) -> str | None:
    """What to say of a key that is meant for a nested group; None when it is none."""
    name = key.partition("@")[0].rpartition("/")[2]
    typed = [group for group in GROUPS if "/" in group and group.partition("@")[0].endswith(f"/{name}")]
    if not typed:
        return None
    return (
        f"there is no group {key} among the chosen options; use {' or '.join(f'{t}=OPTION' for t in typed)}"
    )


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    choices = [text for text in overrides if (CONF_DIR / re.split("[@=]", text)[0]).is_dir()]
    group, _, option = key.partition(".")
    part = option.partition(".")[0]
    if group == "defense" and part:
        fitting = [name for name in config_files("defense") if part in _nodes_of("defense", name)]
        given = {name for text in overrides for name in re.split(r"[=,\[\] ]", text)[1:]}
        if fitting and not given & set(fitting):
            return f"there is no {key} without that defense; add defense={' or defense='.join(fitting)}"
    try:
        with packaged_configs():
            known = sorted(_keys(compose("config", overrides=choices)))
    except HydraException:  # a choice that is swept or wrong as well: suggest from the default choices
        with packaged_configs():
            known = sorted(_keys(compose("config")))
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "list all keys with --cfg job"
    chosen = next((text for text in reversed(choices) if text.partition("=")[0] == group), None)
    where = f"{chosen} has no key {key}" if chosen else f"there is no config key {key}"
    return f"{where} among the chosen options; {hint}" if not chosen else f"{where}; {hint}"


def _nodes_of(group: str, name: str) -> set[str]:
    """The keys that a choice fills."""
    return {str(key) for key in OmegaConf.load(config_files(group)[name])} - {"defaults"}


def _keys(node: DictConfig, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key in node:
        path = f"{prefix}{key!s}"
        found.add(path)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_interpolation() and not child._is_none():
            found |= _keys(child, f"{path}.")
    return found


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    remedy = {
        errno.ENOSPC: f"the disk is full; free space or set {_FOLDERS} to another disk",
        errno.EDQUOT: f"the disk quota is used up; free space or set {_FOLDERS} elsewhere",
        errno.EROFS: f"the file system is read-only; set {_FOLDERS} to a folder you can write",
        errno.EACCES: _forbidden(error),
        errno.ENOTDIR: "a file stands where a folder is needed; move it away or set another path",
        errno.EISDIR: "a folder stands where a file is needed; move it away or set another path",
        errno.EEXIST: "a file stands where a folder is needed; move it away or set another path",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"{where}{remedy}"


def _forbidden(error: OSError) -> str:
    """What to say of a place that may not be written, or not even read."""
    name = error.filename
    if isinstance(name, str) and os.path.exists(name) and not os.access(name, os.R_OK):  # noqa: PTH110
        return (
            f"you may not read this; ask its owner for permission (chmod g+rX), or set {_FOLDERS} elsewhere"
        )
    return f"permission denied; set {_FOLDERS} to a folder you can write"
