"""Soft actor-critic (Haarnoja et al. 2018) for many agents that learn side by side, each of its own problem.

The weights of n agents are stacked, [n, in, out], and every operation keeps them apart: an agent learns as it
would alone. Networks, losses and one update are pure functions of a dict of tensors; the memory of
transitions is the only thing changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from attacks.base import ItemRNG
from attacks.parts.checks import one_of
from attacks.parts.optimisers import adam_steps
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Finite, LearningRate, Share

Agents = dict[str, Tensor]
Noise = Literal["scalar", "per_dimension"]
Entropy = Literal["mean", "sum"]
Critics = Literal["twins", "independent"]

LOG_STD = (-20.0, 2.0)
#: Added where tanh saturates, so that the logarithm of its slope stays finite (official SAC code).
SQUASH_FLOOR = 1e-6
#: How far from 0 the last weights of a critic start; the others' bound takes the output size for the fan-in
#: (official code).
LAST_BOUND = 0.003
MOMENTS = ("mean", "square")


def layer(inputs: Tensor, agents: Agents, name: str) -> Tensor:
    """One linear layer per agent: [n, ..., b, in] to [n, ..., b, out]."""
    return inputs @ agents[f"{name}.weight"] + agents[f"{name}.bias"]


def policy(agents: Agents, states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log std [n, b, d] of the Gaussians before squashing, of states [n, b, d]."""
    hidden = F.relu(layer(states, agents, "actor.fc1"))
    hidden = F.relu(layer(hidden, agents, "actor.fc2"))
    log_std = layer(hidden, agents, "actor.log_std_linear").clamp(*LOG_STD)
    return layer(hidden, agents, "actor.mu"), log_std


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(mean + std noise) in (-1, 1) and their log-densities per dimension, both [n, b, d].

    ``noise`` is standard normal and broadcasts to [n, b, d].
    """
    actions = torch.tanh(mean + log_std.exp() * noise)
    gaussian = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    return actions, gaussian - (1 - actions**2 + SQUASH_FLOOR).log()


def q_values(agents: Agents, network: str, states: Tensor, actions: Tensor) -> Tensor:
    """What every copy of ``network`` (``critic`` or ``target``) expects of states and actions [n, b, d]: [n,
    copies, b].
    """
    hidden = torch.cat([states, actions], -1).unsqueeze(1)
    for name in ("fc1", "fc2"):
        hidden = F.relu(layer(hidden, agents, f"{network}.{name}"))
    return layer(hidden, agents, f"{network}.fc3").squeeze(-1)


@dataclass(frozen=True)
class Transitions:
    """Per agent b transitions: ``states`` and ``actions`` [n, b, d], ``rewards`` [n, b].

    ``following`` [n, b, d] are the states after them, ``going_on`` [n, b] is 1 where the episode continued,
    else 0; both None if every transition ended its episode.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor | None = None
    going_on: Tensor | None = None


class Replay:
    """The last ``capacity`` transitions of n agents on the device, [n, capacity, ...]."""

    def __init__(self, capacity: int, like: Tensor):
        agents, dim = like.shape
        self.capacity = capacity
        self.columns = {
            "replay.states": like.new_zeros(agents, capacity, dim),
            "replay.actions": like.new_zeros(agents, capacity, dim),
            "replay.rewards": like.new_zeros(agents, capacity),
        }

    def put(self, number: int, states: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """Store transition ``number`` (from 0) of every agent: [n, d], [n, d], [n]."""
        for column, value in zip(self.columns.values(), (states, actions, rewards), strict=True):
            column[:, number % self.capacity] = value

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States and actions [n, b, d] and rewards [n, b] in the places ``rows`` int64 [n, b]."""
        own = torch.arange(len(rows), device=rows.device)[:, None]
        states, actions, rewards = (column[own, rows] for column in self.columns.values())
        return states, actions, rewards

    def copy(self, start: int, stop: int) -> dict[str, Tensor]:
        """Transitions ``start`` to ``stop - 1``, as far as they are still there, as tensors of their own, [n,
        count, ...].
        """
        places = self._places(min(stop - start, self.capacity), stop)
        return {name: column[:, places] for name, column in self.columns.items()}

    def restore(self, saved: dict[str, Tensor], stop: int) -> None:
        """Put back what ``copy`` gave for the transitions before ``stop``."""
        for name, column in self.columns.items():
            column[:, self._places(saved[name].shape[1], stop)] = saved[name]

    def _places(self, count: int, stop: int) -> Tensor:
        device = self.columns["replay.rewards"].device
        return torch.arange(stop - count, stop, device=device) % self.capacity


def distinct(rng: ItemRNG, name: str, count: int, population: int, *, step: int) -> Tensor:
    """``count`` different numbers below ``population`` per stream, every choice equally likely: int64 [n,
    count].

    Sorts the whole population while it is small; later draws four times as many as asked and keeps the first
    different ones, which costs the same however large the population is. It could run short, but does not:
    1,024 draws from as many numbers give 647 +- 10 different ones, 64 draws from 64 give 41 +- 2.5.
    """
    if population <= 4 * count or count < 16:
        return rng.uniform(name, population, step=step).argsort(1)[:, :count]
    drawn = (rng.uniform(name, 4 * count, step=step).double() * population).long()
    values, places = drawn.sort(stable=True, dim=1)
    repeats = F.pad(values[:, 1:] == values[:, :-1], (1, 0))
    late = torch.zeros_like(repeats).scatter(1, places, repeats)  # draws that came before already
    return drawn.gather(1, late.to(torch.int8).argsort(stable=True, dim=1)[:, :count])


@dataclass(kw_only=True, eq=False)
class SAC:
    """The hyperparameters of all agents; a textbook's choice is named where the released one differs."""

    hidden: Count  # width of the two hidden layers of every network (released: 256)
    lr: LearningRate  # of Adam, for actor, critics and log temperature (released: 5e-4)
    discount: Share  # [0, 1]; plays no part in episodes of one step (released: 0.99)
    tau: Share  # how far the target critics move to the critics per update, [0, 1] (released: 0.01)
    target_entropy: Finite | None  # None: minus the number of dimensions (released: -100)
    #: "scalar" (released): one normal number per call of the policy, added times the std to every dimension
    #: of every sample of an agent; "per_dimension" (textbook).
    noise: Noise
    #: The log-probability is the "mean" over the dimensions (released), so that the temperature falls on a
    #: schedule, or their "sum" (textbook).
    entropy: Entropy
    #: "twins" (released): both start from one seed and so stay equal, one is computed; "independent"
    #: (textbook).
    critics: Critics

    def __post_init__(self) -> None:
        one_of("attack.agent.noise", self.noise, Noise)
        one_of("attack.agent.entropy", self.entropy, Entropy)
        one_of("attack.agent.critics", self.critics, Critics)
        if self.hidden < 1:
            raise ConfigError(f"attack.agent.hidden={self.hidden} must be at least 1")
        for name in ("discount", "tau"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"attack.agent.{name}={getattr(self, name)} must be from 0 to 1")

    def initial(self, rng: ItemRNG, dim: int) -> Agents:
        """New agents for states and actions of ``dim`` numbers, one per stream: weights, Adam's moments,
        temperatures.
        """
        copies = 1 if self.critics == "twins" else 2
        wide, small = 1 / math.sqrt(self.hidden), LAST_BOUND
        narrow = 1 / math.sqrt(dim)  # PyTorch's default for a linear layer: 1 / sqrt(fan-in)
        layers = {  # name: copies, in, out, bound of the weights, bound of the bias
            "actor.fc1": ((), dim, self.hidden, narrow, narrow),
            "actor.fc2": ((), self.hidden, self.hidden, wide, wide),
            "actor.mu": ((), self.hidden, dim, wide, wide),
            "actor.log_std_linear": ((), self.hidden, dim, wide, wide),
            "critic.fc1": ((copies,), 2 * dim, self.hidden, wide, 1 / math.sqrt(2 * dim)),
            "critic.fc2": ((copies,), self.hidden, self.hidden, wide, wide),
            "critic.fc3": ((copies,), self.hidden, 1, small, wide),
        }
        agents: Agents = {}
        for name, (stack, rows, columns, bound, bias_bound) in layers.items():
            weight = rng.uniform(f"{name}.weight", *stack, rows, columns)
            bias = rng.uniform(f"{name}.bias", *stack, 1, columns)
            agents[f"{name}.weight"] = (2 * weight - 1) * bound
            agents[f"{name}.bias"] = (2 * bias - 1) * bias_bound
        agents["log_temperature"] = agents["actor.mu.bias"].new_zeros(len(rng))
        moments = {f"{name}/{kind}": torch.zeros_like(agents[name]) for name in agents for kind in MOMENTS}
        targets = {f"target{name.removeprefix('critic')}": agents[name] for name in _of("critic", agents)}
        return {**agents, **moments, **targets, "temperature": torch.ones_like(agents["log_temperature"])}

    def draw_noise(self, rng: ItemRNG, name: str, count: int, dim: int, *, step: int) -> Tensor:
        """The noise of one call of the policy on ``count`` states per agent: [n, 1, 1] or [n, count, dim]."""
        shape = (1, 1) if self.noise == "scalar" else (count, dim)
        return rng.normal(name, *shape, step=step)

    def act(self, agents: Agents, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [n, b, d] in (-1, 1) for states [n, b, d], and their log-probabilities [n, b], mean or sum
        over the dimensions.
        """
        actions, density = squash(*policy(agents, states), noise)
        return actions, density.mean(-1) if self.entropy == "mean" else density.sum(-1)

    @torch.no_grad()
    def q_targets(self, agents: Agents, batch: Transitions, noise: Tensor | None) -> Tensor:
        """What the critics are trained towards, [n, b]: r + going_on * discount * (min Q' - temperature *
        log-probability) of the state after.

        The temperature is the one the last update used, one step older than the newest (official code).
        """
        if batch.following is None or batch.going_on is None or noise is None:
            return batch.rewards
        actions, log_probability = self.act(agents, batch.following, noise)
        value = q_values(agents, "target", batch.following, actions).amin(1)
        value = value - agents["temperature"][:, None] * log_probability
        return batch.rewards + batch.going_on * self.discount * value

    def learn(
        self, agents: Agents, batch: Transitions, noise: Tensor, following_noise: Tensor | None, update: int
    ) -> tuple[Agents, dict[str, Tensor]]:
        """The agents after their update number ``update`` (from 0), and the losses it descended: ``critic``
        [n, copies], ``temperature`` and ``actor`` [n].

        In the official order: critics; temperature; actor, by the first critic as just updated and the
        temperature as it was; targets. ``noise`` is the policy's for ``batch.states``, ``following_noise``
        for ``batch.following``.
        """
        targets = self.q_targets(agents, batch, following_noise)
        dim = batch.states.shape[-1]

        leaves = _leaves(agents, _of("critic", agents))
        errors = q_values({**agents, **leaves}, "critic", batch.states, batch.actions) - targets[:, None]
        critic_loss = 0.5 * errors.square().mean(-1)
        after = self._descend(agents, leaves, critic_loss, update)

        leaves = _leaves(agents, _of("actor", agents))
        actions, log_probability = self.act({**agents, **leaves}, batch.states, noise)
        target = -float(dim) if self.target_entropy is None else self.target_entropy
        difference = (log_probability.detach() + target).mean(-1)
        rising = _leaves(agents, ["log_temperature"])
        temperature_loss = -rising["log_temperature"] * difference
        after |= self._descend(agents, rising, temperature_loss, update)

        temperature = agents["log_temperature"].exp()
        first = {name: after[name][:, :1] for name in _of("critic", after)}
        values = q_values(first, "critic", batch.states, actions).squeeze(1)
        actor_loss = (temperature[:, None] * log_probability - values).mean(-1)
        after |= self._descend(agents, leaves, actor_loss, update)

        for name in _of("target", agents):
            after[name] = agents[name].lerp(after[f"critic{name.removeprefix('target')}"], self.tau)
        after["temperature"] = temperature
        losses = {"critic": critic_loss, "temperature": temperature_loss, "actor": actor_loss}
        return after, {name: loss.detach() for name, loss in losses.items()}

    def _descend(self, agents: Agents, leaves: Agents, losses: Tensor, update: int) -> Agents:
        """The ``leaves`` and their moments after one Adam step on the losses, which the sum keeps apart: each
        has its own weights.
        """
        gradients = list(torch.autograd.grad(losses.sum(), list(leaves.values())))
        moments = [(agents[f"{name}/mean"], agents[f"{name}/square"]) for name in leaves]
        moved, moments = adam_steps(list(leaves.values()), moments, gradients, update, lr=self.lr)
        after = dict(zip(leaves, moved, strict=True))
        for name, (mean, square) in zip(leaves, moments, strict=True):
            after |= {f"{name}/mean": mean, f"{name}/square": square}
        return after


def _of(network: str, leaves: Iterable[str]) -> list[str]:
    """The names of one network's weights."""
    return [name for name in leaves if name.startswith(f"{network}.") and "/" not in name]


def _leaves(agents: Agents, names: list[str]) -> Agents:
    """The named tensors, to take gradients with respect to."""
    return {name: agents[name].detach().requires_grad_() for name in names}
