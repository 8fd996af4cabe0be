"""Priors of which every identity has its own: their weights stacked, and each picture drawn by those of its
identity, all in one call (torch.func), or one identity's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from functools import cache
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.tuning.base import State


class _Method(nn.Module):
    """A method of a module, called as the module: what ``functional_call`` can give other weights."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, name: str, *given: Any) -> Any:
        return getattr(self.module, name)(*given)


def stacked(states: Sequence[State], device: torch.device) -> State:
    """One tensor [i, ...] for those of all states."""
    return {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}


def called(module: nn.Module, weights: State, method: str, *given: Tensor, **fixed: Any) -> Any:
    """What a method of ``module`` returns to ``given`` [i, n, ...], row i with the i-th of the stacked
    ``weights``; names that they lack are the module's own.
    """
    names = list(weights)
    call = _Method(module)

    def one(values: list[Tensor], *mine: Tensor) -> Any:
        state = {f"module.{name}": value for name, value in zip(names, values, strict=True)}
        return functional_call(call, state, (method, *mine, *fixed.values()))

    values = [weights[name] for name in names]
    if len(given[0]) == 1:  # without the price of grouped convolutions
        alone = one([value[0] for value in values], *(each[0] for each in given))
        return torch.utils._pytree.tree_map(lambda found: found[None], alone)
    return torch.func.vmap(one, randomness="error")(values, *given)


def _copy(prior: Prior) -> Prior:
    """A copy that computes with its own weights: a method that was changed for the one prior would still draw
    with that prior's.
    """
    copy = deepcopy(prior)
    for name in [name for name in vars(copy) if callable(getattr(type(copy), name, None))]:
        delattr(copy, name)
    return copy


def unfrozen(prior: Prior) -> Prior:
    """A copy in evaluation mode whose layers compute with whatever weights they are given."""
    copy = _copy(prior).eval().requires_grad_(False)
    if isinstance(copy, StylePrior):
        copy.generator.synthesis.train()  # which ends the form for fixed weights; it draws nothing
    return copy


class OwnWeights:
    """The tuned priors of identities, read when they are needed."""

    def __init__(self, prior: Prior, read: Callable[[int], State]):
        """``prior``: as it was before; ``read``: the tuned state of an identity."""
        self.prior, self.state_of = prior, read

    def alone(self, identity: int) -> Prior:
        """The prior of one identity, frozen, on the device of the first."""
        made = _copy(self.prior)
        known = dict(made.named_parameters()) | dict(made.named_buffers())
        with torch.no_grad():
            for name, value in self.state_of(identity).items():
                known[name].copy_(value)
        made.freeze()
        return made

    def together(self, labels: Tensor) -> Prior:
        """A prior that draws each item of ``labels`` int64 [n], those of an identity one after the other, by
        the identity's own weights: asked for all items, or for one of each identity.
        """
        identities = [identity for identity, _ in groupby(labels.tolist())]
        device = next(self.prior.parameters()).device
        copy = unfrozen(self.prior)
        copy.__class__ = _own(cast("Hashable", type(copy)))
        own = cast(_Own, copy)
        own.weights = stacked([self.state_of(identity) for identity in identities], device)
        own.counts = [len(list(items)) for _, items in groupby(labels.tolist())]
        return copy


class _Own:
    """What changes of a prior whose pictures are drawn by weights of their own."""

    weights: State  # [i, ...] of each
    counts: list[int]  # items of each identity

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of latents [n, ...] and labels, each by the weights of its identity."""
        asked = (latents,) if labels is None else (latents, labels)
        return self._drawn("generate", asked, "generator.")

    def realism(self, images: Tensor, group: int | None = None) -> Tensor:
        """How real its identity's own critic finds each image: images of others it is not shown."""
        return self._drawn("realism", (images,), "discriminator.")

    def _drawn(self, method: str, given: tuple[Tensor, ...], prefix: str) -> Tensor:
        """Groups of identities with as many items each, group by group."""
        items = len(given[0])
        counts = [1] * len(self.counts) if items == len(self.counts) else self.counts
        if items != sum(counts):
            raise ValueError(f"{items} items, where {sum(self.counts)} of {len(self.counts)} were expected")
        mine = {name: value for name, value in self.weights.items() if name.startswith(prefix)}
        found, item, identity = [], 0, 0
        for count, alike in groupby(counts):
            several = len(list(alike))
            rows = slice(item, item + several * count)
            weights = {name: value[identity : identity + several] for name, value in mine.items()}
            asked = [each[rows].unflatten(0, (several, count)) for each in given]
            found.append(called(cast(nn.Module, self), weights, f"_own_{method}", *asked).flatten(0, 1))
            item, identity = rows.stop, identity + several
        return found[0] if len(found) == 1 else torch.cat(found)


@cache
def _own(kind: Hashable) -> type[Prior]:
    """A class of priors, its pictures drawn by weights of their own."""
    plain: Any = kind
    methods = {"_own_generate": plain.generate, "_own_realism": plain.realism}
    return type(f"Own{plain.__name__}", (_Own, plain), methods)
