"""What the checks of several stages share: making a part once without memory, and looking for its files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from midre_exp.cards.named import is_named
from midre_exp.errors import CheckpointError, ConfigError, UserError
from midre_exp.plan.config import Trusted, texts_below
from midre_exp.plan.paths import wants_file
from midre_exp.plan.trust import check_targets, named_class


def make_once(make: Callable[[], object]) -> None:
    """Call ``make`` without memory for its tensors; where that fails, once more as it will be called, which
    has the last word.
    """
    import torch  # planning loads this module with the stages

    try:
        with torch.device("meta"):
            make()
    except UserError:
        make()


def size_after(steps: Iterable[Callable[[Any], Any]], pixels: int) -> int:
    """The side of a square image of ``pixels`` after the steps. Raises ConfigError as they do."""
    import torch  # as above

    image = torch.zeros(1, 3, pixels, pixels)
    for step in steps:
        image = step(image)
    return int(image.shape[-1])


def check_files(place: str, node: Any) -> None:
    """Raise CheckpointError for a value below the key ``place`` that is the path of a weight file which is
    missing; those with a card were looked for before (midre_exp/cards/named.py).
    """
    for key, value in texts_below(place, node):
        if wants_file(key, value) and not is_named(value) and not Path(value).expanduser().is_file():
            raise CheckpointError(f"{key}={value} is no file; correct the path, or use null for none")


def check_arguments(node: Mapping[str, Any], own: Mapping[str, Any], kind: str, trusted: Trusted) -> None:
    """Raise ConfigError for a node whose class takes other arguments than those, without making one."""
    check_targets(node, kind, trusted)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    try:
        inspect.signature(named_class(node["_target_"], kind, trusted)).bind(**given, **own)
    except TypeError as error:
        raise ConfigError(f"cannot build {node['_target_']}: {error}") from error
