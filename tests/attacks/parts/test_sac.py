from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.parts.sac import SAC, Agents, Replay, Transitions, distinct, policy, q_values, squash
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build, plain
from midre_exp.seeding import ItemRNG
from tests.golden.fill import _draw, fixed_values, golden

GOLDEN = golden("rlbmi")["sac"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # the golden file's own tolerance
TEXTBOOK = {"noise": "per_dimension", "entropy": "sum", "critics": "independent"}


def sac(**changes) -> SAC:
    """The agent of conf/attack/rlbmi.yaml."""
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "rlbmi.yaml"))
    return build({**node["agent"], **changes})


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def draw(key: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(_draw(key, shape))


def close(found: Tensor, expected, **tolerance) -> None:
    torch.testing.assert_close(
        found.detach(), torch.tensor(expected, dtype=found.dtype), **{**CLOSE, **tolerance}
    )


def golden_agents() -> Agents:
    """One agent with the golden weights; the copies of critic and target differ."""
    shapes = {name: tuple(shape) for name, shape in GOLDEN["keys"].items() if name.startswith("actor")}
    for name, shape in GOLDEN["keys"].items():
        if name.startswith("critic1."):
            for copy in ("critic1", "critic2", "target1", "target2"):
                shapes[name.replace("critic1", copy)] = tuple(shape)
    values = {name: torch.from_numpy(value) for name, value in fixed_values(shapes, set()).items()}
    agents = sac(critics="independent").initial(rng(1), 100)
    for name in [name for name in agents if name.endswith((".weight", ".bias"))]:
        network, rest = name.split(".", 1)
        copies = [name] if network == "actor" else [f"{network}{k}.{rest}" for k in (1, 2)]
        stacked = torch.stack([torch.atleast_2d(values.pop(copy)).mT for copy in copies])
        agents[name] = stacked.view_as(agents[name])
    assert not values  # every golden weight has its place
    return agents


def golden_batch() -> Transitions:
    return Transitions(
        draw("sac.state", (8, 100))[None],
        draw("sac.action", (8, 100)).tanh()[None],
        5 * draw("sac.reward", (8, 1)).T,
        draw("sac.next_state", (8, 100))[None],
        1 - torch.tensor([[1.0, 1, 0, 1, 0, 1, 1, 0]]),
    )


def scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1), value)


# networks


def test_the_networks_have_the_golden_sizes():
    agents = sac().initial(rng(1), 100)
    for network, name in (("actor", "actor"), ("critic", "critic"), ("critic", "target")):
        weights = [
            v for key, v in agents.items() if key.startswith(f"{name}.") and key.endswith(("weight", "bias"))
        ]
        assert sum(weight.numel() for weight in weights) == GOLDEN["parameter_counts"][network]
    for key, shape in GOLDEN["keys"].items():
        if not key.startswith("same"):
            own = agents[key.replace("critic1", "critic")].flatten(0, -3).squeeze(0)
            assert list(own.T.shape if key.endswith("weight") else own.squeeze(0).shape) == shape


def test_the_policy_answers_the_golden_moments_actions_and_log_probabilities():
    agents, expected = golden_agents(), GOLDEN["forward"]
    states = golden_batch().states
    mean, log_std = policy(agents, states)
    close(mean[0, 0, :6], expected["mu_row0_first6"])
    close(mean.sum(), expected["mu_sum"])
    close(mean.abs().mean(), expected["mu_abs_mean"])
    close(log_std[0, 0, :6], expected["log_std_row0_first6"])
    close(log_std.sum(), expected["log_std_sum"])
    close(log_std.min(), expected["log_std_min"])
    close(log_std.max(), expected["log_std_max"])
    noises = {
        "scalar_noise": scalar(expected["scalar_noise"]["e"]),
        "per_dimension_noise": draw("sac.noise", (8, 100))[None],
    }
    for kind, noise in noises.items():
        actions, log_probability = sac().act(agents, states, noise)
        close(actions[0, 0, :6], expected[kind]["action_row0_first6"])
        close(actions.sum(), expected[kind]["action_sum"])
        close(log_probability[0], expected[kind]["log_prob_mean_over_dims"])
    summed = sac(entropy="sum").act(agents, states, noises["per_dimension_noise"])[1]
    close(summed[0], expected["per_dimension_noise"]["log_prob_sum_over_dims"])


def test_both_critics_and_both_targets_answer_the_golden_values():
    agents, batch = golden_agents(), golden_batch()
    for network, names in (("critic", ("q1", "q2")), ("target", ("qt1", "qt2"))):
        found = q_values(agents, network, batch.states, batch.actions)
        for copy, name in enumerate(names):
            close(found[0, copy], GOLDEN["forward"][name])


def test_the_log_density_is_that_of_the_squashed_gaussian():
    mean, log_std, noise = torch.randn(3, 1, 50, 1, dtype=torch.float64)
    actions, density = squash(mean, log_std, noise)
    gaussian = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(gaussian, torch.distributions.TanhTransform())
    away = actions.abs() < 0.9  # the official 1e-6 under the logarithm weighs more near the border
    torch.testing.assert_close(density[away], squashed.log_prob(actions)[away], rtol=0, atol=1e-5)


def test_initial_weights_keep_the_official_bounds_and_differ_between_agents():
    agents = sac(critics="independent").initial(rng(3), 100)
    bounds = {
        "actor.fc1": 0.1,
        "actor.mu": 1 / 16,
        "critic.fc1": 1 / 16,
        "critic.fc2": 1 / 16,
        "critic.fc3": 3e-3,
    }
    for name, bound in bounds.items():
        size = agents[f"{name}.weight"].abs().amax((-2, -1))
        assert ((size > 0.95 * bound) & (size <= bound)).all(), name
    assert agents["critic.fc1.bias"].abs().max() <= 200**-0.5
    assert 1 / 32 < agents["critic.fc3.bias"].abs().max() < 1 / 16  # six draws below 1/16
    first, second = agents["critic.fc1.weight"].unbind(1)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert torch.equal(agents["target.fc1.weight"], agents["critic.fc1.weight"])
    assert agents["log_temperature"].tolist() == [0, 0, 0] and agents["temperature"].tolist() == [1, 1, 1]


# updates


def test_two_updates_match_the_golden_ones():
    agents, batch, agent = golden_agents(), golden_batch(), sac(critics="independent")
    for update, expected in enumerate(GOLDEN["updates"]["steps"]):
        following = scalar(expected["e_next"])
        close(agent.q_targets(agents, batch, following)[0], expected["td_target"])
        agents, losses = agent.learn(agents, batch, scalar(expected["e_current"]), following, update)
        for copy in (0, 1):
            close(losses["critic"][0, copy], expected[f"critic{copy + 1}_loss"])
        close(losses["temperature"][0], expected["alpha_loss"])
        close(losses["actor"][0], expected["actor_loss"])
        close(agents["temperature"][0], expected["alpha_used"])
        close(agents["log_temperature"][0], expected["log_alpha_after"], atol=1e-8)
        for key, total in expected["sums_after"].items():
            value = agents[key.replace("1.", ".", 1) if key[:5] != "actor" else key][0]
            value = value if key.startswith("actor") else value[0]
            # a sum over up to 65,536 float32 weights that Adam moved by 5e-4 each
            close(value.double().sum(), total, atol=1e-3)
        probe = expected["probe_after"]
        close(policy(agents, batch.states)[0][0, 0, :4], probe["mu_row0_first4"])
        close(q_values(agents, "critic", batch.states, batch.actions)[0, 0, 0], probe["q1_row0"])
        close(q_values(agents, "target", batch.states, batch.actions)[0, 0, 0], probe["qt1_row0"])


class Reference:
    """One agent as modules and torch's optimisers, started from agent ``row`` of a stack."""

    def __init__(self, agents: Agents, row: int, settings: SAC):
        self.settings = settings
        copies = agents["critic.fc1.weight"].shape[1]
        self.actor = {
            name: self.linear(agents, f"actor.{name}", row) for name in ("fc1", "fc2", "mu", "log_std_linear")
        }
        self.q, self.target = (
            [
                [self.linear(agents, f"{network}.{name}", row, copy) for name in ("fc1", "fc2", "fc3")]
                for copy in range(copies)
            ]
            for network in ("critic", "target")
        )
        self.log_alpha = agents["log_temperature"][row].clone().requires_grad_()
        self.alpha = torch.ones_like(self.log_alpha)
        weights = [p for layer in self.actor.values() for p in layer.parameters()]
        self.steps = [self.adam([p for layer in q for p in layer.parameters()]) for q in self.q]
        self.actor_step, self.alpha_step = self.adam(weights), self.adam([self.log_alpha])

    def adam(self, weights):
        return torch.optim.Adam(weights, lr=self.settings.lr)

    def linear(self, agents, name, row, copy=None):
        weight, bias = agents[f"{name}.weight"][row], agents[f"{name}.bias"][row]
        if copy is not None:
            weight, bias = weight[copy], bias[copy]
        layer = nn.Linear(*weight.shape, dtype=weight.dtype)
        layer.weight.data, layer.bias.data = weight.T.clone(), bias[0].clone()
        return layer

    def act(self, states, noise):
        hidden = self.actor["fc2"](self.actor["fc1"](states).relu()).relu()
        std = self.actor["log_std_linear"](hidden).clamp(-20, 2).exp()
        mean = self.actor["mu"](hidden)
        before = mean + std * noise
        actions = before.tanh()
        density = torch.distributions.Normal(mean, std).log_prob(before) - (1 - actions**2 + 1e-6).log()
        return actions, (density.mean(1) if self.settings.entropy == "mean" else density.sum(1))

    def value(self, layers, states, actions):
        hidden = torch.cat([states, actions], 1)
        return layers[2](layers[1](layers[0](hidden).relu()).relu()).squeeze(1)

    def learn(self, states, actions, rewards, following, going_on, noise, following_noise):
        with torch.no_grad():
            next_actions, log_p = self.act(following, following_noise)
            values = torch.stack([self.value(q, following, next_actions) for q in self.target])
            aims = rewards + going_on * self.settings.discount * (values.amin(0) - self.alpha * log_p)
        for layers, step in zip(self.q, self.steps, strict=True):
            step.zero_grad()
            (0.5 * nn.functional.mse_loss(self.value(layers, states, actions), aims)).backward()
            step.step()
        new, log_p = self.act(states, noise)
        self.alpha = self.log_alpha.detach().exp()
        self.alpha_step.zero_grad()
        (-(self.log_alpha * (log_p.detach() - states.shape[1])).mean()).backward()
        self.alpha_step.step()
        self.actor_step.zero_grad()
        (self.alpha * log_p - self.value(self.q[0], states, new)).mean().backward()
        self.actor_step.step()
        with torch.no_grad():
            for layers, targets in zip(self.q, self.target, strict=True):
                for layer, target in zip(layers, targets, strict=True):
                    for own, slow in zip(layer.parameters(), target.parameters(), strict=True):
                        slow += self.settings.tau * (own - slow)


@pytest.mark.parametrize("changes", [{}, TEXTBOOK], ids=["official", "textbook"])
def test_stacked_agents_learn_what_each_learns_alone_with_torchs_optimisers(changes):
    n, b, d, agent = 3, 6, 4, sac(hidden=8, lr=1e-2, **changes)
    draws = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=draws)

    agents = {name: value.double() for name, value in agent.initial(rng(n), d).items()}
    alone = [Reference(agents, row, agent) for row in range(n)]
    for update in range(30):
        batch = Transitions(
            normal(n, b, d),
            normal(n, b, d).tanh(),
            normal(n, b),
            normal(n, b, d),
            (normal(n, b) > 0).double(),
        )
        noises = [normal(n, 1, 1) if agent.noise == "scalar" else normal(n, b, d) for _ in range(2)]
        agents, _ = agent.learn(agents, batch, *noises, update)
        for row, one in enumerate(alone):
            parts = (batch.states, batch.actions, batch.rewards, batch.following, batch.going_on, *noises)
            one.learn(*(part[row] for part in parts))
    for row, one in enumerate(alone):
        for name, layer in one.actor.items():
            torch.testing.assert_close(
                agents[f"actor.{name}.weight"][row].T, layer.weight, rtol=1e-6, atol=1e-8
            )
        for network, copies in (("critic", one.q), ("target", one.target)):
            for copy, layers in enumerate(copies):
                for name, layer in zip(("fc1", "fc2", "fc3"), layers, strict=True):
                    mine = agents[f"{network}.{name}.weight"][row, copy].T
                    torch.testing.assert_close(mine, layer.weight, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(agents["log_temperature"][row], one.log_alpha.detach())


def batch_of(n, b, d, seed) -> Transitions:
    draws = torch.Generator().manual_seed(seed)
    states, actions = torch.randn(2, n, b, d, generator=draws)
    return Transitions(states, actions.tanh(), torch.randn(n, b, generator=draws))


def test_twin_critics_are_one_critic():
    agent = sac(hidden=8)
    one = agent.initial(rng(2), 3)
    two = {
        name: value.repeat(1, 2, *[1] * (value.dim() - 2)) if name.startswith(("critic", "target")) else value
        for name, value in one.items()
    }
    for update in range(20):
        batch, noise = batch_of(2, 5, 3, update), rng(2).normal("noise", 1, 1, step=update)
        one, _ = agent.learn(one, batch, noise, None, update)
        two, _ = agent.learn(two, batch, noise, None, update)
    first, second = two["critic.fc1.weight"].unbind(1)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(one["actor.mu.weight"], two["actor.mu.weight"], rtol=1e-4, atol=1e-5)


def test_with_the_mean_as_entropy_the_log_temperature_falls_by_the_rate_whatever_happens():
    agent = sac(hidden=8)
    agents = agent.initial(rng(2), 100)
    for update in range(40):
        batch, noise = batch_of(2, 5, 100, update), rng(2).normal("noise", 1, 1, step=update)
        agents, _ = agent.learn(agents, batch, noise, None, update)
    torch.testing.assert_close(agents["log_temperature"], torch.full((2,), -40 * 5e-4), rtol=1e-3, atol=0)


def test_transitions_that_end_their_episode_aim_at_the_reward_alone():
    agents, batch, agent = golden_agents(), golden_batch(), sac(critics="independent")
    ended = Transitions(batch.states, batch.actions, batch.rewards, batch.following, torch.zeros(1, 8))
    short = Transitions(batch.states, batch.actions, batch.rewards)
    assert torch.equal(agent.q_targets(agents, ended, scalar(0.7)), batch.rewards)
    assert torch.equal(agent.q_targets(agents, short, None), batch.rewards)


def test_agents_learn_to_act_where_the_reward_is():
    agent, goals = sac(hidden=32, lr=1e-2), torch.tensor([[0.5, -0.5], [-0.6, 0.2]])
    agents, own = agent.initial(rng(2), 2), rng(2)
    for update in range(200):
        actions = 2 * own.uniform("actions", 32, 2, step=update) - 1
        rewards = -50 * (actions - goals[:, None]).square().sum(-1)
        states = own.normal("states", 32, 2, step=update)
        noise = agent.draw_noise(own, "noise", 32, 2, step=update)
        agents, _ = agent.learn(agents, Transitions(states, actions, rewards), noise, None, update)
    noise = own.normal("new noise", 64, 2)
    actions, _ = agent.act(agents, own.normal("new", 64, 2), noise)
    missed = (actions - goals[:, None]).square().sum(-1).mean(1)
    at_random = 2 / 3 + goals.square().sum(1)  # uniform actions
    assert (missed < 0.5 * at_random).all()


# memory


@pytest.mark.parametrize("population", [30, 64, 128, 129, 5000])
def test_sampled_numbers_are_different_in_range_and_each_streams_own(population):
    count = 30 if population == 30 else 32
    found = distinct(rng(5), "batch", count, population, step=3)
    assert found.shape == (5, count) and found.min() >= 0 and found.max() < population
    assert all(len(row.unique()) == count for row in found)
    assert torch.equal(distinct(rng(5)[2:3], "batch", count, population, step=3), found[2:3])
    assert population == 30 or not torch.equal(found[0].sort().values, found[1].sort().values)


@pytest.mark.parametrize("population", [100, 300])  # sorted, and drawn with repeats left out
def test_every_number_is_sampled_equally_often(population):
    drawn = distinct(rng(3000), "batch", 64, population, step=0)
    counts = torch.bincount(drawn.flatten(), minlength=population).double()
    expected = 3000 * 64 / population
    # variance of a count without replacement: n p (1 - p)
    chi = ((counts - expected) ** 2).sum() / (expected * (1 - 64 / population))
    assert abs(chi - population) < 5 * math.sqrt(2 * population)


def test_the_replay_forgets_the_oldest_and_can_be_put_back():
    replay = Replay(5, torch.zeros(2, 3))
    for number in range(7):
        value = torch.tensor([number, 10.0 + number])
        replay.put(number, value[:, None].expand(2, 3), -value[:, None].expand(2, 3), value)
    states, actions, rewards = replay.take(torch.tensor([[0, 1, 2], [4, 4, 0]]))
    assert rewards.tolist() == [[5, 6, 2], [14, 14, 15]]
    assert torch.equal(states[..., 0], rewards) and torch.equal(actions[..., 2], -rewards)
    saved = [replay.copy(0, 4), replay.copy(4, 7)]  # 0 and 1 are gone
    other = Replay(5, torch.zeros(2, 3))
    other.restore(replay.copy(0, 0), 0)
    other.restore(saved[0], 4)
    other.restore(saved[1], 7)
    for name, column in replay.columns.items():
        assert torch.equal(other.columns[name], column)
    assert saved[1]["replay.rewards"].tolist() == [[4, 5, 6], [14, 15, 16]]
    assert replay.copy(0, 7)["replay.rewards"].tolist()[0] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": "pink"}, "attack.agent.noise=pink is unknown; use scalar or per_dimension"),
        ({"entropy": "max"}, "attack.agent.entropy=max is unknown"),
        ({"critics": "triplets"}, "attack.agent.critics=triplets is unknown"),
        ({"hidden": 0}, "attack.agent.hidden=0 must be at least 1"),
        ({"tau": 2}, "attack.agent.tau=2 must be from 0 to 1"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        sac(**changes)


def test_noise_is_one_number_or_one_per_dimension_and_sample():
    assert sac().draw_noise(rng(2), "x", 5, 3, step=0).shape == (2, 1, 1)
    drawn = sac(noise="per_dimension").draw_noise(rng(2), "x", 5, 3, step=0)
    assert drawn.shape == (2, 5, 3) and len(np.unique(drawn)) == 30
