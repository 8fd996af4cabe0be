"""RLB-MI, reinforcement learning-based black-box inversion (Han et al. 2023): an agent per identity learns
where in the latent space of a GAN the target is sure of the identity, from the target's scores alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attacks.parts.sac import SAC, Agents, Replay, Transitions, distinct
from midre_exp.attack import Attack, AttackResult, Transforms
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import ScoreVictim, Threat

Scores = Callable[[Tensor], Tensor]

#: Episodes per step of the loop. The agents of 300 identities weigh a gigabyte: with the usual 200 steps
#: between checkpoints they are written every 4,000 episodes, some minutes apart.
BLOCK = 20
#: Episodes per loop. Each loop keeps in its checkpoint the transitions of its own episodes, so that what is
#: written altogether grows with their number, not with its square.
SEGMENT = 4000
#: Seconds between lines that say how a long attack is doing.
NEWS = 300.0


def log_scores(scores: Tensor) -> Tensor:
    """Logarithms of probabilities, finite where one has underflowed: -87.3 in single precision."""
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


def reward(
    state_scores: Tensor, action_scores: Tensor, labels: Tensor, *, weights: Sequence[float], floor: float
) -> Tensor:
    """w1 log p_y(state) + w2 log p_y(action) + w3 log max(floor, p_y(state) - max_{j != y} p_j(state)), [n].

    The scores p [n, k] are the target's of the images of next state and action; ``labels`` y int64 [n].
    """
    rows = labels[:, None]
    own, other = state_scores.gather(1, rows).squeeze(1), action_scores.gather(1, rows).squeeze(1)
    rival = state_scores.scatter(1, rows, -1.0).amax(1)
    margin = (own - rival).clamp_min(floor).log()
    return weights[0] * log_scores(own) + weights[1] * log_scores(other) + weights[2] * margin


def move(states: Tensor, actions: Tensor, mixing: float) -> Tensor:
    """The states after ``actions``: mixing * states + (1 - mixing) * actions, of one shape."""
    return mixing * states + (1 - mixing) * actions


def sampled_people(num_classes: int, count: int) -> list[int]:
    """The identities the official program attacks: a sample of Python's generator seeded with 42."""
    return random.Random(42).sample(range(num_classes), count)


class Pace:
    """How fast the agents play. Every entry waits once for the device, so that what was measured has
    happened.
    """

    def __init__(self, agents: int, episode: int):
        self.agents = agents
        self.last = self.told = time.perf_counter(), episode

    def report(self, runtime: Runtime, best: Tensor, episode: int, episodes: int) -> None:
        """Tell the tracker, and every ``NEWS`` seconds the user, the mean of ``best`` [n] after ``episode``
        of ``episodes`` and the episodes x identities played per second since the last entry.
        """
        surest, now = float(best.mean()), (time.perf_counter(), episode)
        rate = self._since(self.last, now)
        runtime.tracker.log({"best_confidence": surest, "episodes_x_identities_per_second": rate}, episode)
        self.last = now
        if now[0] - self.told[0] >= NEWS:
            rate = self._since(self.told, now)
            hours = (episodes - episode) * self.agents / rate / 3600
            runtime.say(
                f"RLBMI: {episode} of {episodes} episodes, mean best confidence {surest:.3f}, "
                f"{rate:.0f} episodes x identities per second, {hours:.1f} h to go"
            )
            self.told = now

    def _since(self, then: tuple[float, int], now: tuple[float, int]) -> float:
        return (now[1] - then[1]) * self.agents / max(now[0] - then[0], 1e-9)


class RLBMI(Attack):
    """Scores. Per item a soft actor-critic agent of its own plays ``episodes`` episodes of ``horizon`` steps:
    from a state N(0, I) its policy's action leads to the next state (``move``), whose image is rewarded
    (``reward``), and once more than ``batch_size`` transitions are known (the last ``replay`` are kept) every
    step is followed by an update. After an episode the policy is tested from another start; the latent
    [latent_dim] of which the target was surest in all tests, the latest of equals, is the result.

    ``mixing``: share of the old state in the next; at 0 next state and action have one image, which is asked
    for once. Queries per item and episode: ``horizon``, twice that unless mixing is 0, and 1 for the test;
    ``max_queries`` per item, None for no limit, ends the attack before the first episode that would exceed
    it. ``people``: ``first``, labels 0 to identities - 1, or ``sample``, the official choice. ``draws``:
    ``shared``, every identity's agent starts with the same weights and meets the same random numbers
    (official: one seed, set anew for each), restarts differ; ``own``, nobody shares any. ``log_every``:
    episodes between entries of the detail ``confidence_curve`` [n, entries], the best confidence of a test so
    far. Raises ConfigError for settings under which nothing would be found.
    """

    threat = Threat.SCORES

    def __init__(
        self,
        *,
        agent: SAC,
        episodes: int,
        horizon: int,
        mixing: float,
        batch_size: int,
        replay: int,
        reward_weights: Sequence[float],
        margin_floor: float,
        people: str,
        draws: str,
        log_every: int,
        max_queries: int | None,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
    ):
        super().__init__(identities=identities, restarts=restarts, image_to_target=image_to_target)
        counts = {"episodes": episodes, "horizon": horizon, "batch_size": batch_size, "log_every": log_every}
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"attack.{name}={value} must be at least 1")
        if replay <= batch_size:
            raise ConfigError(
                f"attack.replay={replay} must exceed attack.batch_size={batch_size}, or no agent ever learns"
            )
        if not 0 <= mixing < 1:
            raise ConfigError(f"attack.mixing={mixing} must be from 0 to below 1")
        if len(reward_weights) != 3:
            raise ConfigError(f"attack.reward_weights={list(reward_weights)} must be three numbers")
        if margin_floor <= 0:
            raise ConfigError(f"attack.margin_floor={margin_floor} must be positive")
        if people not in ("first", "sample"):
            raise ConfigError(f"attack.people={people} is unknown; use first or sample")
        if draws not in ("shared", "own"):
            raise ConfigError(f"attack.draws={draws} is unknown; use shared or own")
        self.agent = agent
        self.horizon = horizon
        self.mixing = mixing
        self.batch_size = batch_size
        self.replay = replay
        self.reward_weights = tuple(reward_weights)
        self.margin_floor = margin_floor
        self.people = people
        self.draws = draws
        self.log_every = log_every
        self.queries_per_episode = horizon * (1 if mixing == 0 else 2) + 1
        if max_queries is not None and max_queries < self.queries_per_episode:
            raise ConfigError(
                f"attack.max_queries={max_queries} is less than the {self.queries_per_episode} of one episode; raise it or use null"
            )
        affordable = episodes if max_queries is None else max_queries // self.queries_per_episode
        self.episodes = min(episodes, affordable)

    @property
    def group_size(self) -> int:
        """With shared draws the restarts of an identity, which are told apart by their order."""
        return self.restarts if self.draws == "shared" else 1

    def invert(
        self, victim: ScoreVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        """The surest latents [n, latent_dim] of all tests, their queries, and the ``confidence_curve``.

        Raises ConfigError for a prior trained against the target, which more than scores are needed for.
        """
        if prior.uses_target:
            raise ConfigError(
                f"attack.prior is a {type(prior).__name__}, which knows the target; RLB-MI sees scores alone, use prior gmi"
            )
        if self.draws == "shared":
            restart = torch.arange(len(labels), device=labels.device) % self.restarts
            rng = ItemRNG(int(loop.common.keys[0]), "agent", items=restart)
        if self.people == "sample":
            chosen = torch.tensor(sampled_people(victim.num_classes, self.identities))
            labels = chosen.to(labels.device)[labels]

        def confide(latents: Tensor) -> Tensor:
            with torch.no_grad():
                return victim.scores(self.render(prior, latents, labels))

        state = self.agent.initial(rng, prior.latent_dim)
        like = state["actor.mu.bias"].squeeze(1)
        replay = Replay(min(self.replay, self.episodes * self.horizon), like)
        state["best"], state["latents"] = like.new_zeros(len(like)), torch.zeros_like(like)
        state["confidence_curve"] = like.new_zeros(len(like), -(-self.episodes // self.log_every))
        pace = None
        for first in range(0, self.episodes, SEGMENT):
            last = min(first + SEGMENT, self.episodes)
            state.update(replay.copy(0, 0))
            for block in loop(-(-(last - first) // BLOCK), state):
                begin = first + block * BLOCK
                end = min(begin + BLOCK, last)
                replay.restore(state, begin * self.horizon)  # changes nothing but after an interruption
                pace = pace or Pace(len(labels), begin)
                for episode in range(begin, end):
                    self.train(confide, labels, rng, state, replay, episode)
                    self.test(confide, labels, rng, state, episode)
                    if (episode + 1) % self.log_every == 0:
                        pace.report(loop.runtime, state["best"], episode + 1, self.episodes)
                state.update(replay.copy(first * self.horizon, end * self.horizon))
            replay.restore(state, last * self.horizon)
        queries = torch.full_like(labels, self.episodes * self.queries_per_episode)
        details = {"confidence_curve": state["confidence_curve"]}
        return AttackResult(state["latents"], queries, labels, details)

    def train(
        self, confide: Scores, labels: Tensor, rng: ItemRNG, state: Agents, replay: Replay, episode: int
    ) -> None:
        """One episode of every agent, each step followed by an update. Changes ``state`` and ``replay``."""
        here = rng.normal("state", state["latents"].shape[1], step=episode)
        for number in range(episode * self.horizon, (episode + 1) * self.horizon):
            actions = self.choose(rng, "action", state, here, number)
            there = move(here, actions, self.mixing)
            scores = confide(there)
            action_scores = scores if self.mixing == 0 else confide(actions)
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

    def test(self, confide: Scores, labels: Tensor, rng: ItemRNG, state: Agents, episode: int) -> None:
        """One step of every policy from a new start; its latents are kept where the target is as sure as
        ever. Changes ``state``.
        """
        start = rng.normal("test state", state["latents"].shape[1], step=episode)
        latents = move(start, self.choose(rng, "test action", state, start, episode), self.mixing)
        confidence = confide(latents).gather(1, labels[:, None]).squeeze(1)
        surer = confidence >= state["best"]
        state["best"] = torch.where(surer, confidence, state["best"])
        state["latents"] = torch.where(surer[:, None], latents, state["latents"])
        state["confidence_curve"][:, episode // self.log_every] = state["best"]

    def choose(self, rng: ItemRNG, name: str, state: Agents, here: Tensor, step: int) -> Tensor:
        """A draw of each policy at the states ``here`` [n, latent_dim]: actions of that shape."""
        noise = self.agent.draw_noise(rng, name, 1, here.shape[1], step=step)
        with torch.no_grad():
            return self.agent.act(state, here[:, None], noise)[0].squeeze(1)
