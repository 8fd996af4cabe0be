"""Which options of an architecture a weight file was trained with, read from the shapes of its tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from midre_exp.errors import UserError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import build, config_files
from midre_exp.targets.base import Classifier

_COUNTER = ".num_batches_tracked"
#: Values that are tried for an option, where an architecture has it; its own and the published ones first.
_TRIED = {
    "width": (1.0, 0.5, 0.375, 0.25, 0.1875, 0.125),
    "stem": ("imagenet", "published", "small", "half"),
    "image_size": (32, 64, 112, 128, 160, 224, 256, 299),
}


def fitting_options(
    name: str, model: Mapping[str, Any], state: Mapping[str, Tensor], trusted: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """What to change in the ``model`` node of target ``name`` so that ``state`` fits but for the number of
    classes: values by option, none where it fits as it is; None where nothing tried does.
    """
    theirs = _shapes(state)
    for node in _candidates(name, model):
        try:
            with torch.device("meta"):  # shapes alone
                made = build(node, num_classes=_classes(state), kind=Classifier, trusted=trusted)
        except (UserError, RuntimeError, ValueError):
            continue
        if _shapes(made.state_dict()) == theirs:
            return {key: value for key, value in node.items() if value != model.get(key)}
    return None


def _candidates(name: str, model: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Nodes to try: as it is, as published, then one value after another of what shapes a network."""
    bases = [dict(model)]
    try:
        if name in config_files("target"):
            bases.append(choice("target", name)["model"])
    except (HydraException, OmegaConfBaseException, UserError):  # a target of one's own that paper has not
        pass
    yield from bases
    for base in bases:  # values that no shape tells apart stay as they are
        options = [key for key in _TRIED if key in base]
        for values in itertools.product(*(dict.fromkeys([base[key], *_TRIED[key]]) for key in options)):
            yield {**base, **dict(zip(options, values, strict=True))}


def _classes(state: Mapping[str, Tensor]) -> int:
    """The rows of the last weight of two dimensions: a head stands at the end of a state dict."""
    rows = [len(value) for key, value in state.items() if value.ndim == 2 and key.endswith(".weight")]
    return rows[-1] if rows else 2


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(_COUNTER)}
