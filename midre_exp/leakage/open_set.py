"""Reconstructions before a verifier: how many are accepted as the person, and at which place the person
stands among decoys.

The threshold is of photographs alone: at most the share ``far`` of the photographs of people held out reach
it with the templates of others of them, whatever is attacked. How many reconstructions reach it as decoys or
as other private people is measured: clearly more than ``far`` means faces that resemble many. The ``strict``
threshold keeps these at ``far`` too, so that no prior gains by such faces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from midre_exp.leakage.scores import equal_error, ranks, share_from, threshold_at
from midre_exp.leakage.verification import Templates, pairs
from midre_exp.metrics.accuracy import identity_interval

#: A share of false accepts is told where so many are among the pairs that it was measured on.
FEWEST_ACCEPTED = 10
TEN = 10  #: the places that count besides the first


@dataclass(frozen=True)
class Gallery:
    """People held out of the training of a verifier: decoys, and what sets the thresholds."""

    held_out: Templates

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Scores of photographs with the template of their own person [n], and with those of others [m]."""
        known = self.held_out
        return pairs(known.probes @ known.templates.T, known.labels)

    def quality(self, fars: Sequence[float], alike: Tensor | None = None) -> dict[str, Any]:
        """What the verifier does with them: the equal error rate and the share of photographs accepted at
        each of ``fars``, percent. ``alike`` bool [people, people]: who looks like whom, for the equal error
        rate among these alone.
        """
        genuine, impostor = self.pairs()
        found: dict[str, Any] = {
            "eer": 100 * equal_error(genuine, impostor).value,
            "pairs": len(impostor),
            "tar": {
                name_of(far): 100 * share_from(genuine, threshold_at(far, genuine, impostor))
                for far in fars
                if is_told(far, len(impostor))
            },
        }
        if alike is not None:
            known = self.held_out
            scores = known.probes @ known.templates.T
            others = alike[known.labels].clone()
            others[torch.arange(len(others)), known.labels] = False
            if bool(others.any()):
                found["eer_alike"] = 100 * equal_error(genuine, scores[others]).value
                found["pairs_alike"] = int(others.sum())
        return found


@dataclass(frozen=True)
class Verdicts:
    """What a verifier says of an attack."""

    numbers: dict[str, Any]  # percent, as the record has them
    missing: dict[str, str]  # why one is not among them
    per_identity: dict[str, list[float]]  # percent of each attacked identity's reconstructions
    tensors: dict[str, Tensor]  # of each counted reconstruction, for the artifact


def name_of(far: float) -> str:
    """A false accept rate as part of a name: 0.01 for 1e-2."""
    return f"{far:g}"


def is_told(far: float, impostor_pairs: int) -> bool:
    """Whether so many pairs of impostors can tell of that rate of false accepts."""
    return far * impostor_pairs >= FEWEST_ACCEPTED


def verdicts(
    embeddings: Tensor,
    labels: Tensor,
    private: Templates,
    gallery: Gallery,
    fars: Sequence[float],
    failed: Tensor | None = None,
) -> Verdicts:
    """Of reconstructions with ``embeddings`` [n, d] of the identities ``labels`` int64 [n], each with the
    template of its identity. ``failed`` bool [n]: those that the attack knows to have failed are nobody.
    """
    with_private = embeddings @ private.templates.T
    with_decoys = embeddings @ gallery.held_out.templates.T
    own, others = pairs(with_private, labels)
    place = ranks(own, with_decoys)
    if failed is not None:
        own = own.masked_fill(failed.bool(), -math.inf)
        place = place.masked_fill(failed.bool(), with_decoys.shape[1])
    genuine, impostor = gallery.pairs()
    real, exchanged = pairs(private.probes @ private.templates.T, private.labels)
    kinds = {
        "photographs": impostor,
        "private": exchanged,
        "decoys": with_decoys.flatten(),
        "others": others,
    }
    kinds = {name: scores for name, scores in kinds.items() if len(scores)}
    tar: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    per_identity: dict[str, list[float]] = {}
    tensors = {"own": own, "rank": place, "labels": labels}
    for far in fars:
        name = name_of(far)
        if not is_told(far, len(impostor)):
            missing[f"tar@{name}"] = (
                f"{len(impostor)} impostor pairs of held-out people tell nothing of a false accept rate of "
                f"{name}, which takes {math.ceil(FEWEST_ACCEPTED / far)}"
            )
            continue
        threshold = threshold_at(far, genuine, impostor)
        strict = max(
            threshold,
            *(threshold_at(far, own, kinds[kind]) for kind in ("decoys", "others") if kind in kinds),
        )
        hits = (own >= threshold).double()
        low, high = identity_interval(hits, labels)
        tar[name] = {
            "value": 100 * float(hits.mean()),
            "low": 100 * low,
            "high": 100 * high,
            **({"threshold": threshold} if math.isfinite(threshold) else {}),
            **{f"false_{kind}": 100 * share_from(scores, threshold) for kind, scores in kinds.items()},
            "strict": 100 * share_from(own, strict),
            "held_out": 100 * share_from(genuine, threshold),
            **({"photographs": 100 * share_from(real, threshold)} if len(real) else {}),
        }
        per_identity[f"tar@{name}"] = by_identity(hits, labels)
        tensors[f"accepted@{name}"] = hits.bool()
    first, ten = (place == 0).double(), (place < TEN).double()
    low, high = identity_interval(first, labels)
    per_identity["rank1"] = by_identity(first, labels)
    numbers = {
        "identities": len(labels.unique()),
        "reconstructions": len(labels),
        "decoys": with_decoys.shape[1],
        "tar": tar,
        "rank": {
            "median": float(place.double().quantile(0.5)) + 1,
            "chance": (with_decoys.shape[1] + 2) / 2,
            "first": 100 * float(first.mean()),
            "first_low": 100 * low,
            "first_high": 100 * high,
            **({"ten": 100 * float(ten.mean())} if with_decoys.shape[1] > TEN else {}),
        },
    }
    return Verdicts(numbers, missing, per_identity, tensors)


def by_identity(values: Tensor, labels: Tensor) -> list[float]:
    """Percent, the mean of ``values`` [n] of each identity in ``labels`` int64 [n], in their order."""
    identities, place = labels.unique(return_inverse=True)
    total = torch.zeros(len(identities), dtype=torch.float64).index_add(0, place, values.double())
    each: list[float] = (100 * total / torch.bincount(place)).tolist()
    return each


def alike(kinds: Mapping[str, Tensor], people: int) -> Tensor | None:
    """Who shares all ``kinds`` int64 [people] with whom, bool [people, people]; None where none is known."""
    if not kinds:
        return None
    same = torch.ones(people, people, dtype=torch.bool)
    for classes in kinds.values():
        same &= classes[:, None] == classes
    return same
