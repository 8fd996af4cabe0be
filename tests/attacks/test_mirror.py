"""MIRROR with gradients and without: the golden pieces, and what must hold of whole attacks."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from attacks.losses import log_scores
from attacks.mirror import Mirror
from attacks.mirror_genetic import MirrorGenetic, drawn, first_parent_share, parent_weights
from attacks.parts.consistency import consistent_group, most_consistent
from attacks.parts.optimisers import ramp
from attacks.parts.p_space import to_p
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, Victim
from tests.attacks.toy_style import ToyTarget, shared_rng, toy_victim
from tests.golden.fill import golden

GOLDEN = golden("attack_mirror")
TOY = {
    "identities": 3,
    "search": {"size": 40, "cutoff": 3, "batch": 16},
    "image_to_target": [
        {"_target_": "midre_exp.data.transforms.CenterCrop", "size": 14},
        {"_target_": "midre_exp.data.transforms.Resize", "size": 8},
    ],
    "picture": None,
}
SHORT = {"restarts": 2, "steps": 6, "lr": 0.05}
FEW = {"population": 6, "generations": 4, "enough": None}
SEVERAL = {"steps": 12, "rampup": 0.0, "rampdown": 0.0}
RUNTIME = Runtime(checkpoint_seconds=0)


def made(name: str, changes: dict[str, Any]) -> Any:
    node = OmegaConf.load(CONF_DIR / "attack" / f"{name}.yaml")
    return build(without(plain(OmegaConf.merge(node, TOY, changes)), "defaults", "name", "judged", "crop"))


def attack(**changes: Any) -> Mirror:
    """The attack of conf/attack/mirror.yaml on the toy, in short: 3 identities, 40 candidates."""
    found: Mirror = made("mirror", {**SHORT, **changes})
    return found


def genetic(**changes: Any) -> MirrorGenetic:
    """The attack of conf/attack/mirror_genetic.yaml on the toy, in short."""
    found: MirrorGenetic = made("mirror_genetic", {**FEW, **changes})
    return found


def score_victim():
    return Victim.of(ToyTarget(), 10, Threat.SCORES)


class SmallPrior(StylePrior):
    """An untrained StyleGAN2 of 16 px: codes of 12 numbers, 6 layers."""

    def __init__(self):
        super().__init__()
        sizes = {"channel_base": 128, "channel_max": 8}
        mapping = {"num_layers": 2}
        self.take(
            StyleGAN2Generator(
                z_dim=12, w_dim=12, img_resolution=16, mapping_kwargs=mapping, synthesis_kwargs=sizes
            ),
            None,
        )

    def fit(self, public, victim, **options):
        raise NotImplementedError


@pytest.fixture(scope="module")
def prior() -> StylePrior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallPrior().eval().requires_grad_(False)


def labels_of(mirror: Mirror | MirrorGenetic) -> Tensor:
    return torch.arange(mirror.identities).repeat_interleave(mirror.restarts)


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def invert(
    mirror: Any, prior: StylePrior, tmp_path: Any, victim: Any = None, rows: slice = slice(None)
) -> Any:
    """What ``invert`` finds of some of the items."""
    victim = victim or (toy_victim() if mirror.threat is Threat.WHITE_BOX else score_victim())
    labels = labels_of(mirror)
    start = mirror.initialise(victim, prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)[rows]
    victim.queries = 0
    number = len(list(tmp_path.iterdir()))
    loop = Loop(tmp_path / str(number), "test", RUNTIME, victim, start=start, shared_rng=shared_rng())
    return mirror.invert(victim, prior, labels[rows], rng(len(labels))[rows], loop)


# the rate


@pytest.mark.parametrize("name", ["lr_ramp", "lr_ramp_short"])
def test_rates_are_the_golden_ones(name):
    expected = GOLDEN[name]
    found = [
        expected["initial_lr"] * ramp(epoch / expected["epochs"], up=0.05, down=0.25)
        for epoch in expected["epoch"]
    ]
    assert found == pytest.approx(expected["lr"], rel=1e-6, abs=1e-12)


def test_a_rate_without_rise_and_fall_is_constant():
    assert [ramp(done, up=0, down=0) for done in (0.01, 0.5, 1)] == [1, 1, 1]


# one result per class


@pytest.mark.parametrize("case", GOLDEN["consistency_selection"]["cases"])
def test_the_most_consistent_results_are_the_golden_ones(case):
    logits, labels = torch.tensor([case["logits"]]), torch.tensor([case["target"]])
    assert logits[0].topk(5, dim=1).indices.tolist() == case["top5"]
    assert most_consistent(logits, labels).tolist() == [case["selected"]]
    assert most_consistent(logits, labels, by_softmax=True).tolist() == [case["argmax_softmax"]]


def reference_group(logits: Tensor, label: int) -> list[int]:
    """The rule as it is defined, group by group."""
    top = [row.topk(5).indices.tolist() for row in logits]
    sets = [set(row[1:]) if row[0] == label else set() for row in top]
    for shared in (2, 1):
        for size in range(len(sets), 1, -1):
            for group in itertools.combinations(range(len(sets)), size):
                if len(set.intersection(*(sets[i] for i in group))) >= shared:
                    return list(group)
    return list(range(len(sets)))


def test_groups_follow_the_rule_when_told_group_by_group():
    logits = torch.randn(60, 6, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 9
    logits[torch.arange(60), :, labels] += torch.linspace(0, 4, 60)[:, None]
    groups = consistent_group(logits, labels)
    expected = [reference_group(row, int(label)) for row, label in zip(logits, labels, strict=True)]
    assert [group.nonzero().squeeze(1).tolist() for group in groups] == expected
    assert {len(group) for group in expected} >= {2, 3, 4, 6}
    assert torch.equal(consistent_group(logits[7:9], labels[7:9]), groups[7:9])


def test_two_neighbours_in_common_overrule_a_larger_group_with_one():
    logits = torch.zeros(1, 5, 20)
    logits[..., 0] = 9
    neighbours = ([1, 2, 3, 4], [1, 2, 5, 6], [7, 8, 9, 1], [7, 10, 11, 12], [7, 13, 14, 15])
    for row, others in enumerate(neighbours):
        logits[0, row, others] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert consistent_group(logits, torch.tensor([0])).tolist() == [[True, True, False, False, False]]
    logits[
        0, 1, 2
    ] = (
        -1
    )  # only the one neighbour 1 is left in common: 7's group is as large as 1's, which has earlier members
    logits[0, 1, 16] = 2.5
    assert consistent_group(logits, torch.tensor([0])).tolist() == [[True, True, True, False, False]]


def test_the_highest_logit_need_not_be_the_highest_probability():
    logits = torch.tensor([[[5.0, 4.9, 0.0], [4.0, 0.0, -1.0], [0.0, 9.0, 0.0]]])
    labels = torch.tensor([0])
    assert most_consistent(logits, labels).tolist() == [0]
    assert most_consistent(logits, labels, by_softmax=True).tolist() == [1]
    assert most_consistent(logits[..., :2], labels).tolist() == [0]  # two classes leave one neighbour


def test_one_result_of_each_class_counts_for_one_query_per_item(prior, tmp_path):
    found = run_attack(
        attack(counted="consistent", restarts=4, steps=1),
        target := toy_victim(),
        prior,
        seed=0,
        work=tmp_path,
        runtime=Runtime(chunk=8),
    )
    assert found.labels[found.details["selected"]].tolist() == [0, 1, 2]
    assert target.queries == 40 + 12 + 12 == found.queries.sum()
    mirror = attack(counted="consistent", restarts=4)
    logits = toy_victim()(mirror.render(prior, found.latents, found.labels)).logits.view(3, 4, 10)
    expected = most_consistent(logits, torch.arange(3))
    assert found.details["selected"].view(3, 4).int().argmax(1).tolist() == expected.tolist()


# the optimisation


def test_starts_are_the_untruncated_codes_of_the_most_confident_truncated_pictures(prior):
    mirror, target = attack(), toy_victim()
    labels = labels_of(mirror)
    start = mirror.initialise(target, prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)
    assert target.queries == 40
    codes = mirror.search.codes(prior, shared_rng())
    pictures = prior.synthesise(prior.truncate(codes, psi=0.7, cutoff=3)).clamp(0, 1)
    for step in mirror.image_to_target:
        pictures = step(pictures)
    confidences = toy_victim()(pictures).logits.softmax(1)
    for label in range(3):
        best = confidences[:, label].topk(2).indices
        assert torch.equal(start[labels == label], codes[best])


@pytest.mark.parametrize("keep", ["batch", "last"])
def test_steps_are_those_of_adam_on_one_class_alone(prior, tmp_path, keep):
    mirror = attack(restarts=4, reference_batch=4, steps=8, keep=keep)
    found = invert(mirror, prior, tmp_path)
    labels = labels_of(mirror)
    start = mirror.initialise(toy_victim(), prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)
    codes = mirror.search.codes(prior, shared_rng())
    points = torch.where(codes < 0, 5 * codes, codes)
    mean, deviation = points.mean(0), points.std(0, unbiased=False)
    low, high = (torch.where(edge < 0, edge / 5, edge) for edge in (mean - deviation, mean + deviation))
    for label in range(3):
        w = start[labels == label].clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=0.05, betas=(0.9, 0.999))
        lowest, best = float("inf"), w.detach().clone()
        for step in range(8):
            for group in adam.param_groups:
                group["lr"] = 0.05 * ramp((step + 1) / 8, up=0.05, down=0.25)
            images = prior.synthesise(prior.truncate(w, psi=0.7, cutoff=3)).clamp(0, 1)
            for to_target in mirror.image_to_target:
                images = to_target(images)
            if shared_rng().uniform("flip", step=step)[0] < 0.5:
                images = images.flip(-1)
            loss = 10 * F.cross_entropy(toy_victim()(images).logits, torch.full((4,), label))
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                w.clamp_(low, high)
            if loss.item() < lowest or keep == "last":
                lowest, best = loss.item(), w.detach().clone()
        torch.testing.assert_close(found.details["w"][labels == label], best, rtol=0, atol=1e-4)


def test_codes_stay_in_their_bounds_and_pictures_are_theirs(prior, tmp_path):
    mirror = attack(steps=5, lr=0.5)
    constraint = mirror.bounds.estimate(mirror.search.codes(prior, shared_rng()))
    seen = []

    class Watched:
        def estimate(self, codes):
            return SimpleNamespace(
                clip=lambda w: seen.append(constraint.clip(w)) or seen[-1], energy=constraint.energy
            )

    mirror.bounds = Watched()
    found = invert(mirror, prior, tmp_path)
    assert len(seen) == 5
    for w in (*seen, found.details["w"]):
        assert (w >= constraint.low).all()
        assert (w <= constraint.high).all()
    assert any((w == constraint.high).any() for w in seen)  # a border was reached
    torch.testing.assert_close(found.latents, prior.truncate(found.details["w"], psi=0.7, cutoff=3))
    torch.testing.assert_close(found.images, mirror.search.render(prior, found.details["w"]))
    assert 0 <= found.images.min() <= found.images.max() <= 1


def test_without_bounds_codes_leave_them_and_an_energy_pulls_them_back(prior, tmp_path):
    size = {"search": {**TOY["search"], "size": 100}, "lr": 0.5, "keep": "last", **SEVERAL}
    box = attack(**size)
    constraint = box.bounds.estimate(box.search.codes(prior, shared_rng()))
    free = invert(attack(**size, bounds={"size": 0}), prior, tmp_path).details["w"]
    assert ((free < constraint.low) | (free > constraint.high)).any()
    energy = {"_target_": "attacks.Energy", "size": 1.0}
    pulled = invert(attack(**size, bounds=energy), prior, tmp_path).details["w"]
    form = attack(bounds=energy).bounds.estimate(box.search.codes(prior, shared_rng()))
    assert form.energy(pulled).mean() < 0.5 * form.energy(free).mean()


def test_a_batch_keeps_one_step_and_an_item_its_own():
    state = {
        "w": torch.full((4, 1), 7.0),
        "best": torch.zeros(4, 1),
        "lowest": torch.tensor([2.0, 2, 2, 2]),
    }
    losses = torch.tensor([1.0, 2.5, 1.0, 4.0])  # means 1.75 and 2.5
    best, lowest = attack(keep="batch").better(state, losses)
    assert best.flatten().tolist() == [7, 7, 0, 0]
    assert lowest.tolist() == [1.75, 1.75, 2, 2]
    best, lowest = attack(keep="own").better(state, losses)
    assert best.flatten().tolist() == [7, 0, 7, 0]
    assert lowest.tolist() == [1, 2, 1, 2]
    assert attack(keep="last").better(state, losses)[0].flatten().tolist() == [7, 7, 7, 7]
    assert [attack(keep=keep).group_size for keep in ("batch", "own", "last")] == [2, 1, 1]


def test_a_step_mirrors_all_images_or_none_unless_asked_otherwise(prior):
    labels = torch.zeros(12, dtype=torch.long)
    w = attack().search.codes(prior, shared_rng())[:1].expand(12, -1)

    def losses(**changes: Any) -> list[Tensor]:
        mirror = attack(**changes)
        return [
            mirror.losses(toy_victim(), prior, w, labels, rng(12), shared_rng(), step) for step in range(8)
        ]

    never, always = losses(flip_p=0), losses(flip_p=1)
    assert torch.equal(never[0], never[5])
    assert not torch.equal(never[0], always[0])
    together = [len(step.unique()) for step in losses()]
    assert together == [1] * 8
    assert len(torch.stack(losses()).unique()) == 2
    assert max(len(step.unique()) for step in losses(flip_shared=False)) == 2


# the genetic search


def test_weights_of_parents_and_shares_of_coordinates_are_the_golden_ones():
    expected = GOLDEN["genetic"]
    scores = torch.tensor(expected["log_confidences"])
    torch.testing.assert_close(parent_weights(scores), torch.tensor(expected["parent_weights"]))
    for pair, share in expected["crossover_prob_first_parent"].items():
        first, second = scores[[int(i) for i in pair.split(",")]]
        assert first_parent_share(first, second, rule="log_ratio").item() == pytest.approx(share, abs=1e-6)
        textbook = first.exp() / (first.exp() + second.exp())
        torch.testing.assert_close(first_parent_share(first, second, rule="ratio"), textbook)


def test_scores_at_the_ends_of_the_scale_stay_numbers():
    scores = log_scores(torch.tensor([0.0, 1.0, 1.0]))
    assert scores.isfinite().all()
    assert parent_weights(scores).tolist() == pytest.approx([0, 0.5, 0.5])
    for rule in ("log_ratio", "ratio"):
        assert first_parent_share(scores[1], scores[2], rule=rule) == 0.5
    assert parent_weights(log_scores(torch.zeros(4))).tolist() == [0.25] * 4


def test_parents_are_drawn_by_their_weights():
    weights = torch.tensor([[0.1, 0.0, 0.6, 0.3]])
    found = drawn(weights, torch.linspace(0, 1 - 1e-6, 10000)[None])
    counts = torch.bincount(found[0], minlength=4) / 10000
    assert counts.tolist() == pytest.approx([0.1, 0, 0.6, 0.3], abs=1e-3)


def population(search: MirrorGenetic, n: int = 3) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    codes = torch.randn(n, search.population, 8, generator=numbers)
    return codes, torch.randn(n, search.population, generator=numbers).log_softmax(1)


def offspring(search: MirrorGenetic, codes: Tensor, scores: Tensor, step: int = 0) -> Tensor:
    constraint = search.bounds.estimate(codes.flatten(0, 1))
    return search.children(codes, scores, rng(len(codes)), torch.linspace(1, 2, 8), constraint, step)


def test_children_without_mutation_take_every_coordinate_from_one_of_two_parents():
    search = genetic(mutation_p=0, bounds={"size": 0}, population=40)
    codes, scores = population(search)
    children = offspring(search, codes, scores)
    assert children.shape == (3, 39, 8)
    origin = children[:, :, None] == codes[:, None]  # [n, child, parent, coordinate]
    assert origin.any(2).all()
    parents = origin.any(3).sum(2)
    assert parents.max() == 2
    assert not torch.equal(offspring(search, codes, scores, step=1), children)
    torch.testing.assert_close(offspring(search, codes[:1], scores[:1]), children[:1])


def test_mutations_of_a_generation_share_their_noise_which_is_bounded():
    search = genetic(mutation_p=0.3, bounds={"size": 0}, population=40)
    codes, scores = population(search)
    plain_children = offspring(genetic(mutation_p=0, bounds={"size": 0}, population=40), codes, scores)
    change = to_p(offspring(search, codes, scores)) - to_p(plain_children)
    moved = change.abs() > 1e-5
    assert 0.25 < moved.float().mean() < 0.35
    assert (change.abs() <= 0.1 * torch.linspace(1, 2, 8) + 1e-5).all()
    for item in range(3):
        for coordinate in range(8):
            values = change[item, :, coordinate][moved[item, :, coordinate]]
            assert values.max() - values.min() < 1e-5


def test_children_stay_in_their_bounds():
    search = genetic(population=30)
    codes, scores = population(search)
    constraint = search.bounds.estimate(codes.flatten(0, 1))
    children = search.children(3 * codes, scores, rng(3), torch.ones(8), constraint, 0)
    assert (children >= constraint.low).all()
    assert (children <= constraint.high).all()
    assert (children == constraint.high).any()  # a border was reached


@pytest.mark.parametrize("flip", [False, True])
def test_the_fittest_only_gets_fitter_and_every_question_is_counted(prior, tmp_path, flip):
    search, target = genetic(search={**TOY["search"], "flip": flip}), score_victim()
    found = invert(search, prior, tmp_path, target)
    asked = 4 * 5 * (2 if flip else 1)
    assert target.queries == 3 * asked
    assert found.queries.tolist() == [asked] * 3
    assert found.details["generations"].tolist() == [4] * 3
    labels = torch.arange(3)
    start = search.initialise(score_victim(), prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)
    assert (start[..., -1].diff(dim=1) <= 0).all()
    after = found.details["w"]
    images = search.search.render(prior, after)
    torch.testing.assert_close(images, found.images)
    for step in search.image_to_target:
        images = step(images)
    scores = score_victim().scores(images)
    scores = (scores + score_victim().scores(images.flip(-1))) / 2 if flip else scores
    assert (scores.diagonal().log() >= start[:, 0, -1] - 1e-5).all()
    assert (scores.diagonal().log() > start[:, 0, -1] + 1e-3).any()


def test_an_identity_that_is_found_asks_nothing_more(prior, tmp_path):
    reached = invert(genetic(generations=8), prior, tmp_path).images
    labels = torch.arange(3)
    search = genetic(generations=8)
    for step in search.image_to_target:
        reached = step(reached)
    start = search.initialise(score_victim(), prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)[
        :, 0, -1
    ].exp()
    end = score_victim().scores(reached).diagonal()
    enough = float(end.min()) + 1e-6  # only the slowest runs to the end
    target = score_victim()
    found = invert(genetic(generations=8, enough=enough), prior, tmp_path, target)
    generations = found.details["generations"]
    assert generations.max() == 8
    assert generations.min() < 8
    assert ((generations == 0) == (start >= enough)).all()
    assert found.queries.tolist() == (5 * generations).tolist()
    assert target.queries == found.queries.sum()
    at_once = score_victim()
    assert (invert(genetic(enough=1e-6), prior, tmp_path, at_once).details["generations"] == 0).all()
    assert at_once.queries == 0


# whole attacks


def test_the_target_takes_the_reconstructions_for_their_class(prior, tmp_path):
    mirror = attack(**SEVERAL, flip_p=0, bounds={"size": 2}, lr=0.1)
    labels, target = labels_of(mirror), toy_victim()
    start = mirror.initialise(target, prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)
    found = run_attack(mirror, target, prior, seed=0, work=tmp_path, runtime=RUNTIME)
    first = prior.truncate(start, psi=0.7, cutoff=3)
    before = target.confidence(mirror.render(prior, first, labels), labels)
    after = target.confidence(mirror.render(prior, found.latents, labels), labels)
    assert (after > before).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "attack.steps=0 must be at least 1"),
        ({"reference_batch": 0}, "attack.reference_batch=0 must be at least 1"),
        ({"lr": 0}, "attack.lr=0 must be above 0"),
        ({"identity_weight": 0}, "attack.identity_weight=0 must be above 0"),
        ({"flip_p": 1.5}, "attack.flip_p=1.5 must lie in"),
        ({"rampup": -1}, "attack.rampup=-1 must lie in"),
        ({"betas": [0.9, 1.0]}, "attack.betas=.0.9, 1.0. must be two numbers"),
        ({"keep": "best"}, "attack.keep=best is unknown; use one of batch, own, last"),
        ({"counted": "one"}, "attack.counted=one is unknown"),
        ({"score": "loss"}, "attack.score=loss is unknown"),
        ({"restarts": 41}, "attack.restarts=41 exceeds attack.search.size=40"),
        (
            {"restarts": 51, "search": {"size": 60}, "counted": "consistent"},
            "attack.restarts=51 is more than",
        ),
    ],
)
def test_settings_that_optimise_or_select_nothing_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        attack(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 1}, "attack.population=1 must be at least 2"),
        ({"population": 41}, "attack.population=41 exceeds attack.search.size=40"),
        ({"generations": 0}, "attack.generations=0 must be at least 1"),
        ({"enough": 2}, "attack.enough=2 must be a probability"),
        ({"crossover": "uniform"}, "attack.crossover=uniform is unknown"),
        ({"mutation_p": 2}, "attack.mutation_p=2 must lie in"),
        ({"mutation_size": -1}, "attack.mutation_size=-1 must be at least 0"),
        ({"bounds": {"_target_": "attacks.Energy"}}, "attack.bounds is an energy"),
    ],
)
def test_settings_that_search_nothing_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        genetic(**change)
