"""RLB-MI, reinforcement learning-based black-box inversion: an agent per identity learns where in the latent
space of a GAN the target is confident of the identity, from the target's scores alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from attacks.base import AttackResult, Informed, ItemRNG, Loop, Prior, Runtime, ScoreAttack, ScoreVictim
from attacks.losses import log_scores
from attacks.parts.checks import at_least_one, one_of
from attacks.parts.sac import SAC, Agents, Replay, Transitions, distinct
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, Finite, Positive

#: Latents [n, d] to the target's scores [n, k] of their images.
Score = Callable[[Tensor], Tensor]
Choice = Literal["first", "sample"]
Draws = Literal["shared", "own"]

#: Episodes per step of the loop, after each of which a checkpoint may be due and transitions are copied.
BLOCK = 20
#: Episodes per loop. Each loop saves in its checkpoint the transitions of its own episodes, so that what is
#: written altogether grows with their number, not with its square.
SEGMENT = 4000
#: Seconds between lines that say how far a long attack is.
LOG_SECONDS = 300.0


def reward(
    state_scores: Tensor, action_scores: Tensor, labels: Tensor, *, weights: Sequence[float], floor: float
) -> Tensor:
    """w1 log p_y(state) + w2 log p_y(action) + w3 log max(floor, p_y(state) - max_{j != y} p_j(state)), [n].

    The scores p [n, k] are the target's of the images of next state and action; ``labels`` y int64 [n].
    """
    rows = labels[:, None]
    own, other = state_scores.gather(1, rows).squeeze(1), action_scores.gather(1, rows).squeeze(1)
    runner_up = state_scores.scatter(1, rows, -1.0).amax(1)
    margin = (own - runner_up).clamp_min(floor).log()
    return weights[0] * log_scores(own) + weights[1] * log_scores(other) + weights[2] * margin


def move(states: Tensor, actions: Tensor, mixing: float) -> Tensor:
    """The states after ``actions``: mixing * states + (1 - mixing) * actions, of one shape."""
    return mixing * states + (1 - mixing) * actions


def sampled_identities(num_classes: int, count: int) -> list[int]:
    """The identities the official program attacks: a sample of Python's generator seeded with 42."""
    return random.Random(42).sample(range(num_classes), count)


class Throughput:
    """How fast the agents play. Every entry waits once for the device, so that what was measured has
    happened.
    """

    def __init__(self, agents: int, episode: int):
        self.agents = agents
        self.last_entry = self.last_line = time.perf_counter(), episode

    def report(self, runtime: Runtime, best: Tensor, episode: int, episodes: int) -> None:
        """Log, and every ``LOG_SECONDS`` print, the mean of ``best`` [n] after ``episode`` of ``episodes``
        and the episodes x identities played per second since the last entry.
        """
        mean, now = float(best.mean()), (time.perf_counter(), episode)
        rate = self._rate(self.last_entry, now)
        runtime.tracker.log({"best_confidence": mean, "episodes_x_identities_per_second": rate}, episode)
        self.last_entry = now
        if now[0] - self.last_line[0] >= LOG_SECONDS:
            rate = self._rate(self.last_line, now)
            hours = (episodes - episode) * self.agents / rate / 3600
            runtime.say(
                f"RLBMI: {episode} of {episodes} episodes, mean best confidence {mean:.3f}, "
                f"{rate:.0f} episodes x identities per second, {hours:.1f} h to go"
            )
            self.last_line = now

    def _rate(self, before: tuple[float, int], now: tuple[float, int]) -> float:
        return (now[1] - before[1]) * self.agents / max(now[0] - before[0], 1e-9)


@dataclass(kw_only=True, eq=False)
class RLBMI(ScoreAttack):
    """Per item a soft actor-critic agent maximises 2 log p_y(s') + 2 log p_y(a) + 8 log max(floor, p_y(s') -
    max_{j != y} p_j(s')) over actions a in latent space, s' = mixing s + (1 - mixing) a (Han et al., CVPR
    2023, eq. 7).

    Once more than ``batch_size`` transitions are known, every step of an episode is followed by an update.
    After an episode the policy is tested from another start; the latent [latent_dim] with the best confidence
    in all tests, the latest of equals, is the result. Queries per item and episode: ``horizon``, twice that
    unless mixing is 0, and 1 for the test. Detail ``confidence_curve`` [n, entries]: the best confidence so
    far.
    """

    agent: SAC  # networks and updates of the agents
    episodes: Count  # per agent (released: 40,000; short run: 10,000)
    horizon: Count  # steps per episode (released: 1)
    mixing: BelowOne  # share of the old state in the next, [0, 1), "alpha" of the paper (released: 0)
    batch_size: Count  # transitions per update (released: 256)
    replay: Count  # transitions remembered per agent, above batch_size (released: 1,000,000)
    reward_weights: tuple[Finite, ...]  # of the three terms (released: 2, 2, 8)
    margin_floor: Positive  # of the third, above 0 (released: 1e-7)
    #: "first": labels 0 to identities - 1, as all other attacks; "sample": the released draw of classes.
    choice: Choice
    #: "shared" (released, one seed set anew for each): every identity's agent starts with the same weights
    #: and meets the same random numbers, restarts differ; "own": nobody shares any.
    draws: Draws
    log_every: Count  # episodes between entries of ``confidence_curve``
    max_queries: Count | None  # per item: ends before the first episode that would exceed it; None: no limit

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(
            episodes=self.episodes,
            horizon=self.horizon,
            batch_size=self.batch_size,
            log_every=self.log_every,
        )
        if self.replay <= self.batch_size:
            raise ConfigError(
                f"attack.replay={self.replay} must exceed attack.batch_size={self.batch_size}, or no agent "
                "ever learns"
            )
        if not 0 <= self.mixing < 1:
            raise ConfigError(f"attack.mixing={self.mixing} must be from 0 to below 1")
        if len(self.reward_weights) != 3:
            raise ConfigError(f"attack.reward_weights={list(self.reward_weights)} must be three numbers")
        self.reward_weights = tuple(self.reward_weights)
        if self.margin_floor <= 0:
            raise ConfigError(f"attack.margin_floor={self.margin_floor} must be positive")
        one_of("attack.choice", self.choice, Choice)
        one_of("attack.draws", self.draws, Draws)
        self._keep_to_budget()

    def inform(self, known: Informed) -> None:
        """Average the answers to changed copies of every image; each is a query."""
        super().inform(known)
        self._keep_to_budget()

    def _keep_to_budget(self) -> None:
        """Play as many episodes as ``max_queries`` allow. Raises ConfigError where that is none."""
        if self.max_queries is not None:
            if self.max_queries < self.queries_per_episode:
                raise ConfigError(
                    f"attack.max_queries={self.max_queries} is less than the {self.queries_per_episode} of "
                    "one episode; raise it or use null"
                )
            self.episodes = min(self.episodes, self.max_queries // self.queries_per_episode)

    @property
    def queries_per_episode(self) -> int:
        """Of each item."""
        return (self.horizon * (1 if self.mixing == 0 else 2) + 1) * self.copies

    @property
    def group_size(self) -> int:
        """With shared draws the restarts of an identity, which differ by their order alone."""
        return self.restarts if self.draws == "shared" else 1

    def invert(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The latents [n, latent_dim] with the best confidence in all tests.

        Raises ConfigError for a prior trained against the target, which more than scores are needed for.
        """
        if prior.uses_target:
            raise ConfigError(
                f"attack.prior is a {type(prior).__name__}, which knows the target; RLB-MI sees scores "
                "alone, use prior gmi"
            )
        if self.draws == "shared":
            restart = torch.arange(len(labels), device=labels.device) % self.restarts
            rng = ItemRNG(int(loop.shared_rng.keys[0]), "agent", items=restart)
        if self.choice == "sample":
            chosen = torch.tensor(sampled_identities(victim.num_classes, self.identities))
            labels = chosen.to(labels.device)[labels]
        score = partial(self.score, victim, prior, labels)
        state = self.agent.initial(rng, prior.latent_dim)
        like = state["actor.mu.bias"].squeeze(1)
        replay = Replay(min(self.replay, self.episodes * self.horizon), like)
        state["best"], state["latents"] = like.new_zeros(len(like)), torch.zeros_like(like)
        state["confidence_curve"] = like.new_zeros(len(like), -(-self.episodes // self.log_every))
        throughput = None
        for first in range(0, self.episodes, SEGMENT):
            last = min(first + SEGMENT, self.episodes)
            state.update(replay.copy(0, 0))
            for block in loop(-(-(last - first) // BLOCK), state):
                begin = first + block * BLOCK
                end = min(begin + BLOCK, last)
                replay.restore(state, begin * self.horizon)  # changes nothing but after an interruption
                throughput = throughput or Throughput(len(labels), begin)
                for episode in range(begin, end):
                    self.train(score, labels, rng, state, replay, episode)
                    self.test(score, labels, rng, state, episode)
                    if (episode + 1) % self.log_every == 0:
                        throughput.report(loop.runtime, state["best"], episode + 1, self.episodes)
                state.update(replay.copy(first * self.horizon, end * self.horizon))
            replay.restore(state, last * self.horizon)
        queries = torch.full_like(labels, self.episodes * self.queries_per_episode)
        details = {"confidence_curve": state["confidence_curve"]}
        return AttackResult(state["latents"], queries, labels, details)

    @torch.no_grad()
    def score(self, victim: ScoreVictim, prior: Prior, labels: Tensor, latents: Tensor) -> Tensor:
        """The target's scores [n, k] of the images of latents [n, latent_dim]."""
        return victim.scores(self.render(prior, latents, labels))

    def train(
        self, score: Score, labels: Tensor, rng: ItemRNG, state: Agents, replay: Replay, episode: int
    ) -> None:
        """One episode of every agent, each step followed by an update. Changes ``state`` and ``replay``."""
        here = rng.normal("state", state["latents"].shape[1], step=episode)
        for number in range(episode * self.horizon, (episode + 1) * self.horizon):
            actions = self.choose(rng, "action", state, here, number)
            there = move(here, actions, self.mixing)
            scores = score(there)
            action_scores = scores if self.mixing == 0 else score(actions)
            rewards = reward(
                scores, action_scores, labels, weights=self.reward_weights, floor=self.margin_floor
            )
            replay.put(number, here, actions, rewards)
            if number >= self.batch_size:
                state.update(self.updated(rng, state, replay, number))
            here = there

    def updated(self, rng: ItemRNG, state: Agents, replay: Replay, number: int) -> Agents:
        """The agents after the update that follows transition ``number``."""
        known = min(number + 1, replay.capacity)
        places = distinct(rng, "batch", self.batch_size, known, step=number)
        states, actions, rewards = replay.take(places)
        batch, next_noise = Transitions(states, actions, rewards), None
        shape = self.batch_size, states.shape[-1]
        if self.horizon > 1:
            numbers = number - (number - places) % replay.capacity
            going_on = ((numbers + 1) % self.horizon != 0).to(rewards.dtype)
            batch = Transitions(states, actions, rewards, move(states, actions, self.mixing), going_on)
            next_noise = self.agent.draw_noise(rng, "next action", *shape, step=number)
        noise = self.agent.draw_noise(rng, "new action", *shape, step=number)
        return self.agent.learn(state, batch, noise, next_noise, number - self.batch_size)[0]

    def test(self, score: Score, labels: Tensor, rng: ItemRNG, state: Agents, episode: int) -> None:
        """One step of every policy from a new start; its latents are kept where the confidence is the best
        so far. Changes ``state``.
        """
        start = rng.normal("test state", state["latents"].shape[1], step=episode)
        latents = move(start, self.choose(rng, "test action", state, start, episode), self.mixing)
        confidence = score(latents).gather(1, labels[:, None]).squeeze(1)
        best = confidence >= state["best"]
        state["best"] = torch.where(best, confidence, state["best"])
        state["latents"] = torch.where(best[:, None], latents, state["latents"])
        state["confidence_curve"][:, episode // self.log_every] = state["best"]

    def choose(self, rng: ItemRNG, name: str, state: Agents, here: Tensor, step: int) -> Tensor:
        """A draw of each policy at the states ``here`` [n, latent_dim]: actions of that shape."""
        noise = self.agent.draw_noise(rng, name, 1, here.shape[1], step=step)
        with torch.no_grad():
            return self.agent.act(state, here[:, None], noise)[0].squeeze(1)
