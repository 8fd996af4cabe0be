"""Values that cannot be used: what can be told of a resolved config at once, before data, networks or keys,
and what its parts demand of numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from midre_exp.errors import ConfigError

#: Names that become part of file names: one component of a path, the same on every file system.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")
#: Where a config has such names; the defenses' are keys.
_IDS = ("setup.id", "scale", "data.name", "target.name", "evaluator.name", "attack.name")

_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError naming the first key whose value cannot be used, and what can."""
    for key, number in _numbers(settings):
        _require(math.isfinite(number), key, number, "a finite number")
    _check_ids(settings)
    runtime = settings["runtime"]
    _require(type(settings["seed"]) is int, "seed", settings["seed"], "a whole number")
    for name, path in settings["paths"].items():
        several = name == "store" and isinstance(path, list) and path
        places = path if several else [path]
        allowed = "a folder, or a list of them: first the one to write" if name == "store" else "a folder"
        usable = all(isinstance(place, str) and place.strip() != "" for place in places)
        _require(usable, f"paths.{name}", path, allowed)
    for name in ("devices", "chunk", "checkpoint_every"):
        _require(_counts(runtime[name]), f"runtime.{name}", runtime[name], "a whole number from 1")
    threads, progress, trusted = (runtime[name] for name in ("threads", "progress", "trusted_packages"))
    _require(
        threads is None or _counts(threads), "runtime.threads", threads, "a whole number from 1, or null"
    )
    _require(progress in ("auto", True, False), "runtime.progress", progress, "auto, true or false")
    every = runtime["log_every"]
    seconds = every is None or (isinstance(every, (int, float)) and type(every) is not bool and every >= 0)
    _require(seconds, "runtime.log_every", every, "a number of seconds, or 0 for no lines")
    listed = isinstance(trusted, list) and all(isinstance(name, str) for name in trusted)
    _require(listed, "runtime.trusted_packages", trusted, "a list such as [my_defenses]")
    for role in ("private", "public", "evaluation"):
        node = settings["data"].get(role, {})
        _require(isinstance(node, Mapping), f"data.{role}", node, "a dataset with a _target_")
    check_sizes(settings)
    for model in ("target", "evaluator"):
        recipe = settings[model]["recipe"]
        size, precision = recipe["batch_size"], recipe["precision"]
        _require(_counts(size), f"{model}.recipe.batch_size", size, "a whole number from 1")
        _require(
            precision in _PRECISIONS,
            f"{model}.recipe.precision",
            precision,
            f"one of {', '.join(_PRECISIONS)}",
        )
    floor = settings["evaluator"]["floor"]
    fits = floor in ("chance", None) or (type(floor) in (int, float) and 0 <= floor <= 100)
    _require(fits, "evaluator.floor", floor, "chance, or a percentage (0: it always judges)")


def check_sizes(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError when images would be made at another size than what looks at them says it takes."""
    resolution, prior = settings["resolution"], settings["attack"].get("prior") or {}
    expected = {
        "private": {"resolution": resolution},
        "evaluation": {"evaluator.resolution": settings["evaluator"]["resolution"]},
        # of a loaded generator the public images are not drawn at its size
        "public": {"resolution": resolution, "attack.prior.image_size": prior.get("image_size", resolution)},
    }
    for role, sizes in expected.items():
        size = settings["data"].get(role, {}).get("size")
        if size is not None and size not in sizes.values():
            key, pixels = list(sizes.items())[-1]
            raise ConfigError(
                f"data.{role}.size={size} contradicts {key}={pixels}, by which the record would call these "
                f"images; set {key} alone, which the data follow"
            )


def is_id(value: object) -> bool:
    """Whether a value is a name that can stand in a file name."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_line(value: object) -> bool:
    """Whether a value is text that stands in one line of a table."""
    return isinstance(value, str) and value.isprintable() and value.strip() != ""


def _check_ids(settings: Mapping[str, Any]) -> None:
    wanted = "a name of at most 80 letters, digits and . _ + - that begins with a letter or digit"
    for key in _IDS:
        value: Any = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        shown = value if isinstance(value, str) and value.isprintable() else repr(value)
        _require(is_id(value), key, shown, wanted)
    for name in settings["defense"] or ():
        if not is_id(name):
            raise ConfigError(f"the defense {name!r} cannot be called so; give it {wanted}")


def require_counts(part: str, **counts: int | None) -> None:
    """Raise ConfigError for the first that is no whole number from 1, naming it as a key of ``part``; None is
    fine.
    """
    for name, value in counts.items():
        if value is not None and not _counts(value):
            raise ConfigError(f"{part}.{name}={value} must be at least 1 and a whole number")


def require_numbers(part: str, *, low: float = 0.0, high: float = math.inf, **numbers: float) -> None:
    """Raise ConfigError for the first that is no number from ``low`` to ``high``, naming it as a key of
    ``part``.
    """
    for name, value in numbers.items():
        if type(value) not in (int, float) or not low <= value <= high:
            limits = f"lie in [{low:g}, {high:g}]" if math.isfinite(high) else f"be a number from {low:g}"
            raise ConfigError(f"{part}.{name}={value} must {limits}")


def _numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every fraction with its key."""
    if isinstance(node, float):
        yield path, node
    elif isinstance(node, (Mapping, list)):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _numbers(value, f"{path}.{key}" if path else str(key))


def _counts(value: Any) -> bool:
    return type(value) is int and value >= 1


def _require(fits: bool, key: str, value: Any, wanted: str) -> None:
    if not fits:
        raise ConfigError(f"{key}={value} cannot be used; give {wanted}")
