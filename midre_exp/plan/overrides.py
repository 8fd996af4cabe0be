"""What a user types, as Hydra's grammar takes it: texts with ``~``, brackets, other scripts or an equals sign
are quoted where nothing else can be meant, and told in the form to paste where something else can.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import config_files

_KEY = re.compile(r"(?P<key>\+{0,2}[\w./@:-]+)=(?P<value>.*)", re.DOTALL)
_EVALUATORS = re.compile(r"evaluator=\[(.*)\]", re.DOTALL)
_CALL = re.compile(r"[a-z_]+\(.*\)", re.DOTALL)
#: Config groups whose key is null where nothing is chosen; Hydra has no null for a group.
_MAY_BE_ABSENT = ("open_set", "traits", "diagnostics")


def readable(overrides: Sequence[str], *, sweeps: bool) -> list[str]:
    """Overrides that Hydra can read and that mean what was typed. ``sweeps``: whether a comma may separate
    values to try.

    A list of evaluators is one and its jury. Raises ConfigError for text that is no override, showing how a
    text is quoted.
    """
    found = []
    for text in overrides:
        judges = _EVALUATORS.fullmatch(text)
        found += [_readable(text, sweeps=sweeps)] if judges is None else _judges(text, judges[1], overrides)
    return found


def _judges(text: str, listed: str, overrides: Sequence[str]) -> list[str]:
    """A list of evaluators as two overrides: the first one gives the published number, the others are its
    jury. Raises ConfigError where a jury is named beside it, or nobody.
    """
    first, *others = [name.strip() for name in listed.split(",")]
    if any(other.lstrip("+").startswith("jury=") for other in overrides):
        raise ConfigError(f"{text} names a jury, and so does jury=...; name all judges in one of them")
    if not all([first, *others]):
        raise ConfigError(f"{text} names nobody; give evaluator=[NAME,NAME], the first the published one")
    return [f"evaluator={first}", *([f"jury=[{','.join(others)}]"] if others else [])]


def as_meant(override: str) -> str:
    """One override of one job: no defense is the choice that does nothing, and so is null for a group that
    may be absent. Raises ConfigError for two forms of one defense, of which Hydra would keep the last.
    """
    key, _, value = override.partition("=")
    if key in _MAY_BE_ABSENT and value == "null":
        return f"{key}=none"
    if key != "defense" or not value.startswith("["):
        return override
    names = [name.strip() for name in value.strip("[]").split(",") if name.strip()]
    if not names:
        return "defense=nodef"
    forms: dict[str, str] = {}
    for name in names:
        for part in _parts_of(name):
            if part in forms:
                raise ConfigError(
                    f"{override}: {forms[part]} and {name} are two forms of {part}, which is trained once; "
                    "keep one of them"
                )
            forms[part] = name
    return override


#: Keys of earlier versions, or that papers call so, by what they begin with, and what takes their place.
_FORMER = {
    "view": "AlignMI's mean over copies of what the target sees is chosen by attack/expectation=paa or taa, "
    "with the values published for other attacks by attack/expectation=paa_gmi, taa_gmi, paa_kedmi or "
    "taa_kedmi",
    "speed": "there is no speed any more; use numerics=bf16, or numerics.precision, "
    "numerics.channels_last and numerics.compile, which hold for every stage",
    **dict.fromkeys(
        ("target.recipe.precision", "evaluator.recipe.precision"),
        "no stage has a precision of its own any more; use numerics=bf16 or numerics.precision",
    ),
}


def _renamed(key: str) -> str | None:
    """The sentence on a key of an earlier version; None for any other."""
    return next((text for name, text in _FORMER.items() if f"{key}.".startswith(f"{name}.")), None)


@cache
def _parts_of(defense: str) -> tuple[str, ...]:
    """The nodes that a choice of defense fills; none for one that does not exist, of which Hydra tells."""
    path = config_files("defense").get(defense)
    if path is None:
        return ()
    return tuple(str(key) for key in OmegaConf.to_container(OmegaConf.load(path)) or () if key != "defaults")


def _readable(text: str, *, sweeps: bool) -> str:
    parts = _KEY.fullmatch(text)
    if parts is not None and (new := _renamed(parts["key"].lstrip("+"))) is not None:
        raise ConfigError(f"{text}: {new}")
    try:
        override = _parse(text)
    except HydraException as error:
        if parts is None:
            raise ConfigError(f"{text} cannot be read; an override has the form KEY=VALUE") from error
        quoted = _requoted(parts["key"], parts["value"], sweeps=sweeps)
        if quoted is None:
            reason = " ".join(str(error).split("\nSee ")[0].split())
            paste = shlex.quote(f"{parts['key']}={quote(parts['value'])}")
            raise ConfigError(f"{text} cannot be read ({reason}); a text is written {paste}") from error
        return quoted
    if parts is not None and override.is_sweep_override():
        if "," in parts["value"] and _is_path(parts["value"]):
            return f"{parts['key']}={quote(parts['value'])}"
        if not sweeps:
            paste = shlex.quote(f"{parts['key']}={quote(parts['value'])}")
            raise ConfigError(
                f"{text} lists values to try one by one, which needs a sweep: add -m; a text is written "
                f"{paste}"
            )
    return text if sweeps else as_meant(text)


def _requoted(key: str, value: str, *, sweeps: bool) -> str | None:
    """The override with what Hydra cannot read in quotes; None where more than a text may be meant."""
    if "${" in value or value.startswith(("'", '"', "{")) or _CALL.fullmatch(value):
        return None
    if value.startswith("["):
        inner = value[1:-1]
        if not value.endswith("]") or any(sign in inner for sign in "[]{}'\""):
            return None
        return _accepted(f"{key}=[{','.join(map(_word, inner.split(',')))}]")
    if sweeps and "," in value and not _is_path(value):
        return _accepted(f"{key}={','.join(map(_word, value.split(',')))}")
    return _accepted(f"{key}={quote(value)}")


def _word(text: str) -> str:
    """One entry of a list, in quotes if Hydra needs them."""
    return text if _accepted(f"key={text}") else quote(text.strip())


def _accepted(override: str) -> str | None:
    try:
        _parse(override)
    except HydraException:
        return None
    return override


def _parse(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _is_path(value: str) -> bool:
    """Whether a value with commas is one path, because it is there."""
    try:
        return ("/" in value or value.startswith("~")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError):  # too long a name, no such home
        return False


def quote(text: str) -> str:
    """A value that Hydra's grammar takes as this very text; a backslash counts only before a quote."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'
