"""Weights as the store has them, whoever built them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from midre_exp.errors import StoreError
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from torch import Tensor


def finite_weights(artifact: Artifact) -> dict[str, Tensor]:
    """The weights of an artifact. Raises StoreError for such as no longer leave a training, but may lie in a
    store from before or from elsewhere.
    """
    from midre_exp.weights.finite import unusable  # planning loads this module, and no torch

    tensors = artifact.tensors("weights")
    if wrong := unusable(tensors):
        raise StoreError(
            f"{artifact.path} holds weights that cannot be used ({wrong}); delete this folder to build "
            f"{artifact.stage} again"
        )
    return tensors
