from __future__ import annotations

import hashlib
import io
import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import attacks.rlbmi
from attacks.losses import log_scores
from attacks.rlbmi import RLBMI, move, reward, sampled_identities
from defenses.mid import Bottleneck
from midre_exp.attack import AttackResult
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.conftest import without_time
from tests.golden.fill import _draw, golden

GOLDEN = golden("rlbmi")
CONF = plain(OmegaConf.load(CONF_DIR / "attack" / "rlbmi.yaml"))
SMALL = {"hidden": 16, "lr": 5e-3}


def attack(kind: type[RLBMI] = RLBMI, agent=None, **changes) -> RLBMI:
    """The attack of conf/attack/rlbmi.yaml, small, as an object of ``kind``."""
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "rlbmi.yaml"))
    node["agent"] = {**node["agent"], **SMALL, **(agent or {})}
    small = {"identities": 3, "episodes": 30, "batch_size": 8, "log_every": 5, "draws": "own"}
    made = build({**without(node, "defaults", "name", "judged"), **small, **changes})
    made.__class__ = kind
    return made


class Pixels(Prior):
    """Latents are pixels before a sigmoid."""

    latent_dim = 12

    def generate(self, latents, labels=None):
        return (3 * latents).view(-1, 3, 2, 2).sigmoid()

    def realism(self, images):
        raise NotImplementedError

    def fit(self, public, victim, **options):
        raise NotImplementedError


class Linear(nn.Module):
    """A target of ``classes`` classes on 2x2 images; ``scale`` large gives scores that underflow, small gives
    flat ones.
    """

    def __init__(self, scale: float = 1.0, classes: int = 5):
        super().__init__()
        self.layer = nn.Linear(12, classes)
        nn.init.normal_(self.layer.weight, std=2 * scale, generator=torch.Generator().manual_seed(0))
        self.layer.bias.data = -0.5 * self.layer.weight.data.sum(1)

    def forward(self, images, taps=()):
        features = images.flatten(1)
        return Output(self.layer(features.to(self.layer.weight.dtype)), features)


class Double(ItemRNG):
    """The same rng, exact enough to compare two ways of computing a long chain of updates."""

    def uniform(self, name, *shape, step=0):
        return super().uniform(name, *shape, step=step).double()

    def normal(self, name, *shape, step=0):
        return super().normal(name, *shape, step=step).double()


def victim(model: nn.Module | None = None):
    return Victim.of(model or Linear(), 5, Threat.SCORES)


def rng(n: int, kind: type[ItemRNG] = ItemRNG) -> ItemRNG:
    return kind(0, "attack", items=torch.arange(n))


def loop_at(folder, target, **options) -> Loop:
    folder.mkdir(parents=True, exist_ok=True)
    return Loop(folder / "state.pt", "RLBMI", Runtime(**options), target)


def invert(rl: RLBMI, folder, rows=slice(None), target=None, kind=ItemRNG) -> AttackResult:
    target = target or victim()
    labels = torch.arange(3)[rows]
    return rl.invert(target, Pixels(), labels, rng(3, kind)[rows], loop_at(folder, target))


# reward, transition, identities


@pytest.mark.parametrize("case", GOLDEN["reward"]["cases"], ids=lambda case: case["case"])
def test_the_reward_matches_the_golden_one(case):
    assert GOLDEN["reward"]["floor"] == attack().margin_floor
    assert tuple(GOLDEN["reward"]["weights"]) == attack().reward_weights
    labels = torch.tensor([case["label"]])

    def close(found, expected, rel=1e-5):
        assert found.flatten().tolist() == pytest.approx(expected, rel=rel)

    for dtype, rel in ((torch.float64, 1e-5), (torch.float32, 2e-2 if "tie" in case["case"] else 1e-5)):
        state, action = (
            torch.tensor([case[f"{name}_logits"]], dtype=dtype).softmax(1) for name in ("state", "action")
        )
        close(state, case["p_state"])
        close(action, case["p_action"])
        parts = ("r1_log_p_state", "r2_log_p_action", "r3_log_margin")
        for name, weights in zip(parts, torch.eye(3).tolist(), strict=True):
            close(reward(state, action, labels, weights=weights, floor=1e-7), [case[name]], rel)
        close(reward(state, action, labels, weights=[2, 2, 8], floor=1e-7), [case["reward"]], rel)
    if case["margin"] > 1e-7:
        assert math.log(case["margin"]) == pytest.approx(case["r3_log_margin"], rel=1e-5)


def test_scores_of_zero_are_a_finite_reward():
    scores = torch.tensor([[0.0, 1.0]])
    found = reward(scores, scores, torch.tensor([0]), weights=[2, 2, 8], floor=1e-7)
    assert found.item() == pytest.approx(4 * -87.3365 + 8 * math.log(1e-7), rel=1e-5)
    assert log_scores(torch.ones(2)).tolist() == [0, 0]


@pytest.mark.parametrize("case", GOLDEN["transition"]["cases"], ids=lambda case: str(case["mixing"]))
def test_the_transition_matches_the_golden_one(case):
    expected = GOLDEN["transition"]
    start = torch.from_numpy(_draw("rlb.z", (1, 100)))
    action = torch.from_numpy(_draw("rlb.a", (1, 100))).tanh()
    assert start[0, :6].tolist() == pytest.approx(expected["z_first6"], rel=1e-5)
    assert action[0, :6].tolist() == pytest.approx(expected["action_first6"], rel=1e-5)
    after = move(start, action, case["mixing"])
    assert after[0, :6].tolist() == pytest.approx(case["next_state_first6"], rel=1e-5)
    assert after.norm().item() == pytest.approx(case["next_state_norm"], rel=1e-5)
    assert case["mixing"] != 0 or torch.equal(after, action)


def test_the_sampled_identities_are_the_official_ones():
    expected = GOLDEN["target_identities"]
    for count in (100, 1000):
        assert sampled_identities(1000, count)[:12] == expected[f"n{count}_first12"]
    joined = "".join(f"{identity}\n" for identity in sampled_identities(1000, 100))
    assert hashlib.sha256(joined.encode()).hexdigest() == expected["n100_sha256_newline_joined"]
    assert sorted(sampled_identities(1000, 1000)) == list(range(1000))


def test_sampled_identities_are_attacked_and_named(tmp_path):
    rl = attack(choice="sample", episodes=3)
    found = run_attack(rl, victim(), Pixels(), seed=0, work=tmp_path, runtime=Runtime())
    assert found.labels.tolist() == sampled_identities(5, 3)


# what is computed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"agent": {"noise": "per_dimension", "entropy": "sum", "critics": "independent"}},
        {"horizon": 3, "mixing": 0.4, "episodes": 12},
        {"replay": 12},
        {"draws": "shared"},
    ],
    ids=["official", "textbook", "several steps", "short memory", "shared draws"],
)
def test_identities_together_give_the_numbers_of_each_alone(tmp_path, changes):
    rl, model = attack(**changes), Linear().double()
    together = invert(rl, tmp_path / "all", target=victim(model), kind=Double)
    for i in range(3):
        alone = invert(rl, tmp_path / str(i), slice(i, i + 1), victim(model), Double)
        # float64 rounding through some 20 updates; another draw or neighbour would change the first digit
        torch.testing.assert_close(alone.latents, together.latents[i : i + 1], rtol=0, atol=1e-7)
        for name, value in alone.details.items():
            torch.testing.assert_close(value, together.details[name][i : i + 1], rtol=0, atol=1e-7)
    assert not torch.allclose(together.latents[0], together.latents[1])


def test_shared_draws_give_every_identity_the_same_agent_to_start_with_and_restarts_others(tmp_path):
    weights = []

    class Watching(RLBMI):
        def test(self, score, labels, rng, state, episode):
            weights.append(state["actor.fc1.weight"])
            super().test(score, labels, rng, state, episode)

    rl = attack(Watching, draws="shared", restarts=2, episodes=1)
    run_attack(rl, victim(), Pixels(), seed=0, work=tmp_path / "a", runtime=Runtime(chunk=3))
    run_attack(rl, victim(), Pixels(), seed=1, work=tmp_path / "b", runtime=Runtime())
    assert [len(weight) for weight in weights] == [2, 2, 2, 6]  # restarts stay together
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0][0], weights[0][1])
    assert torch.equal(weights[3][:2], weights[3][4:]) and not torch.equal(weights[3][:2], weights[0])
    assert CONF["draws"] == "shared"  # as officially


def test_a_prior_that_knows_the_target_is_refused(tmp_path):
    class Informed(Pixels):
        uses_target = True

    target = victim()
    with pytest.raises(ConfigError, match="knows the target"):
        attack().invert(target, Informed(), torch.arange(3), rng(3), loop_at(tmp_path, target))


def test_the_result_is_what_one_agent_with_a_list_as_memory_finds(tmp_path):
    rl, model = attack(episodes=25), Linear().double()
    found = invert(rl, tmp_path, slice(1, 2), victim(model), Double)
    own, target, labels = rng(3, Double)[1:2], victim(model), torch.tensor([1])
    agents, memory, best, kept = rl.agent.initial(own, 12), [], 0.0, None
    for episode in range(25):
        start = own.normal("state", 12, step=episode)
        action = rl.agent.act(agents, start[:, None], own.normal("action", 1, 1, step=episode))[0][:, 0]
        p = target.scores(Pixels().generate(action))[0]
        others = torch.cat([p[:1], p[2:]]).max()
        memory.append((start, action, 4 * p[1].log() + 8 * max(p[1] - others, torch.tensor(1e-7)).log()))
        if len(memory) > 8:
            chosen = own.uniform("batch", len(memory), step=episode).argsort(1)[0, :8].tolist()
            batch = [torch.stack([memory[k][part] for k in chosen], 1) for part in (0, 1)]
            rewards = torch.stack([memory[k][2] for k in chosen])[None]
            given = attacks.rlbmi.Transitions(*batch, rewards)
            noise = own.normal("new action", 1, 1, step=episode)
            agents = rl.agent.learn(agents, given, noise, None, len(memory) - 9)[0]
        start = own.normal("test state", 12, step=episode)
        action = rl.agent.act(agents, start[:, None], own.normal("test action", 1, 1, step=episode))[0][:, 0]
        confidence = target.scores(Pixels().generate(action))[0, 1].item()
        if confidence >= best:
            best, kept = confidence, action
    torch.testing.assert_close(found.latents, kept, rtol=0, atol=1e-9)
    assert found.details["confidence_curve"][0, -1].item() == pytest.approx(best, abs=1e-9)
    assert labels.tolist() == found.labels.tolist()
    assert target.queries == found.queries.item()


def test_agents_beat_as_many_random_draws_and_the_curve_never_falls(tmp_path):
    target = victim(Linear(scale=2))
    rl = attack(episodes=150, agent={"lr": 1e-2})
    found = invert(rl, tmp_path, target=target)
    curve = found.details["confidence_curve"]
    assert curve.shape == (3, 30) and (curve.diff(dim=1) >= 0).all() and (curve[:, 0] > 0).all()
    final = target.confidence(rl.render(Pixels(), found.latents, found.labels), torch.arange(3))
    torch.testing.assert_close(final, curve[:, -1])
    lazy = invert(attack(episodes=150, batch_size=149), tmp_path / "lazy", target=victim(Linear(scale=2)))
    assert curve[:, -1].mean() > lazy.details["confidence_curve"][:, -1].mean() + 0.2
    assert (curve[:, -1] > 0.95).all()


def test_latents_stay_in_the_reach_of_the_actions_without_mixing(tmp_path):
    assert invert(attack(), tmp_path).latents.abs().max() <= 1


def test_the_target_sees_images_after_the_configured_steps(tmp_path):
    seen = []

    class Watching(Linear):
        def forward(self, images, taps=()):
            seen.append(images)
            return super().forward(images, taps)

    rl = attack(episodes=2)
    rl.image_to_target = (torch.zeros_like,)
    invert(rl, tmp_path, target=victim(Watching()))
    assert not torch.stack(seen).any()


# queries


@pytest.mark.parametrize(
    ("changes", "each"), [({}, 2), ({"mixing": 0.5}, 3), ({"mixing": 0.5, "horizon": 2}, 5)]
)
def test_queries_are_counted_per_identity_and_as_the_victim_counts(tmp_path, changes, each):
    target = victim()
    found = invert(attack(episodes=11, **changes), tmp_path, target=target)
    assert found.queries.tolist() == [11 * each] * 3
    assert target.queries == 33 * each


def test_the_query_limit_ends_the_attack_with_the_best_so_far(tmp_path):
    target = victim()
    limited = invert(attack(max_queries=21), tmp_path / "a", target=target)
    assert limited.queries.tolist() == [20] * 3 and target.queries == 60  # ten whole episodes
    shorter = invert(attack(episodes=10), tmp_path / "b")
    assert torch.equal(limited.latents, shorter.latents)
    assert invert(attack(max_queries=10**9), tmp_path / "c").queries.tolist() == [60] * 3


# kinds of targets


class Flat(Linear):
    """Scores as negative label smoothing or a cautious target may leave them: nearly uniform."""

    def __init__(self):
        super().__init__(scale=1e-6)


class Noisy(nn.Module):
    """A target with MID's head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = Bottleneck(12, 5, eval_noise="sample")

    def forward(self, images, taps=()):
        features = images.flatten(1)
        return Output(self.head(features), features)


@pytest.mark.parametrize(
    "model", [Flat, lambda: Linear(scale=1e3), Noisy], ids=["flat", "underflowing", "MID"]
)
def test_every_kind_of_scores_is_learned_from_without_a_graph_or_a_nan(tmp_path, model):
    class Watching(RLBMI):
        def train(self, score, labels, rng, state, replay, episode):
            super().train(score, labels, rng, state, replay, episode)
            assert all(value.isfinite().all() and not value.requires_grad for value in state.values())
            assert replay.columns["replay.rewards"].isfinite().all()

    found = invert(attack(Watching), tmp_path, target=victim(model()))
    assert found.latents.isfinite().all() and not found.latents.requires_grad
    assert (found.latents != 0).any(1).all()  # the first test is kept even if the score is 0


# the whole attack


def test_the_whole_attack_keeps_one_image_its_queries_and_its_curve_per_identity(tmp_path):
    target, runtime = victim(), Runtime(chunk=2)
    found = run_attack(attack(), target, Pixels(), seed=0, work=tmp_path / "a", runtime=runtime)
    assert found.labels.tolist() == [0, 1, 2] and found.images.shape == (3, 3, 2, 2)
    assert found.queries.tolist() == [60] * 3 and target.queries == 180
    assert found.details["confidence_curve"].shape == (3, 6)
    # the pictures are in 8 bit, the tests were not
    torch.testing.assert_close(found.confidence, found.details["confidence_curve"][:, -1], rtol=0, atol=0.05)
    other = run_attack(attack(), victim(), Pixels(), seed=1, work=tmp_path / "b", runtime=runtime)
    assert not torch.allclose(found.latents, other.latents)


def test_the_best_confidence_is_reported_while_the_attack_runs(tmp_path):
    logged = {}

    class Notebook:
        def log(self, values, step):
            logged[step] = values["best_confidence"]
            assert 0 < values["episodes_x_identities_per_second"] < 1e7

    target = victim()
    found = attack().invert(
        target, Pixels(), torch.arange(3), rng(3), loop_at(tmp_path, target, tracker=Notebook())
    )
    assert list(logged) == [5, 10, 15, 20, 25, 30]
    curve = found.details["confidence_curve"].mean(0)
    torch.testing.assert_close(torch.tensor(list(logged.values())), curve)


def test_a_long_attack_says_how_far_it_is_and_how_long_it_takes(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 301.0, 500.0])
    monkeypatch.setattr(attacks.rlbmi.time, "perf_counter", lambda: next(clock))
    throughput, runtime = attacks.rlbmi.Throughput(agents=300, episode=1000), Runtime()
    for episode in (1100, 1301, 1500):
        throughput.report(runtime, torch.tensor([0.2, 0.4]), episode, 40000)
    assert without_time(capsys.readouterr().err).splitlines() == [
        "RLBMI: 1301 of 40000 episodes, mean best confidence 0.300, 300 episodes x identities per second, "
        "10.7 h to go"
    ]


def test_where_checkpoints_fall_changes_no_number(tmp_path, monkeypatch):
    usual = invert(attack(), tmp_path / "usual")
    monkeypatch.setattr(attacks.rlbmi, "BLOCK", 3)
    monkeypatch.setattr(attacks.rlbmi, "SEGMENT", 7)
    assert torch.equal(invert(attack(), tmp_path / "other").latents, usual.latents)


def test_a_checkpoint_holds_the_transitions_of_its_own_segment_only(tmp_path, monkeypatch):
    monkeypatch.setattr(attacks.rlbmi, "SEGMENT", 10)
    target = victim()
    loop = loop_at(tmp_path, target)
    attack(episodes=25).invert(target, Pixels(), torch.arange(3), rng(3), loop)
    loop.save_ends()
    files = sorted(tmp_path.glob("state.pt*"))
    kept = [torch.load(_body(file))["state"]["replay.actions"] for file in files]
    assert [len(value[0]) for value in kept] == [10, 10, 5]
    assert all(value.untyped_storage().nbytes() == 4 * value.numel() for value in kept)


def _body(file):
    content = file.read_bytes()
    return io.BytesIO(content[content.index(b"\n") + 1 + 32 :])


def test_mini_and_paper_settings_compose():
    node = plain(OmegaConf.load(CONF_DIR / "scale" / "attack" / "mini_rlbmi.yaml"))
    official = plain(OmegaConf.load(CONF_DIR / "attack" / "rlbmi.yaml"))
    assert set(node) - {"prior"} <= set(official)
    assert set(node["agent"]) <= set(official["agent"])
    assert official["episodes"] - official["batch_size"] == 39744  # updates of the full run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"episodes": 0}, "attack.episodes=0 must be at least 1"),
        ({"horizon": 0}, "attack.horizon=0 must be at least 1"),
        ({"replay": 8}, "attack.replay=8 must exceed attack.batch_size=8"),
        ({"mixing": 1.0}, "attack.mixing=1.0 must be from 0 to below 1"),
        ({"reward_weights": [1, 2]}, r"attack.reward_weights=\[1, 2\] must be three numbers"),
        ({"margin_floor": 0.0}, "attack.margin_floor=0.0 must be positive"),
        ({"choice": "last"}, "attack.choice=last is unknown; use first or sample"),
        ({"draws": "none"}, "attack.draws=none is unknown; use shared or own"),
        ({"max_queries": 1}, "attack.max_queries=1 is less than the 2 of one episode"),
        ({"agent": {"noise": "pink"}}, "attack.agent.noise=pink is unknown"),
    ],
)
def test_settings_that_find_nothing_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        attack(**changes)
