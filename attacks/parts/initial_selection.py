"""Where attacks on StyleGAN priors start: one set of random codes, shown to the target once, serves every
identity.

PPA (Struppek et al. 2022, Sec. 4.1), IF-GMI and MIRROR. Nothing here optimises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from attacks.base import ItemRNG, Runtime, ScoreVictim, Transforms, WhiteBoxVictim, apply
from attacks.parts.expectation import Expectation
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import Counts, in_batches
from midre_exp.memory.footprint import planned
from midre_exp.plan.ranges import Count, Range, Share
from midre_exp.priors.style_prior import StylePrior

#: What candidates are ranked by for each class, [n, k] of logits [n, k].
Score = Callable[[Tensor], Tensor]


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities [n, k] of logits [n, k]."""
    return logits.softmax(1)


def style_prior(prior: object) -> StylePrior:
    """The prior, which must be a style generator. Raises ConfigError for any other."""
    if not isinstance(prior, StylePrior):
        raise ConfigError(
            "this attack searches the codes of a style generator, and attack.prior is "
            f"{type(prior).__name__}; use attack/prior=stylegan2"
        )
    return prior


@dataclass(kw_only=True, eq=False)
class InitialSelection:
    """The set of codes among which an attack selects its starts, and how they are rendered for the target."""

    size: Count  # codes (released, PPA: 2000, CelebA 5000; MIRROR: 100,000)
    psi: Share  # truncation towards the mean code, [0, 1], 1: none (released, PPA: 0.5; MIRROR: 0.7)
    cutoff: Count | None  # layers whose codes are truncated; None: all (released: 8)
    flip: bool  # the target also sees each image mirrored: two queries, whose mean counts
    #: NumPy seed of the latents (released, PPA: 42); None: from the run's seed.
    z_seed: Annotated[int, Range(0, 2**32 - 1)] | None
    batch: Count  # images synthesised at once: bounds memory, never changes a result
    clamp: bool = True  # clip images to [0, 1] before the target gets them
    #: What ``renderer`` makes of all candidates, [size, 3, h, w], where that was done before for all targets.
    pictures: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        cutoff = 1 if self.cutoff is None else self.cutoff
        for name, value in (("size", self.size), ("batch", self.batch), ("cutoff", cutoff)):
            if value < 1:
                raise ConfigError(f"attack.search.{name}={value} must be at least 1")
        if not 0 <= self.psi <= 1:
            raise ConfigError(f"attack.search.psi={self.psi} must lie in [0, 1]; 1 is no truncation")
        if self.z_seed is not None and not 0 <= self.z_seed < 2**32:
            raise ConfigError(
                f"attack.search.z_seed={self.z_seed} is no NumPy seed; give null or 0 to {2**32 - 1}"
            )

    def require_candidates(self, restarts: int) -> None:
        """Raise ConfigError unless the items of an identity can start from different codes."""
        if restarts > self.size:
            raise ConfigError(
                f"attack.restarts={restarts} exceeds attack.search.size={self.size}; an identity starts from "
                "different codes"
            )

    def z(self, prior: StylePrior, shared_rng: ItemRNG) -> Tensor:
        """The latents, float32 [size, z_dim] on the device of ``shared_rng`` (one stream)."""
        if self.z_seed is None:
            return shared_rng.normal("search", self.size, prior.z_dim)[0]
        drawn = np.random.RandomState(self.z_seed).randn(self.size, prior.z_dim).astype(np.float32)
        return torch.from_numpy(drawn).to(shared_rng.keys.device)

    @torch.no_grad()
    def codes(self, prior: StylePrior, shared_rng: ItemRNG) -> Tensor:
        """The codes, not truncated, one for all layers: [size, w_dim] on the device of ``shared_rng``, equal
        at every call.
        """
        return prior.codes(self.z(prior, shared_rng))[:, 0]

    def truncate(self, prior: StylePrior, codes: Tensor) -> Tensor:
        """Codes [n, num_ws, w_dim] of codes [n, w_dim], truncated."""
        return prior.truncate(codes, psi=self.psi, cutoff=self.cutoff)

    def render(self, prior: StylePrior, codes: Tensor) -> Tensor:
        """Images [n, 3, s, s] of codes [n, w_dim], truncated and clipped as this search does."""
        return self.clip(prior.synthesise(self.truncate(prior, codes)))

    def clip(self, images: Tensor) -> Tensor:
        """Images, in [0, 1] with ``clamp``."""
        return images.clamp(0, 1) if self.clamp else images

    def renderer(
        self, prior: StylePrior, shared_rng: ItemRNG, transforms: Transforms
    ) -> Callable[[slice], Tensor]:
        """From some of the candidates to their pictures [m, 3, h, w] as the target gets them, on the CPU."""
        codes = self.codes(prior, shared_rng)

        @torch.no_grad()
        def render(rows: slice) -> Tensor:
            return apply(transforms, self.render(prior, codes[rows])).cpu()

        return render

    @torch.no_grad()
    def confidences(
        self,
        victim: WhiteBoxVictim,
        prior: StylePrior,
        codes: Tensor,
        transforms: Transforms,
        runtime: Runtime,
        *,
        shared_rng: ItemRNG,
        expectation: Expectation | None = None,
        score: Score = probabilities,
    ) -> Tensor:
        """The target's probabilities of each candidate, [N, num_classes] on the CPU, for ``codes``
        [N, 1 or num_ws, w_dim], which are rendered as they are (truncate before), or another ``score``; with
        ``expectation`` the mean of those of its copies, for which a candidate has a stream of its own.
        """
        streams = shared_rng.copies(len(codes))

        def scores(images: Tensor) -> Tensor:
            seen = torch.cat((images, images.flip(-1))) if self.flip else images
            mean: Tensor = score(victim(seen).logits).unflatten(0, (-1, len(images))).mean(0)
            return mean

        def ask(part: slice) -> Tensor:
            if self.pictures is not None:
                images = self.pictures[part].to(runtime.device)
            else:
                images = apply(transforms, self.clip(prior.synthesise(codes[part].to(runtime.device))))
            return _over_copies(scores, images, streams[part], expectation)

        return torch.cat(self._of_all(ask, len(codes), victim, runtime)).cpu()

    @torch.no_grad()
    def confidences_of_first(
        self,
        classes: int,
        victim: WhiteBoxVictim | ScoreVictim,
        prior: StylePrior,
        codes: Tensor,
        transforms: Transforms,
        runtime: Runtime,
        *,
        shared_rng: ItemRNG,
        expectation: Expectation | None = None,
        score: Score = probabilities,
    ) -> Tensor:
        """The victim's probabilities of codes [N, w_dim], truncated: those of the first ``classes`` labels,
        [N, classes] on the CPU; those of all labels for many codes would not fit into memory. ``expectation``
        and ``score`` as in ``confidences``.
        """
        streams = shared_rng.copies(len(codes))

        def scores(images: Tensor) -> Tensor:
            return self.ask(victim, images, score)

        def ask(part: slice) -> Tensor:
            if self.pictures is not None:
                images = self.pictures[part].to(runtime.device)
            else:
                images = apply(transforms, self.render(prior, codes[part]))
            return _over_copies(scores, images, streams[part], expectation)[:, :classes].cpu()

        return torch.cat(self._of_all(ask, len(codes), victim, runtime))

    def answer(
        self,
        victim: WhiteBoxVictim | ScoreVictim,
        prior: StylePrior,
        codes: Tensor,
        transforms: Transforms,
    ) -> Tensor:
        """The victim's probabilities [m, k] of the images of codes [m, w_dim], truncated, after
        ``transforms``; with ``flip`` the mean with those of the mirror images.
        """
        return self.ask(victim, apply(transforms, self.render(prior, codes)))

    def ask(
        self, victim: WhiteBoxVictim | ScoreVictim, images: Tensor, score: Score = probabilities
    ) -> Tensor:
        """The victim's probabilities [m, k] of images, or another ``score``; with ``flip`` the mean with
        those of the mirrored ones.
        """

        def query(images: Tensor) -> Tensor:
            if isinstance(victim, WhiteBoxVictim):
                return score(victim(images).logits)
            return victim.scores(images)

        answer = query(images)
        return (answer + query(images.flip(-1))) / 2 if self.flip else answer

    def _of_all(
        self, ask: Callable[[slice], Tensor], candidates: int, victim: Counts, runtime: Runtime
    ) -> list[Tensor]:
        """What ``ask`` answers about all candidates, as many at once as fit."""
        at_once = min(self.batch, runtime.chunk, candidates)
        if runtime.is_planned:
            at_once = planned(lambda few: ask(slice(0, few)), at_once, runtime.device, victim=victim)
        found = []
        with runtime.shown("candidates", candidates) as shown:
            for answer in in_batches(ask, candidates, at_once, what="candidates", victim=victim):
                found.append(answer)
                shown.update(len(answer))
        return found


def _over_copies(
    ask: Callable[[Tensor], Tensor], images: Tensor, streams: ItemRNG, expectation: Expectation | None
) -> Tensor:
    """What ``ask`` answers about images [n, 3, h, w], or its mean over their copies."""
    if expectation is None or not expectation.search:
        return ask(images)
    return expectation.of(images, streams, "search copies", 0, lambda copies, _: ask(copies))


def most_confident(confidences: Tensor, labels: Tensor) -> Tensor:
    """Which of the N candidates each item starts from, int64 [n] of ``confidences`` [N, k] and ``labels``
    int64 [n].

    The first item of a class gets the candidate its class is most confident of, the second the next one, and
    so on: one class never gets a candidate twice, two classes may share one. Of equals the first counts.
    Raises ConfigError when a class has more items than there are candidates.
    """
    place = place_in_class(torch.zeros_like(labels), labels)
    wanted = int(place.max()) + 1 if len(place) else 0
    if wanted > len(confidences):
        raise ConfigError(
            f"attack.search.size={len(confidences)} is less than the {wanted} candidates wanted per "
            "identity; raise it or lower attack.restarts"
        )
    classes, column = labels.unique(return_inverse=True)
    return largest(confidences[:, classes], wanted)[place, column]


def largest(values: Tensor, k: int) -> Tensor:
    """The rows of the ``k`` largest of each column of ``values`` [n, c], int64 [k, c], as a stable sort has
    them: of equals the first comes first.
    """
    if not k or not bool(values.isfinite().all()):  # topk says nothing of where it puts what is no number
        return values.argsort(dim=0, descending=True, stable=True)[:k]
    best = values.topk(min(k + 1, len(values)), dim=0)  # one more, to see whether equals were left out
    rows = best.indices[:k].sort(dim=0).values
    order = values.gather(0, rows).argsort(dim=0, descending=True, stable=True)
    rows = rows.gather(0, order)
    if k < len(values):
        torn = (best.values[k - 1] == best.values[k]).nonzero().squeeze(1)
        rows[:, torn] = values[:, torn].argsort(dim=0, descending=True, stable=True)[:k]
    return rows


def place_in_class(scores: Tensor, labels: Tensor) -> Tensor:
    """The place, from 0, of each item among those of its label by falling score, int64 [n]; of equals the
    first is ahead.

    ``scores`` [n], ``labels`` int64 [n] in any order.
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[labels[by_score].argsort(stable=True)]
    counts = labels.unique(return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = torch.empty_like(labels)
    place[order] = torch.arange(len(labels), device=labels.device) - starts
    return place
