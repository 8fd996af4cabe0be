"""IF-GMI against its golden trace and what must hold of it: stages, balls, starts, pictures, resuming."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.ifgmi import IFGMI
from attacks.losses import IdentityLoss, poincare
from attacks.parts.l1_ball import near, project
from midre_exp.attack import apply
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.metrics.judge import Judge
from midre_exp.metrics.phases import PhaseJudge
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.stylegan1 import StyleGAN1Generator
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.stages import make_plan
from midre_exp.store.store import Store
from midre_exp.targets.base import Output
from tests.attacks.toy_style import PlainLoop, ToyPrior, shared_rng, toy_prior, toy_victim
from tests.conftest import resolved, tiny_overrides
from tests.golden.fill import golden
from tests.priors.stylegan.test_networks import check, filled

GOLDEN = golden("attack_ifgmi")
TRACE = GOLDEN["staged_optimisation"]
BALL = GOLDEN["l1_ball_projection"]["cases"]
LABELS = torch.tensor(TRACE["targets"])
OFF = {"_target_": "attacks.RandomCrop", "scale": [1, 1], "ratio": [1, 1]}


def stage(steps: int, radius_features: float | None = None, radius_w: float | None = None) -> dict[str, Any]:
    return {"steps": steps, "radius_features": radius_features, "radius_w": radius_w}


def steps(crop: int, size: int) -> list[dict[str, Any]]:
    """To the target."""
    names = {"CenterCrop": crop, "Resize": size}
    return [{"_target_": f"midre_exp.data.transforms.{name}", "size": value} for name, value in names.items()]


SHORT = [stage(3), stage(2, 0.5), stage(2, 1.0, 0.05)]


def attack(**changes: Any) -> IFGMI:
    """The attack of conf/attack/ifgmi.yaml, in short: 2 identities, 12 candidates, images of 32 px, every
    stage kept, no crop.
    """
    toy = {
        "identities": 2,
        "restarts": 2,
        "search": {"size": 12, "cutoff": 4},
        "stages": SHORT,
        "view": OFF,
        "reference_batch": 4,
        "keep_stages": True,
        "image_to_target": steps(24, 16),
        "picture": None,
    }
    node = OmegaConf.load(CONF_DIR / "attack" / "ifgmi.yaml")
    return build(without(plain(OmegaConf.merge(node, toy, changes)), "defaults", "name", "judged"))


class Small(StylePrior):
    """A generator of 32 px: four blocks, of which three can start a stage."""

    def __init__(self):
        super().__init__()
        network = StyleGAN2Generator(
            z_dim=16,
            w_dim=16,
            img_resolution=32,
            mapping_kwargs={"num_layers": 2},
            synthesis_kwargs={"channel_max": 8},
        )
        self.take(filled(network, natural=True), None)


@pytest.fixture(scope="module")
def prior() -> StylePrior:
    return Small().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def start(prior) -> Tensor:
    return prior.codes(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))[:, :1].clone()


def rng(n: int = 4) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def invert(ifgmi: IFGMI, prior: StylePrior, start: Tensor, victim: Any = None):
    return ifgmi.invert(victim or toy_victim(), prior, LABELS, rng(), PlainLoop(start))


# the ball


def brute_force(x: Tensor, radius: float) -> Tensor:
    """The nearest of all points that some set of entries, shrunk alike, gives within the ball; ``x`` [d]."""
    if x.abs().sum() <= radius:
        return x
    sets = itertools.chain.from_iterable(
        itertools.combinations(range(len(x)), k) for k in range(1, len(x) + 1)
    )
    found = []
    for chosen in sets:
        theta = (x[list(chosen)].abs().sum() - radius) / len(chosen)
        point = x.sign() * (x.abs() - theta).clamp(min=0)
        if point.abs().sum() <= radius * (1 + 1e-9):
            found.append(point)
    return min(found, key=lambda point: float((point - x).square().sum()))


@pytest.mark.parametrize("case", BALL, ids=lambda case: case["name"])
def test_projections_onto_the_ball_are_the_golden_ones(case):
    if case["name"] == "d":
        points = torch.from_numpy(np.random.RandomState(4).standard_normal((3, 500)).astype(np.float32))
        found = project(points, case["radius"])
        check(found, case["output_summary"])
    else:
        found = project(torch.tensor(case["input"]), case["radius"])
        torch.testing.assert_close(found, torch.tensor(case["output"]), rtol=0, atol=1e-6)
    assert (found.flatten(1) != 0).sum(1).tolist() == case["nonzeros"]
    torch.testing.assert_close(found.flatten(1).abs().sum(1), torch.tensor(case["l1_after"]))


def test_projections_equal_brute_force_over_all_sets_of_entries():
    points = torch.randn(24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    points[:3, 2:] = 0
    points[3:6] = points[3:6].sign()
    for radius in (1e-3, 0.5, 3.0):
        expected = torch.stack([brute_force(x, radius) for x in points])
        torch.testing.assert_close(project(points, radius), expected)


@pytest.mark.parametrize("power", [1, 5])
def test_a_projection_ends_in_the_ball_and_stays_and_points_inside_do_not_move(power):
    points = (
        torch.randn(8, 4, 30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** power
    )
    norms = points.flatten(1).abs().sum(1)
    radius = float(norms.median())
    found = project(points, radius)
    inside = norms < radius
    assert 0 < inside.sum() < 8
    assert torch.equal(found[inside], points[inside])
    reached = found.flatten(1).abs().sum(1)[~inside]
    torch.testing.assert_close(reached, torch.full_like(reached, radius), rtol=1e-12, atol=0)
    torch.testing.assert_close(project(found, radius), found, rtol=0, atol=1e-12 * radius)
    single = project(points.float(), radius)
    assert (single.flatten(1).double().abs().sum(1) <= radius * (1 + 1e-6)).all()
    alone = torch.cat([project(point, radius) for point in points.float().split(1)])
    assert torch.equal(alone, single)  # an item's digits do not depend on the others


def test_extreme_points_and_radii_have_projections():
    points = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [1e6, -1e6, 1e6]])
    assert project(points, 1.0).tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        pytest.approx([1 / 3, -1 / 3, 1 / 3], abs=0.07),
    ]
    assert torch.equal(project(points, float("inf")), points)


def test_without_a_radius_points_stay_and_with_one_they_stay_near_the_centre():
    points, centre = torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    assert near(points, centre, None) is points
    assert near(points, centre, 2.0).tolist() == [[3.0, 1.0]]


# stages


class Recorder(IdentityLoss):
    """The Poincare loss, which remembers its means."""

    def __init__(self):
        self.means: list[float] = []

    def __call__(self, victim, surrogates, images, labels, rng, step):
        losses = poincare(victim(images).logits, labels)
        self.means.append(losses.mean().item())
        return losses


class Watched(ToyPrior):
    """Remembers the codes and features that one stage left to the next."""

    def __init__(self):
        super().__init__()
        self.left: list[tuple[Tensor, Tensor]] = []

    def run_blocks(self, codes, features=None, image=None, *, start=0, stop=None):
        found = super().run_blocks(codes, features, image, start=start, stop=stop)
        if stop is not None:
            self.left.append((codes, found[0]))
        return found


def test_the_stages_follow_the_golden_trace():
    keys = ("steps", "radius_features", "radius_w")
    ifgmi = attack(
        stages=[{key: case[key] for key in keys} for case in TRACE["stages"]], image_to_target=steps(48, 32)
    )
    ifgmi.identity_loss, watched = Recorder(), Watched().eval().requires_grad_(False)
    pictures, outcome = [], ifgmi.outcome
    ifgmi.outcome = lambda picture, *of: pictures.append(picture) or outcome(picture, *of)
    codes = watched.codes(ifgmi.search.z(watched, shared_rng()), psi=0.5, cutoff=4)
    found = invert(ifgmi, watched, codes[[9, 11, 0, 7], :1])
    losses = [loss for case in TRACE["stages"] for loss in case["loss_before_each_step"]]
    assert ifgmi.identity_loss.means == pytest.approx(losses, abs=1e-5)
    for picture, case in zip(pictures, TRACE["stages"], strict=True):
        check(2 * picture - 1, case["image_returned"])
    for (w, features), case in zip(watched.left, TRACE["stages"][:-1], strict=True):
        check(w, case["w_after"])
        check(features, case["features_entering_next_block"])
    check(found.latents, TRACE["stages"][-1]["w_after"])
    assert torch.equal(found.images, pictures[-1])


def test_a_stage_starts_adam_anew_and_without_steps_changes_nothing(prior, start):
    both = invert(attack(stages=[stage(3), stage(0)], picture_of="after", carry_image=True), prior, start)
    first = invert(attack(stages=[stage(3)], picture_of="after"), prior, start)
    assert torch.equal(both.latents, first.latents)
    assert torch.equal(both.images, first.images)
    split = invert(attack(stages=[stage(2), stage(1)], carry_image=True), prior, start)
    assert not torch.allclose(split.latents, first.latents, atol=1e-4)


@pytest.mark.parametrize("carry_image", [True, False])
def test_only_with_the_image_carried_on_do_stages_without_steps_reproduce_the_whole_picture(
    prior, start, carry_image
):
    stages = [stage(2), stage(0), stage(0)]
    ifgmi = attack(stages=stages, picture_of="after", carry_image=carry_image)
    found = invert(ifgmi, prior, start)
    whole = prior.synthesise(found.latents)
    assert torch.equal(found.images, whole) == carry_image
    pictures = found.details["stages"]
    assert pictures.shape == (4, 3, 3, 16, 16)
    assert all(torch.equal(pictures[:, 0], pictures[:, k]) == carry_image for k in (1, 2))


def test_the_colours_carried_on_are_those_of_the_stage_that_ended(prior, start):
    """One step at the second stage, written out."""
    found = invert(attack(stages=[stage(2), stage(1)], carry_image=True, report="first"), prior, start)
    w = found.latents
    with torch.no_grad():
        features, colours = prior.run_blocks(w, stop=1)
    point = [w.clone().requires_grad_(), features.clone().requires_grad_()]
    ifgmi = attack(stages=[stage(2), stage(1)], carry_image=True, picture_of="after")
    picture = prior.as_picture(prior.run_blocks(*point, colours, start=1)[1])
    losses = ifgmi.losses(toy_victim(), picture, LABELS, rng(), shared_rng(), 2)
    gradients = torch.autograd.grad(losses.mean(), point)
    point = [
        x.detach() - 0.005 * g.sign() for x, g in zip(point, gradients, strict=True)
    ]  # Adam's first step
    last = invert(ifgmi, prior, start)
    torch.testing.assert_close(last.latents, point[0], rtol=0, atol=1e-5)
    expected = prior.as_picture(prior.run_blocks(*point, colours, start=1)[1])
    torch.testing.assert_close(last.images, expected, rtol=0, atol=1e-4)


def test_the_balls_of_a_stage_are_around_where_it_starts(prior, start):
    stages = [stage(2, None, 0.1), stage(2, None, 0.05)]
    first, second = (invert(attack(stages=stages, report=k), prior, start).latents for k in (0, 1))
    for before, after, radius in ((start, first, 0.1), (first, second, 0.05)):
        moved = (after - before).abs().sum((1, 2))
        torch.testing.assert_close(moved, torch.full_like(moved, radius), rtol=1e-4, atol=0)
    for none in (None, 0):
        free = invert(attack(stages=[stage(2, None, none)]), prior, start).latents
        assert ((free - start).abs().sum((1, 2)) > 0.12).all()


# pictures


def test_a_stages_picture_is_what_its_last_step_looked_at_or_is_rendered_after_it(prior, start):
    found = invert(attack(stages=[stage(3)]), prior, start)
    earlier = invert(attack(stages=[stage(2)], picture_of="after"), prior, start)
    assert torch.equal(found.images, prior.synthesise(earlier.latents))
    after = invert(attack(stages=[stage(3)], picture_of="after"), prior, start)
    assert torch.equal(after.latents, found.latents)
    assert torch.equal(after.images, prior.synthesise(found.latents))


@pytest.mark.parametrize(("report", "number"), [("first", 0), (1, 1), ("last", 2)])
def test_the_reported_stage_is_the_chosen_one_and_all_are_kept_only_if_asked(prior, start, report, number):
    ifgmi, target = attack(report=report), toy_victim()
    found = invert(ifgmi, prior, start, target)
    assert target.queries == 7 * 4
    assert found.queries.tolist() == [7] * 4
    pictures = found.details["stages"]
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures[:, number], ifgmi.outcome(found.images, number, LABELS)[f"picture {number}"])
    assert not torch.equal(pictures[:, 0], pictures[:, 2])
    target = toy_victim()
    short = invert(attack(report=report, keep_stages=False), prior, start, target)
    assert target.queries == [3, 5, 7][number] * 4  # what nobody looks at is not computed
    assert not short.details
    assert torch.equal(short.images, found.images)
    assert torch.equal(short.latents, found.latents)


# starts and views


def test_items_start_from_the_first_layers_code_of_their_candidates():
    target, expected, toy = toy_victim(), golden("attack_ppa")["initial_selection"], toy_prior()
    ifgmi, labels = attack(image_to_target=steps(48, 32)), torch.tensor(expected["targets"])
    found = ifgmi.initialise(target, toy, labels, shared_rng=shared_rng(), runtime=Runtime())
    assert target.queries == 24
    codes = toy.codes(ifgmi.search.z(toy, shared_rng()), psi=0.5, cutoff=4)
    assert torch.equal(found, codes[expected["chosen_indices"], :1])


def test_every_step_of_all_stages_has_one_crop_for_all_items(prior, start):
    ifgmi = attack(view={"scale": [0.5, 0.9]})
    picture = prior.synthesise(start)
    seen = []
    ifgmi.identity_loss = lambda victim, surrogates, images, *rest: (
        seen.append(images) or images.mean((1, 2, 3))
    )
    for step in (0, 1, 1):
        ifgmi.losses(toy_victim(), picture, LABELS, rng(), shared_rng(), step)
    ifgmi.losses(toy_victim(), picture[2:], LABELS[2:], rng()[2:], shared_rng(), 1)
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)
    assert torch.equal(seen[1], seen[2])
    torch.testing.assert_close(seen[1][2:], seen[3])
    del seen[:]
    drawn = []
    ifgmi.view = lambda images, rng, shared_rng, name, step: drawn.append((name, step)) or images
    invert(ifgmi, prior, start)
    assert drawn == [("crop", step) for step in range(7)]


# whole attacks


def whole(work, prior, runtime, victim=None, **changes):
    work.mkdir(exist_ok=True)
    ifgmi = attack(view={"scale": [0.8, 1.0]}, **changes)
    return run_attack(ifgmi, victim or toy_victim(), prior, seed=0, work=work, runtime=runtime)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, prior):
    target = toy_victim()
    found = whole(tmp_path_factory.mktemp("unbroken"), prior, Runtime(), target)
    return found, target.queries


def test_queries_are_those_of_the_search_and_of_all_steps(unbroken):
    found, asked = unbroken
    assert asked == 2 * 12 + (3 + 2 + 2) * 4
    assert int(found.queries.sum()) == asked
    assert found.images.shape == (4, 3, 16, 16)
    assert torch.equal(found.images, found.details["stages"][:, -1])


def test_the_attack_raises_the_targets_confidence(prior, tmp_path):
    """No random crop, so that the target is asked what was optimised."""
    before = run_attack(
        attack(view=OFF, stages=[stage(1)]), toy_victim(), prior, seed=0, work=tmp_path, runtime=Runtime()
    )
    (tmp_path / "after").mkdir()
    after = run_attack(
        attack(view=OFF, stages=[stage(5), stage(5)], carry_image=True),
        toy_victim(),
        prior,
        seed=0,
        work=tmp_path / "after",
        runtime=Runtime(),
    )
    assert (after.confidence > before.confidence).all()


def test_a_whole_run_leaves_a_record_and_judges_its_stages_in_passing(stocked, tmp_path):
    """Seconds: a generator of 8 channels, three steps of everything."""
    sizes = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "group_size": 2}
    entry = "{{steps: {}, radius_features: 1, radius_w: null}}"
    stages = ",".join(entry.format(n) for n in (2, 1))
    changes = ["attack=ifgmi", "attack.search.size=6", f"attack.stages=[{stages}]", "attack.prior.steps=3"]
    changes += ["attack.judge_stages=true", "metrics=highres"]
    changes += [f"attack.prior.{name}={size}" for name, size in sizes.items()]
    gone = ("attack.prior.latent_dim", "attack.steps")
    shared = [override for override in tiny_overrides(tmp_path) if not override.startswith(gone)]
    settings = resolved([*shared, *changes])
    plan = make_plan(settings)
    assert plan["attack"].upstream["evaluator"] == plan["evaluator"].key
    record = json.loads(run(settings).read_text())
    assert record["queries"] == 6 * 2 + 4 * 2 * (2 + 1)
    assert 0 <= record["metrics"]["att_acc1"] <= 100
    kept = Store(settings["paths"]["store"]).find("attack", record["artifacts"]["attack"])
    found = kept.tensors("reconstructions")
    assert found["latents"].shape == (8, 1, 8)
    assert found["stages"].shape == (8, 2, 3, 32, 32)
    assert torch.equal(found["stages"][:, 1], found["images"])


class Looker(nn.Module):
    """A judge that tells classes by the mean of the picture; ``transform_input`` turns it round."""

    def __init__(self) -> None:
        super().__init__()
        self.transform_input, self.shown = True, []

    def forward(self, images: Tensor) -> Output:
        self.shown.append(images)
        mean = images.mean((1, 2, 3)) * (-1 if self.transform_input else 1)
        return Output(torch.stack([mean, -mean], 1), mean[:, None])


def test_a_judge_sees_every_stages_exact_pictures_and_the_attack_never_learns_of_it(prior, start):
    apart = invert(attack(keep_stages=False), prior, start)
    ifgmi = attack(keep_stages=False)
    ifgmi.judge = PhaseJudge(Judge(Looker()))
    judged = invert(ifgmi, prior, start)
    assert torch.equal(judged.latents, apart.latents) and torch.equal(judged.images, apart.images)
    assert torch.equal(judged.queries, apart.queries) and "stages" not in judged.details
    hits = judged.details["stage_hits"]
    assert hits.shape == (4, 3, 2, 2) and hits.dtype == torch.bool
    two = LABELS < 2
    assert bool((hits[two][:, :, 0, 0] ^ hits[two][:, :, 1, 0]).all())  # of two classes one or the other
    trained, rebuilt = (judge.network.shown for judge in ifgmi.judge.judges)
    assert len(trained) == len(rebuilt) == 3
    last = apply(ifgmi.image_to_target, judged.images)  # floats, not what 8 bits leave of them
    assert torch.equal(trained[-1], last) and torch.equal(rebuilt[-1], last)


def test_a_judged_attack_goes_on_after_the_reported_stage(prior, start):
    ifgmi = attack(report="first", keep_stages=False)
    ifgmi.judge = PhaseJudge(Judge(Looker()))
    judged = invert(ifgmi, prior, start)
    assert judged.details["stage_hits"].shape[1] == 3
    first = invert(attack(report="first", keep_stages=False), prior, start)
    assert torch.equal(judged.latents, first.latents) and torch.equal(judged.images, first.images)


# configs and mistakes


def test_at_full_scale_the_stages_are_the_released_ones():
    with packaged_configs():
        found = settings_of(["setup=S36", "scale=paper", "resolution=224"])["attack"]
    assert [entry["steps"] for entry in found["stages"]] == [50] + [10] * 7
    assert [entry["radius_w"] for entry in found["stages"]] == [
        1000,
        2000,
        3000,
        4000,
        5000,
        6000,
        8000,
        8000,
    ]
    assert [entry["radius_features"] for entry in found["stages"]][1:] == [
        entry["radius_w"] for entry in found["stages"]
    ][1:]


@pytest.mark.parametrize("scale", ["mini", "synth", "paper"])
def test_at_every_scale_stages_fit_the_generator_and_images_the_target(scale):
    with packaged_configs():
        settings = settings_of(["setup=S36", f"scale={scale}"])
    ifgmi = build(without(settings["attack"], "prior", "name", "shard", "judged"))
    size = settings["attack"]["prior"]["image_size"]
    blocks = size.bit_length() - 2
    assert 1 < len(ifgmi.phases) < blocks
    assert apply(ifgmi.image_to_target, torch.rand(1, 3, size, size)).shape[-1] == settings["resolution"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "attack.stages has no steps at all"),
        ({"stages": [stage(0)]}, "attack.stages has no steps at all"),
        ({"stages": [stage(1), stage(-1)]}, r"attack.stages\[1\].steps=-1 must be a number of steps"),
        ({"stages": [stage(1, "x")]}, r"attack.stages\[0\].radius_features=x is no radius"),
        ({"stages": [stage(1, None, float("nan"))]}, r"attack.stages\[0\].radius_w=nan is no radius"),
        ({"stages": [{"steps": 1}]}, r"attack.stages\[0\] has the keys steps; give steps, radius_features"),
        ({"restarts": 13}, "attack.restarts=13 exceeds attack.search.size=12"),
        ({"reference_batch": 0}, "attack.reference_batch=0 must be at least 1"),
        ({"betas": [0.1, 1]}, r"attack.betas=\[0.1, 1\] must be two numbers"),
        ({"lr": 0}, "attack.lr=0 must be above 0"),
        ({"picture_of": "end"}, "attack.picture_of=end is unknown; use before_last_update or after"),
        ({"report": "best"}, "attack.report=best is no stage; use first, last or 0 to 2"),
        ({"report": 3}, "attack.report=3 is no stage"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        attack(**changes)


def test_more_stages_than_the_generator_has_places_are_refused(prior, tmp_path):
    attack(stages=[stage(1)] * 3).initialise(
        toy_victim(), prior, LABELS[:1], shared_rng=shared_rng(), runtime=Runtime()
    )
    with pytest.raises(
        ConfigError, match=r"attack.stages has 4 entries, but a generator of 4 blocks has places for 3"
    ):
        whole(tmp_path, prior, Runtime(), stages=[stage(1)] * 4)


def test_generators_that_cannot_be_cut_are_refused_before_the_search(tmp_path):
    class First(ToyPrior):
        def __init__(self):
            nn.Module.__init__(self)
            self.take(StyleGAN1Generator(image_size=64, z_dim=8, w_dim=8, channel_max=4), None)

    target = toy_victim()
    with pytest.raises(ConfigError, match="StyleGAN of 2019"):
        whole(tmp_path, First(), Runtime(), target)
    assert not target.queries
    with pytest.raises(ConfigError, match="use attack/prior=stylegan2"):
        attack().initialise(target, nn.Linear(1, 1), LABELS, shared_rng=shared_rng(), runtime=Runtime())
