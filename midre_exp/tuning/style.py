"""PPDG-MI on a style generator: the best reconstructions are projected to codes, which are kept, and the
synthesis network is tuned until what it draws of them is close to the reconstructions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Natural, NonNegative
from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.runtime import free_memory
from midre_exp.seeding import ItemRNG
from midre_exp.threat import WhiteBoxVictim
from midre_exp.tuning.base import Best, Material, State, Tuning, confidences
from midre_exp.tuning.critic_features import critic_features, require_critic
from midre_exp.tuning.distances import conditional_transport, mean_discrepancy, pointwise
from midre_exp.tuning.own_weights import called, stacked, unfrozen

Distance = Literal["pointwise", "transport", "discrepancy"]

#: Latents, and the seed of NumPy, that tell the mean code and how far codes lie from it.
_STATISTICS = (600, 123)
#: Shares of a projection in which its rate rises and falls, and in which noise is added; betas of Adam.
_RISE, _FALL, _NOISY = 0.05, 0.25, 0.75
_BETAS = (0.9, 0.999)
_NOISE = 0.05  # of the deviation of codes
_CRITIC = 0.1  # of softplus(-D) in a projection
#: A weight of a network in training: itself, its gradient and the two moments of Adam.
_COPIES = 4
_MEMORY_SHARE = 0.4  # of what is free on the device


@dataclass(kw_only=True, eq=False)
class StyleTuning(Tuning):
    """Codes w of the m best pictures x descend d(f(G(w)), f(x)) + 0.1 mean softplus(-D(G(w))); then the
    synthesis of G descends d(f(G(w)), f(x)), over features f of the critic (Peng et al., NeurIPS 2024).
    """

    tunes = "style generators (attack/prior=stylegan2)"

    distance: Distance  # d: pointwise (PPDG-PW) | transport (PPDG-CT) | discrepancy (PPDG-MMD)
    pictures: Count  # m, the best of an identity's reconstructions
    projection_steps: Natural  # of Adam on the codes
    projection_lr: NonNegative  # its largest rate (released: 0.01)
    steps: Natural  # of Adam on the synthesis network; 0: the prior stays as it is
    lr: NonNegative  # of that (released: 3e-4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in get_args(Distance):
            raise ConfigError(
                f"attack.tuning.distance={self.distance} is unknown; use {', '.join(get_args(Distance))}"
            )

    @classmethod
    def can_tune(cls, prior: type[Prior]) -> bool:
        return issubclass(prior, StylePrior)

    def taken(self, restarts: int) -> int:
        if self.pictures > restarts:
            raise ConfigError(
                f"attack.tuning.pictures={self.pictures} exceeds attack.restarts={restarts}, the "
                "reconstructions of an identity; lower it"
            )
        return self.pictures

    @property
    def looks(self) -> int:
        return 2

    def scores(self, victim: WhiteBoxVictim, seen: Tensor, labels: Tensor, shared_rng: ItemRNG) -> Tensor:
        """Mean probability of the image and its mirror image: what the mean over a hundred draws of a fair
        mirror, as released, is an estimate of.
        """
        return (confidences(victim, seen, labels) + confidences(victim, seen.flip(-1), labels)) / 2

    def asked(self, prior: Prior, taken: int) -> int:
        return 0

    def changed(self, prior: Prior) -> list[str]:
        """Of the mapping network nothing: fixed codes give it no gradient, as released."""
        return [name for name, _ in prior.named_parameters() if name.startswith("generator.synthesis.")]

    def at_once(self, material: Material, taken: int) -> int:
        runtime, weights = material.runtime, dict(material.prior.named_parameters())
        numbers = sum(weights[name].numel() for name in self.changed(material.prior))
        free = free_memory(runtime.device)
        by_memory = runtime.chunk if free is None else int(_MEMORY_SHARE * free / (4 * _COPIES * numbers))
        return max(1, min(runtime.chunk // taken, by_memory))  # less, where pictures take more

    def told(self) -> dict[str, Any]:
        return {"distance": self.distance, "features": "the prior's own critic", "pictures": self.pictures}

    def tune(self, material: Material, best: Best) -> list[State]:
        prior = material.prior
        assert isinstance(prior, StylePrior)  # as ``can_tune`` says
        names, count = self.changed(prior), len(best.labels)
        known = dict(prior.named_parameters())
        if best.states is None:
            start = {name: known[name].detach().expand(count, *known[name].shape) for name in names}
        else:
            start = stacked([{name: s[name] for name in names} for s in best.states], best.pictures.device)
        with torch.no_grad():
            wanted = _of_each(self._features(prior), best.pictures)
        if self.steps:
            folder = material.folder(best.labels.tolist())
            codes = self._project(material, best, start, wanted, folder / "projection.pt")
            start = self._tuned(material, start, codes, wanted, folder / "tuning.pt")
        return [{name: start[name][i].detach().clone() for name in names} for i in range(count)]

    def _features(self, prior: StylePrior) -> Any:
        critic = require_critic(prior)
        return lambda images: critic_features(critic, images)

    def distances(self, drawn: Tensor, wanted: Tensor) -> Tensor:
        """[i, m] of features [i, m, d]: the distance of each picture, or of the set to each of its m."""
        if self.distance == "pointwise":
            return pointwise(drawn, wanted)
        of_sets = conditional_transport if self.distance == "transport" else mean_discrepancy
        return of_sets(drawn, wanted)[:, None].expand(drawn.shape[:2])

    def _project(self, material: Material, best: Best, start: State, wanted: Tensor, path: Path) -> Tensor:
        """Codes [i, m, 1, w_dim] whose pictures are close to the best ones.

        Pictures that are compared one by one are projected one by one; what is shared by a set, the mean of
        what the critic says included, is its own problem.
        """
        prior = material.prior
        assert isinstance(prior, StylePrior)
        mean, deviation = code_statistics(prior)
        shape = (*best.pictures.shape[:2], 1, prior.w_dim)
        if material.is_trial:
            return mean.expand(shape)
        features, own = self._features(prior), unfrozen(prior)
        state = {"codes": mean.expand(shape).clone()}
        state.update(first=torch.zeros(shape).to(mean), second=torch.zeros(shape).to(mean))
        loop = material.loop(path, "projecting the best reconstructions")
        for step in loop(self.projection_steps, state):
            at = step / self.projection_steps
            codes = state["codes"].requires_grad_()
            noise = best.rng.normal("projection", *shape[1:], step=step) * (deviation * noise_at(at))
            if best.states is None:
                drawn = prior.synthesise((codes + noise).flatten(0, 1)).unflatten(0, shape[:2])
            else:
                drawn = called(own, start, "synthesise", codes + noise)
            distances = self.distances(_of_each(features, drawn), wanted)
            doubts = F.softplus(-_of_each(prior.realism, drawn))
            if self.distance == "pointwise":
                losses = (distances + _CRITIC * doubts).sum(1)
            else:
                losses = distances[:, 0] + _CRITIC * doubts.mean(1)
            loop.show(projection_loss=losses)
            (gradient,) = torch.autograd.grad(losses.sum(), codes)
            moved = _adam(
                codes.detach(), (state["first"], state["second"]), gradient, step,
                self.projection_lr * rate_at(at),
            )  # fmt: skip
            state["codes"], state["first"], state["second"] = moved
        return state["codes"].detach()

    def _tuned(self, material: Material, start: State, codes: Tensor, wanted: Tensor, path: Path) -> State:
        """The weights [i, ...] of each, after ``steps`` steps from ``start``."""
        own, names = unfrozen(material.prior), list(start)
        features = self._features(own)  # type: ignore[arg-type]  # a copy of a style prior
        state = {name: start[name].clone() for name in names}
        for moment in ("first", "second"):
            state.update({f"{moment} {name}": torch.zeros_like(state[name]) for name in names})
        loop = material.loop(path, "tuning generators")
        for step in loop(self.steps, state):
            weights = {name: state[name].detach().requires_grad_() for name in names}
            drawn = called(own, weights, "synthesise", codes)
            losses = self.distances(_of_each(features, drawn), wanted).mean(1)
            loop.show(tuning_loss=losses)
            gradients = torch.autograd.grad(losses.sum(), [weights[name] for name in names])
            for name, gradient in zip(names, gradients, strict=True):
                moments = state[f"first {name}"], state[f"second {name}"]
                moved = _adam(weights[name].detach(), moments, gradient, step, self.lr)
                state[name], state[f"first {name}"], state[f"second {name}"] = moved
        return {name: state[name] for name in names}


def rate_at(t: float) -> float:
    """What the rate of a projection is multiplied by when a share ``t`` of its steps is done: it rises from 0
    within the first twentieth and falls along a cosine in the last quarter.
    """
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / _FALL))
    return fall * min(1.0, t / _RISE)


def noise_at(t: float) -> float:
    """The deviation of the noise on codes then, in deviations of codes."""
    return _NOISE * max(0.0, 1 - t / _NOISY) ** 2


@torch.no_grad()
def code_statistics(prior: StylePrior) -> tuple[Tensor, Tensor]:
    """The mean [w_dim] of 600 codes, and the root of their mean squared distance to it, a scalar."""
    count, seed = _STATISTICS
    z = torch.from_numpy(np.random.RandomState(seed).randn(count, prior.z_dim).astype(np.float32))
    codes = prior.codes(z.to(next(prior.parameters()).device))[:, 0]
    mean = codes.mean(0)
    return mean, ((codes - mean).square().sum() / count).sqrt()


def _of_each(function: Any, images: Tensor) -> Tensor:
    """What a function of images [n, ...] gives of [i, m, ...]."""
    found: Tensor = function(images.flatten(0, 1))
    each: Tensor = found.unflatten(0, images.shape[:2])
    return each


def _adam(
    values: Tensor, moments: tuple[Tensor, Tensor], gradient: Tensor, step: int, lr: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and moments after one step of Adam, ``step`` counted from 0."""
    (first, second), (one, two) = moments, _BETAS
    first, second = first.lerp(gradient, 1 - one), second.lerp(gradient.square(), 1 - two)
    size = (second / (1 - two ** (step + 1))).sqrt() + 1e-8
    return values - lr / (1 - one ** (step + 1)) * first / size, first, second
