"""Where attacks on StyleGAN priors start: one set of random codes, shown to the target once, serves every
identity.

PPA (Struppek et al. 2022, Sec. 4.1), IF-GMI and MIRROR. Nothing here optimises.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from midre_exp.attack import Transforms, apply
from midre_exp.errors import ConfigError
from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import WhiteBoxVictim


def style_prior(prior: Prior) -> StylePrior:
    """The prior, which must be a style generator. Raises ConfigError for any other."""
    if not isinstance(prior, StylePrior):
        raise ConfigError(
            f"this attack searches the codes of a style generator, and attack.prior is {type(prior).__name__}; "
            "use attack/prior=stylegan2"
        )
    return prior


class InitialSelection:
    """The set of codes an attack looks for starts in, and how it shows them to the target.

    ``size``: how many; ``psi``, ``cutoff``: truncation of their first ``cutoff`` layer codes (null: of all)
    towards the mean code; ``flip``: the target also sees each mirrored; ``z_seed``: the NumPy seed of the
    latents, null: from the run's seed; ``batch``: images synthesised at once, which bounds memory and never
    changes a result; ``clamp``: images are clipped to [0, 1] before the target sees them. Raises ConfigError.
    """

    def __init__(
        self,
        *,
        size: int,
        psi: float,
        cutoff: int | None,
        flip: bool,
        z_seed: int | None,
        batch: int,
        clamp: bool = True,
    ):
        for name, value in (("size", size), ("batch", batch), ("cutoff", 1 if cutoff is None else cutoff)):
            if value < 1:
                raise ConfigError(f"attack.search.{name}={value} must be at least 1")
        if not 0 <= psi <= 1:
            raise ConfigError(f"attack.search.psi={psi} must lie in [0, 1]; 1 is no truncation")
        if z_seed is not None and not 0 <= z_seed < 2**32:
            raise ConfigError(
                f"attack.search.z_seed={z_seed} is no NumPy seed; give null or 0 to {2**32 - 1}"
            )
        self.size = size
        self.psi = psi
        self.cutoff = cutoff
        self.flip = flip
        self.z_seed = z_seed
        self.batch = batch
        self.clamp = clamp

    def z(self, prior: StylePrior, common: ItemRNG) -> Tensor:
        """The latents, float32 [size, z_dim] on the device of ``common`` (one stream, all items')."""
        if self.z_seed is None:
            return common.normal("search", self.size, prior.z_dim)[0]
        drawn = np.random.RandomState(self.z_seed).randn(self.size, prior.z_dim).astype(np.float32)
        return torch.from_numpy(drawn).to(common.keys.device)

    @torch.no_grad()
    def confidences(
        self, victim: WhiteBoxVictim, prior: StylePrior, codes: Tensor, steps: Transforms, runtime: Runtime
    ) -> Tensor:
        """What the target makes of each candidate: probabilities [N, num_classes] on the CPU, for ``codes``
        [N, 1 or num_ws, w_dim].

        The codes are rendered as they are (truncate before) and go through ``steps`` to the target; with
        ``flip`` the mean over the image and its mirror image, two queries each.
        """
        at_once = min(self.batch, runtime.chunk)
        found = []
        for first in runtime.bar(range(0, len(codes), at_once), "candidates, batches"):
            images = prior.synthesise(codes[first : first + at_once].to(runtime.device))
            images = apply(steps, images.clamp(0, 1) if self.clamp else images)
            seen = torch.cat((images, images.flip(-1))) if self.flip else images
            probabilities = victim(seen).logits.softmax(1)
            found.append(probabilities.unflatten(0, (-1, len(images))).mean(0))
        return torch.cat(found).cpu()


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
            f"attack.search.size={len(confidences)} is less than the {wanted} candidates wanted per identity; "
            "raise it or lower attack.restarts"
        )
    classes, column = labels.unique(return_inverse=True)
    order = confidences[:, classes].argsort(dim=0, descending=True, stable=True)
    return order[place, column]


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
