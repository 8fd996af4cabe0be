"""Tensors as the store has them, whoever built them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midre_exp.errors import StoreError
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from torch import Tensor


def finite_tensors(artifact: Artifact, name: str = "weights") -> dict[str, Tensor]:
    """The tensors ``name`` of an artifact. Raises StoreError for numbers that are not finite: none leaves a
    stage any more, but a store may be from before or from elsewhere.
    """
    from midre_exp.weights.finite import unusable  # planning loads this module, and no torch

    tensors = artifact.tensors(name)
    if wrong := unusable(tensors):
        raise StoreError(
            f"{artifact.path} holds {name} that cannot be used ({wrong}); delete this folder to build "
            f"{artifact.stage} again"
        )
    return tensors
