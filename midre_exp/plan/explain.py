"""From an exception to one sentence that names the key, value or file and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Sequence

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig

from midre_exp.errors import UserError


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
        return _unknown_key(unknown.group(1), overrides)
    cause = error.__cause__
    return f"{text}: {one_line(str(cause))}" if cause is not None else text


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
    from midre_exp.plan.config import config_files

    options = sorted(error.options or config_files(group))
    close = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{group}={name} does not exist (there is no conf/{group}/{name}.yaml); {hint}choices: {', '.join(options)}"


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    from hydra import compose

    from midre_exp.plan.compose import packaged_configs
    from midre_exp.plan.config import CONF_DIR

    groups = {path.name for path in CONF_DIR.iterdir() if path.is_dir()}
    choices = [text for text in overrides if text.partition("=")[0] in groups]
    try:
        with packaged_configs():
            known = sorted(_keys(compose("config", overrides=choices)))
    except HydraException:  # a choice that is swept or wrong as well: suggest from the default choices
        with packaged_configs():
            known = sorted(_keys(compose("config")))
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "list all keys with --cfg job"
    return f"there is no config key {key} among the chosen options; {hint}"


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
        errno.ENOSPC: "the disk is full; free space or set paths.store, paths.runs and paths.results to another disk",
        errno.EDQUOT: "the disk quota is used up; free space or set paths.store, paths.runs and paths.results elsewhere",
        errno.EROFS: "the file system is read-only; set paths.store, paths.runs and paths.results to a folder you can write",
        errno.EACCES: "permission denied; set paths.store, paths.runs and paths.results to a folder you can write",
        errno.ENOTDIR: "a file stands where a folder is needed; move it away or set another path",
        errno.EISDIR: "a folder stands where a file is needed; move it away or set another path",
        errno.EEXIST: "a file stands where a folder is needed; move it away or set another path",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"{where}{remedy}"
