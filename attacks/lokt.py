"""LOKT, label-only inversion by knowledge transfer: PLG-MI's gradient attack on networks that learned the
target's labels of generated images. The attack itself asks the target nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from attacks.base import ItemRNG, LabelAttack, LabelVictim, Loop, Prior
from attacks.losses import IdentityLoss
from attacks.parts.checks import at_least_one
from attacks.parts.viewed_descent import descended, viewed_losses
from midre_exp.data.transforms.view import RandomView
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, LearningRate
from midre_exp.priors.lokt import TACGANPrior
from midre_exp.surrogates.lokt import LoktSurrogates
from midre_exp.threat import Victim


@dataclass(kw_only=True, eq=False)
class LOKT(LabelAttack):
    """PLG-MI's attack on the mean logits of the surrogates (Nguyen et al., NeurIPS 2023), or without them
    (``attack.surrogates=null``) on what the prior's discriminator takes images for.

    Options as those of ``PLGMI``. Queries: none; those behind the prior and the surrogates are told by the
    stages that made them.
    """

    steps: Count  # optimiser steps (released: 600)
    lr: LearningRate  # of Adam (released: 0.1)
    views: Count  # independent random views per step, whose losses add up (released: 2)
    view: RandomView  # drawn anew for every item, step and view; ``image_to_target`` follows it
    identity_loss: IdentityLoss  # of the surrogates (released: MaxMargin)
    reference_batch: Count  # the batch whose mean the official code descends

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(steps=self.steps, views=self.views, reference_batch=self.reference_batch)

    def invert(self, victim: LabelVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop) -> Tensor:
        """Latents [n, latent_dim] after ``steps`` steps."""
        stand_in = Victim.of(self.stand_in(prior), victim.num_classes)

        def losses(latents: Tensor, step: int) -> Tensor:
            return viewed_losses(
                prior,
                latents,
                labels,
                rng,
                step,
                views=self.views,
                view=self.view,
                image_to_target=self.image_to_target,
                loss=lambda seen, _: self.identity_loss(stand_in, None, seen, labels, rng, step),
            )

        found = descended(
            losses,
            rng.normal("start", prior.latent_dim),
            loop,
            steps=self.steps,
            lr=self.lr,
            reference_batch=self.reference_batch,
        )
        stand_in.check_answers()
        return found

    def stand_in(self, prior: Prior) -> Callable[[Tensor], Tensor]:
        """What is attacked in place of the target: images [n, 3, h, w] as it gets them to logits [n, k].
        Raises ConfigError where nothing was prepared.
        """
        if isinstance(self.surrogates, LoktSurrogates):
            return partial(LoktSurrogates.forward, self.surrogates)
        if self.surrogates is None and isinstance(prior, TACGANPrior):
            return prior.class_logits
        raise ConfigError(
            "LOKT attacks networks that learned the target's labels; set attack.surrogates to "
            "conf/attack/surrogates/lokt.yaml, or to null with attack/prior=tacgan"
        )
