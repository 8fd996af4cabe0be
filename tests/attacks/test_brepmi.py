from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.brepmi import BREPMI
from attacks.parts.boundary import appearances, discover, repulsion, sphere
from defenses.mid import Bottleneck
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.golden.fill import golden

GOLDEN = golden("brepmi")
TOY = GOLDEN["toy"]


def attack(**changes) -> BREPMI:
    """The attack of conf/attack/brepmi.yaml on 3 requested identities, in small."""
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "brepmi.yaml"))
    small = {"identities": 3, "choice": "requested", "search_batch": 8, "search_batches": 20, "patience": 6}
    return build({**without(node, "defaults", "name", "judged"), **small, **changes})


def draw(key: str, *shape: int) -> Tensor:
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return torch.from_numpy(state.standard_normal(shape).astype(np.float32))


class Given(ItemRNG):
    """ItemRNG that draw what the golden file draws."""

    def __init__(self, n: int = 1):
        super().__init__(0, items=torch.zeros(n, dtype=torch.int64))

    def __getitem__(self, index):
        return Given(len(self.keys[index]))

    def normal(self, name, *shape, step=0):
        key = {"sphere": "brep.noise", "search": "brep.init"}[name]
        return draw(f"{key}.{step}", *shape).expand(len(self), *shape)


class Plain(Prior):
    """Images are latents, seen as pixels."""

    def __init__(self, latent_dim: int = 12):
        super().__init__()
        self.latent_dim = latent_dim

    def generate(self, latents, labels=None):
        return latents.view(len(latents), 1, 1, -1)

    def realism(self, images):
        raise NotImplementedError

    def fit(self, public, victim, **options):
        raise NotImplementedError


class Pixels(Plain):
    """Latents are the pixels of 2x2 images before a sigmoid."""

    def generate(self, latents, labels=None):
        return latents.view(-1, 3, 2, 2).sigmoid()


class Linear(nn.Module):
    """A linear target."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, images, taps=()):
        features = images.flatten(1)
        return Output(features @ self.weight.T + self.bias, features)


def toy(*, bias: bool = True):
    """The golden file's target, as a label victim."""
    weight = nn.functional.normalize(draw("brep.W", 6, 100))
    return Victim.of(Linear(weight, 0.1 * draw("brep.b", 6) * bias), 6, Threat.LABELS)


def toy_start() -> Tensor:
    return (0.3 * draw("brep.z0", 100)).clamp(-1.5, 1.5)


def small_model(classes: int = 3) -> Linear:
    """Its classes meet in the middle of the pixels' range."""
    weight = 2 * torch.randn(classes, 12, generator=torch.Generator().manual_seed(0))
    return Linear(weight, -weight.sum(1) / 2)


def victim(classes: int = 3):
    return Victim.of(small_model(classes), classes, Threat.LABELS)


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def plain_loop(steps, state, until=None):
    step = 0
    while (steps is None or step < steps) and not (until and until(state)):
        yield step
        step += 1


plain_loop.show = lambda **_: None


# the official numbers


def test_the_toy_is_the_golden_one():
    start = toy_start()
    assert start[:4].tolist() == pytest.approx(TOY["z0_first4"], abs=1e-6)
    logits = nn.functional.normalize(draw("brep.W", 6, 100)) @ start + 0.1 * draw("brep.b", 6)
    assert logits.tolist() == pytest.approx(TOY["logits_z0"], abs=1e-5)
    brep = attack()
    assert (brep.points, brep.threshold, brep.growth) == (TOY["points"], TOY["threshold"], TOY["growth"])
    assert ([-brep.clip, brep.clip], brep.max_step) == (TOY["clamp"], TOY["max_step"])


@pytest.mark.parametrize(
    "step", GOLDEN["single_steps"], ids=lambda step: f"{step['radius']}-{step['repulsion_only']}"
)
def test_one_estimate_matches_the_golden_numbers(step):
    radius = torch.tensor([step["radius"]])
    offsets = sphere(draw("brep.noise.0", 1, 32, 100), radius)
    assert offsets[0, 0, :4].tolist() == pytest.approx(step["perturbation_row0_first4"], abs=1e-5)
    assert float(offsets[0, 0].norm()) == pytest.approx(step["perturbation_row0_norm"], abs=1e-5)

    brep = attack(outside_only=step["repulsion_only"])
    start, labels = toy_start()[None], torch.tensor([TOY["target"]])
    around = brep.classify(toy(), Plain(100), (start + offsets[0]), labels.expand(32))
    signs = torch.where(around == TOY["target"], 1.0, -1.0)[None]
    assert signs[0].tolist() == step["labels"]
    assert int((signs > 0).sum()) == step["inside"] and float(signs.sum()) == step["signed_sum"]

    direction, wider = repulsion(
        signs,
        offsets,
        radius,
        threshold=TOY["threshold"],
        growth=TOY["growth"],
        outside_only=step["repulsion_only"],
    )
    assert bool(wider > radius) == step["expands"]
    assert float(wider) == pytest.approx(step["radius_after"], abs=1e-5)
    assert float(direction.norm()) == pytest.approx(step["direction_norm"], abs=1e-5)
    assert direction[0, :8].tolist() == pytest.approx(step["direction_first8"], abs=1e-5)
    assert float(direction.sum()) == pytest.approx(step["direction_sum"], abs=1e-5)

    length = min(step["radius"] / brep.radius_per_step, brep.max_step)
    assert length == pytest.approx(step["step_size"], abs=1e-5)
    state = walk_state(start, step["radius"])
    after = brep.move(toy(), Plain(100), state, labels, draw("brep.noise.0", 1, 32, 100))
    accepted = step["z_next_label"] == TOY["target"]
    assert (int(after["rejections"]) == 0) == accepted
    if accepted:
        assert after["latents"][0, :8].tolist() == pytest.approx(step["z_next_first8"], abs=1e-5)
        assert float(after["latents"].norm()) == pytest.approx(step["z_next_norm"], abs=1e-5)
    else:
        assert torch.equal(after["latents"], start)


def walk_state(start: Tensor, radius: float) -> dict[str, Tensor]:
    zeros = torch.zeros(len(start), dtype=torch.int64)
    counts = ("moves", "moves_at_growth", "rejections", "queries", "queries_to_growth")
    return {
        "latents": start,
        "growth_latents": start,
        "radius": torch.full((len(start),), radius),
        "grew": zeros.bool(),
        **dict.fromkeys(counts, zeros),
    }


class Watched(BREPMI):
    """Keeps the state after every estimate."""

    def move(self, *inputs):
        after = super().move(*inputs)
        self.seen = [*getattr(self, "seen", []), {"before": inputs[2], "after": after}]
        return after


@pytest.mark.parametrize("name", ["trajectory_main", "trajectory_with_rejection"])
def test_a_whole_walk_matches_the_golden_one(name):
    expected = GOLDEN[name]
    main = name == "trajectory_main"
    brep = attack(radius=expected["start_radius"], patience=expected["max_iters_at_radius"])
    brep.__class__ = Watched
    start = toy_start() if main else 0.02 * draw("brep.z0", 100)
    target = toy(bias=main)
    labels, yes, none = torch.tensor([expected["target"]]), torch.tensor([True]), torch.tensor([0])
    end = brep.walk(target, Plain(100), start[None], labels, Given(), plain_loop, reached=yes, spent=none)
    assert len(brep.seen) == expected["estimates"]
    assert target.queries == int(end["queries"]) == expected["hard_label_queries"]
    assert int(end["moves"]) == expected["iteration_counter_end"] == expected["accepted_moves"]
    assert float(end["radius"]) == pytest.approx(expected["radius_end"], rel=1e-6)
    assert float(end["latents"].norm()) == pytest.approx(expected["z_end_norm"], abs=1e-5)
    assert end["latents"][0, :8].tolist() == pytest.approx(expected["z_end_first8"], abs=1e-5)
    for number, first in expected["z_after_estimate"].items():
        after = brep.seen[int(number) - 1]["after"]["latents"]
        assert after[0, :4].tolist() == pytest.approx(first, abs=1e-5)

    events = []
    for number, step in enumerate(brep.seen, 1):
        before, after = step["before"], step["after"]
        grew, refused = after["radius"] > before["radius"], after["rejections"] > 0
        if grew or refused:
            events.append(
                {
                    "kind": "expand" if grew else "reject",
                    "estimate_number": number,
                    "iteration_counter": int(before["moves"]),
                    "radius_before": pytest.approx(float(before["radius"]), rel=1e-6),
                    "radius_after": pytest.approx(float(after["radius"]), rel=1e-6),
                }
            )
    assert expected["events_not_move"] == events
    kinds = [event["kind"] for event in events]
    assert kinds.count("expand") == expected["expansions"]
    assert kinds.count("reject") == expected["rejections"]

    assert bool(end["grew"]) == (expected["z_at_last_expansion_first8"] is not None)
    success = None
    if end["grew"]:
        point = end["growth_latents"][0]
        assert point[:8].tolist() == pytest.approx(expected["z_at_last_expansion_first8"], abs=1e-5)
        assert float(point.norm()) == pytest.approx(expected["z_at_last_expansion_norm"], abs=1e-5)
        weight = nn.functional.normalize(draw("brep.W", 6, 100))
        weight = weight + 0.6 * nn.functional.normalize(draw("brep.We", 6, 100))
        success = bool((weight @ point + 0.1 * draw("brep.b", 6)).argmax() == expected["target"])
        last = max(event["estimate_number"] for event in events if event["kind"] == "expand")
        assert int(end["queries_to_growth"]) == 33 * last
    assert success == expected["evaluator_success_at_last_expansion"]
    assert bool(end["grew"] and success) == expected["counts_as_success"]


def test_the_search_meets_the_golden_identities_in_their_order():
    expected = GOLDEN["initial_points"]["untargeted_4"]
    brep, target = attack(choice="reached", identities=4), toy()
    starts, labels, reached, spent = brep.search(target, Plain(100), torch.arange(4), Given(4), plain_loop)
    found = expected["order_of_discovery"]
    assert labels.tolist() == [one["label"] for one in found] and reached.all()
    for start, one in zip(starts, found, strict=True):
        drawn = draw(f"brep.init.{one['batch']}", 8, 100)[one["row"]]
        assert torch.equal(start, drawn.clamp(-1.5, 1.5))
    assert target.queries == int(spent.sum()) == expected["queries"] == 8 * expected["batches"]


def test_labels_outside_a_range_are_passed_over_as_in_the_golden_file():
    initial = GOLDEN["initial_points"]
    for number in (0, 1):
        latents = draw(f"brep.init.{number}", 8, 100).clamp(-1.5, 1.5)
        answers = attack().classify(toy(), Plain(100), latents, torch.zeros(8, dtype=torch.int64))
        assert answers.tolist() == initial[f"labels_batch{number}"]
    expected = initial["targeted_2_to_4"]
    order = discover(torch.tensor(initial["labels_batch0"]), torch.tensor([3, 3, -1, -1, -1, 3]), 3)
    found = sorted((place, label) for label, place in enumerate(order.tolist()) if place < 3)
    assert [label for _, label in found] == [one["label"] for one in expected["order_of_discovery"]]
    rows = [initial["labels_batch0"].index(one["label"]) for one in expected["order_of_discovery"]]
    assert rows == [one["row"] for one in expected["order_of_discovery"]]
    assert expected["queries"] == 8 * expected["batches"] == 8  # all three were in the first batch


# the search


def test_discovery_and_appearances_agree_with_a_loop_over_the_labels():
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(0, 9, (4, 6), generator=generator)
    order, seen = torch.full((9,), -1), torch.zeros(9, dtype=torch.int64)
    met: list[int] = []
    times = [0] * 9
    for answers in batches:
        turns = appearances(answers, seen)
        order = discover(answers, order, 9)
        for label, turn in zip(answers.tolist(), turns.tolist(), strict=True):
            assert turn == times[label]
            times[label] += 1
            met += [label] if label not in met else []
        seen += torch.bincount(answers, minlength=9)
    assert order.argsort()[-len(met) :].tolist() == met
    assert (order >= 0).sum() == len(met)


def test_restarts_of_an_identity_start_from_points_of_their_own():
    brep, target = attack(restarts=3), victim()
    labels = torch.arange(3).repeat_interleave(3)
    starts, people, reached, _ = brep.search(target, Pixels(), labels, rng(9), plain_loop)
    assert reached.all() and torch.equal(people, labels)
    assert len(starts.unique(dim=0)) == 9
    assert torch.equal(brep.classify(target, Pixels(), starts, labels), labels)
    assert starts.abs().max() <= 1.5


class Blind(Linear):
    """Never answers class 1."""

    def forward(self, images, taps=()):
        output = super().forward(images)
        return Output(output.logits - torch.tensor([0.0, 1e6, 0.0, 0.0]), output.features)


def blind():
    return Victim.of(Blind(small_model(4).weight.data, small_model(4).bias.data), 4, Threat.LABELS)


def run(brep, target, path, **runtime):
    return run_attack(brep, target, Pixels(), seed=0, work=path, runtime=Runtime(**runtime))


def test_a_requested_identity_that_is_never_reached_is_a_failure_with_its_queries(tmp_path):
    target = blind()
    found = run(attack(search_batches=10), target, tmp_path)
    assert found.labels.tolist() == [0, 1, 2]
    assert found.details["reached"].tolist() == [True, False, True]
    assert found.details["failed"][1] and not found.confidence[1]
    assert int(found.queries.sum()) == target.queries
    assert found.queries[1] in (26, 27)  # its third of 80
    assert found.tensors()["queries"].tolist() == found.queries.tolist()


def test_the_official_choice_skips_identities_that_are_not_reached(tmp_path):
    found = run(attack(choice="reached"), blind(), tmp_path / "three")
    assert sorted(found.labels.tolist()) == [0, 2, 3] and found.details["reached"].all()
    assert found.confidence.all()
    four = run(attack(choice="reached", identities=4), blind(), tmp_path / "four")
    assert four.labels.tolist() == [*found.labels.tolist(), 1]
    assert four.details["failed"].tolist()[3] and four.details["reached"].tolist() == [True] * 3 + [False]


# the walk


def test_items_together_get_the_numbers_of_one_at_a_time():
    brep, n = attack(patience=4, max_queries=33 * 60), 7
    generator = torch.Generator().manual_seed(1)
    starts = torch.randn(n, 12, generator=generator).clamp(-1.5, 1.5)
    labels = brep.classify(victim(), Pixels(), starts, torch.zeros(n, dtype=torch.int64))
    reached, spent = torch.arange(n) != 2, torch.arange(n)

    def walk(rows):
        return brep.walk(
            victim(),
            Pixels(),
            starts[rows],
            labels[rows],
            rng(n)[rows],
            plain_loop,
            reached=reached[rows],
            spent=spent[rows],
        )

    together, alone = walk(torch.arange(n)), [walk(torch.tensor([row])) for row in range(n)]
    assert len(together["queries"].unique()) > 2  # they do not all end at once
    for name, value in together.items():
        torch.testing.assert_close(value, torch.cat([one[name] for one in alone]), rtol=0, atol=1e-5)
    assert torch.equal(together["latents"][2], starts[2]) and together["queries"][2] == 2


@pytest.mark.parametrize("limits", [{"patience": 9}, {"max_rejections": 7}, {"max_queries": 33 * 20}])
def test_who_has_ended_is_asked_only_when_somebody_may_have(monkeypatch, limits):
    brep, starts = attack(**{"patience": 60, **limits}), rng(3).normal("start", 12)
    labels = brep.classify(victim(), Pixels(), starts, torch.zeros(3, dtype=torch.int64))
    asked, estimates = [], []
    ahead, move = BREPMI.estimates_ahead, BREPMI.move
    monkeypatch.setattr(BREPMI, "estimates_ahead", lambda self, now: asked.append(1) or ahead(self, now))
    monkeypatch.setattr(BREPMI, "move", lambda self, *given: estimates.append(1) or move(self, *given))

    def walk():
        yes, none = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
        return brep.walk(victim(), Pixels(), starts, labels, rng(3), plain_loop, reached=yes, spent=none)

    rarely = walk()
    assert 0 < len(asked) < len(estimates) / 2
    asked.clear()
    monkeypatch.setattr(
        BREPMI, "estimates_ahead", lambda self, now: asked.append(1) or torch.ones_like(now["moves"])
    )
    always, count = walk(), len(estimates) // 2
    assert len(asked) == count and len(estimates) == 2 * count
    assert all(torch.equal(value, always[name]) for name, value in rarely.items())


def margin(latents: Tensor, labels: Tensor) -> Tensor:
    logits = small_model()(Pixels().generate(latents)).logits
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def test_points_end_farther_inside_their_class_than_they_started(tmp_path):
    brep, target = attack(patience=20), victim()
    starts, labels, _, _ = brep.search(victim(), Pixels(), torch.arange(3), rng(3), plain_loop)
    found = brep.invert(target, Pixels(), labels, rng(3), plain_loop)
    assert (margin(found.latents, labels) > margin(starts, labels) + 0.5).all()
    assert not found.details["failed"].any()
    assert int(found.queries.sum()) == target.queries
    assert (found.details["queries_to_result"] < found.queries).all()


def test_both_success_rules_come_from_one_run():
    growth, final = (
        attack(result=rule).invert(victim(), Pixels(), torch.arange(3), rng(3), plain_loop)
        for rule in ("last_growth", "final")
    )
    for found in (growth, final):
        assert torch.equal(found.details["growth_latents"], growth.latents)
        assert torch.equal(found.details["final_latents"], final.latents)
    assert not torch.equal(growth.latents, final.latents)
    assert torch.equal(final.queries, final.details["queries_to_result"])


def test_without_growth_the_official_rule_counts_a_failure_and_the_other_does_not():
    for rule, failed in (("last_growth", True), ("final", False)):
        brep = attack(radius=50.0, clip=1.5, result=rule)
        found = brep.invert(victim(), Pixels(), torch.arange(3), rng(3), plain_loop)
        assert not found.details["grew"].any()
        assert found.details["failed"].tolist() == [failed] * 3
        assert torch.equal(found.latents, found.details["final_latents"])


@pytest.mark.parametrize("cap", [1, 32, 33, 100, 450])
def test_no_item_exceeds_its_queries_and_the_best_so_far_is_kept(tmp_path, cap):
    target = victim()
    found = run(attack(max_queries=cap, patience=1000), target, tmp_path)
    assert int(found.queries.max()) <= cap and int(found.queries.sum()) == target.queries
    if cap < 3:
        assert target.queries == 0 and found.details["failed"].all()  # not one batch of the search
    if cap >= 100:
        assert found.details["reached"].all() and found.confidence.all()
        assert (found.queries > cap - 33).all()


class Stubborn:
    """A label victim that refuses every proposal: only full spheres get an answer of the class."""

    num_classes, queries = 2, 0

    def labels(self, images):
        self.queries += len(images)
        return torch.full((len(images),), int(len(images) == 1))


def test_a_point_from_which_every_proposal_is_refused_ends():
    brep, start = attack(max_rejections=5), torch.zeros(1, 12)
    no, zero = torch.tensor([0]), torch.tensor([0])
    end = brep.walk(
        Stubborn(), Pixels(), start, no, rng(1), plain_loop, reached=torch.tensor([True]), spent=zero
    )
    assert int(end["rejections"]) == 5 and int(end["queries"]) == 5 * 33
    assert torch.equal(end["latents"], start)
    assert float(end["radius"]) == pytest.approx(2 * 1.3**5)  # growth stays although the step is refused
    assert not end["grew"]  # but is no result


def test_a_class_that_is_everywhere_ends():
    everywhere = Victim.of(Linear(torch.zeros(2, 12), torch.tensor([1.0, 0.0])), 2, Threat.LABELS)
    found = attack(identities=1).invert(everywhere, Pixels(), torch.tensor([0]), rng(1), plain_loop)
    assert found.details["radius"].isfinite().all() and found.latents.isfinite().all()


def test_a_target_with_a_noisy_head_is_attacked_all_the_same(tmp_path):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head = Bottleneck(12, 3, eval_noise="sample")
            nn.init.constant_(self.head.statistics.bias[6:], 7.0)  # std about 2

        def forward(self, images, taps=()):
            features = 3 * images.flatten(1)
            return Output(self.head(features), features)

    target = Victim.of(Noisy(), 3, Threat.LABELS)
    found = run(attack(max_queries=33 * 20, max_rejections=10), target, tmp_path)
    assert found.details["reached"].all() and int(found.queries.sum()) == target.queries
    assert found.latents.isfinite().all()


# the engine around it


def test_all_items_share_one_search_whatever_the_chunk(tmp_path):
    whole, chunks = (run(attack(restarts=2), victim(), tmp_path / str(size), chunk=size) for size in (512, 1))
    for name, value in whole.tensors().items():
        assert torch.equal(chunks.tensors()[name], value), name


def test_a_prior_that_knows_the_target_is_refused():
    class Informed(Pixels):
        uses_target = True

    with pytest.raises(ConfigError, match="knows the target"):
        attack().invert(victim(), Informed(), torch.arange(3), rng(3), plain_loop)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": 0}, "attack.points=0 must be at least 1"),
        ({"max_queries": 0}, "attack.max_queries=0 must be at least 1"),
        ({"max_rejections": 0}, "attack.max_rejections=0 must be at least 1"),
        ({"clip": 0.0}, "attack.clip=0.0 must be positive"),
        ({"radius": float("nan")}, "attack.radius=nan must be positive"),
        ({"growth": 1.0}, "attack.growth=1.0 must exceed 1"),
        ({"threshold": 1.0}, "attack.threshold=1.0 must be in"),
        ({"choice": "easy"}, "attack.choice=easy is unknown; use reached or requested"),
        ({"result": "best"}, "attack.result=best is unknown; use last_growth or final"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError) as error:
        attack(**changes)
    assert words in str(error.value)
