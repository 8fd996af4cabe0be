"""PPA: its loss, its optimisation and its final selection, against the official code's numbers where there
are some.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hydra import compose
from omegaconf import OmegaConf
from torch import Tensor

from attacks.losses import Poincare, poincare
from attacks.parts.final_selection import FinalSelection
from attacks.ppa import PPA
from midre_exp.attack import apply
from midre_exp.attack_run import run_attack
from midre_exp.data.transforms import CenterCrop, Resize
from midre_exp.data.transforms.random_crop import NUMBERS, random_crop
from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.store.store import Store
from tests.attacks.toy_style import PlainLoop, shared_rng, toy_prior, toy_victim
from tests.conftest import resolved, tiny_overrides
from tests.golden.fill import golden

GOLDEN = golden("attack_ppa")
TARGETS = torch.tensor(GOLDEN["initial_selection"]["targets"])
STEPS = (CenterCrop(size=48), Resize(size=32))
SEARCH = {"size": 12, "cutoff": 4}
WHOLE = {"scale": [1, 1], "ratio": [1, 1]}  # a view that changes nothing
RUNTIME = Runtime()


def attack(**changes) -> PPA:
    """The attack of conf/attack/ppa.yaml at the size of the golden file; nodes in ``changes`` are laid over
    its own.
    """
    node = OmegaConf.load(CONF_DIR / "attack" / "ppa.yaml")
    node = OmegaConf.merge(
        without(node, "defaults", "name", "picture", "judged"),
        {"identities": 3, "restarts": 4, "kept": 2, "search": SEARCH, "image_to_target": []},
        changes,
    )
    made = build(plain(node))
    made.image_to_target = STEPS
    return made


@pytest.fixture(scope="module")
def prior():
    return toy_prior()


@pytest.fixture(scope="module")
def start(prior) -> Tensor:
    return attack().initialise(toy_victim(), prior, TARGETS, shared_rng=shared_rng(), runtime=RUNTIME)


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


# the loss


def test_poincare_distances_and_gradients_are_the_golden_ones():
    expected = GOLDEN["poincare"]
    logits = torch.tensor(expected["logits"], requires_grad=True)
    labels = torch.tensor(expected["targets"])
    losses = poincare(logits, labels, expected["xi"])
    torch.testing.assert_close(losses.detach(), torch.tensor(expected["per_sample"]), rtol=0, atol=1e-5)
    assert losses.mean().item() == pytest.approx(expected["mean"], abs=1e-5)
    (gradient,) = torch.autograd.grad(losses.mean(), logits)
    torch.testing.assert_close(gradient, torch.tensor(expected["grad_of_mean"]), rtol=1e-5, atol=1e-7)
    assert torch.equal(poincare(logits, labels), losses)  # the default xi


@pytest.mark.parametrize("xi", ["1e-05", "0.001"])
def test_poincare_distances_to_other_points_are_the_golden_ones(xi):
    expected = GOLDEN["poincare"]
    losses = poincare(torch.tensor(expected["logits"]), torch.tensor(expected["targets"]), float(xi))
    torch.testing.assert_close(losses, torch.tensor(expected["xi_variants"][xi]), rtol=0, atol=1e-5)


def test_the_distance_ignores_the_scale_of_the_logits_and_the_order_of_the_other_classes():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    losses = poincare(logits, labels)
    torch.testing.assert_close(poincare(8 * logits, labels), losses)
    torch.testing.assert_close(poincare(logits.roll(1, 1), (labels + 1) % 5), losses)
    torch.testing.assert_close(poincare(logits[3:4], labels[3:4]), losses[3:4])


def test_all_logits_zero_is_the_centre_of_the_ball_and_moves_towards_the_label():
    logits = torch.zeros(1, 4, requires_grad=True)
    loss = poincare(logits, torch.tensor([2]))
    inner = torch.tensor(0.9999)
    torch.testing.assert_close(loss[0], torch.acosh(1 + 2 * inner**2 / (1 - inner**2)))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient == torch.tensor([[0, 0, gradient.min(), 0]])).all()
    assert -10 < gradient.min() < 0


def test_a_single_logit_that_is_not_zero_is_as_far_as_floating_point_tells():
    step = torch.finfo(torch.float32).eps / 2
    for entry, apart in ((3.0, 1e-4**2), (-3.0, 1.9999**2)):
        logits = torch.tensor([[entry, 0, 0]], requires_grad=True)
        loss = poincare(logits, torch.tensor([0]))
        expected = torch.acosh(torch.tensor(1 + 2 * apart / (step * (1 - 0.9999**2))))
        torch.testing.assert_close(loss[0], expected, rtol=1e-4, atol=0)
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()
    other = torch.tensor([[0, 5.0, 0]], requires_grad=True)  # the wrong class alone
    (gradient,) = torch.autograd.grad(poincare(other, torch.tensor([0])).sum(), other)
    assert gradient.isfinite().all()
    assert gradient[0, 0] < 0


def test_no_logits_have_a_gradient_that_is_not_a_number():
    rows = [[0, 0, 0], [1e-45, 0, 0], [1e-42, 1e-42, 0], [1e-30, -1e-30, 0], [1e30, 1, -1], [1e37, 1e37, 1]]
    rows += [[1, 10.0**-power, 0] for power in range(3, 12)] + [[0.9999, 5e-5, 5e-5], [0.9999, 0, 1e-4]]
    for xi in (1e-6, 1e-4, 0.5):
        for label in range(3):
            logits = torch.tensor(rows, requires_grad=True)
            losses = poincare(logits, torch.full((len(rows),), label), xi)
            assert losses.isfinite().all()
            assert torch.autograd.grad(losses.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("xi", [0, 1e-8, 1, -0.1])
def test_a_goal_on_the_border_or_outside_is_refused(xi):
    for use in (lambda: poincare(torch.ones(1, 2), torch.tensor([0]), xi), lambda: Poincare(xi=xi)):
        with pytest.raises(ConfigError, match=f"xi={xi}.* must lie in"):
            use()


# where it starts


def test_items_start_from_the_golden_candidates_and_their_first_code(prior, start):
    z = attack().search.z(prior, shared_rng())
    codes = prior.codes(z, psi=0.5, cutoff=4)
    chosen = codes[GOLDEN["initial_selection"]["chosen_indices"]]
    assert torch.equal(start, chosen[:, :1])
    layered = attack(single_w=False).initialise(
        toy_victim(), prior, TARGETS, shared_rng=shared_rng(), runtime=RUNTIME
    )
    assert torch.equal(layered, chosen)
    assert not torch.equal(layered[:, 9], layered[:, 0])  # layers from the fifth on are not truncated


# the optimisation


class Remembered(Poincare):
    """Keeps the mean loss of every step."""

    def __init__(self):
        super().__init__(xi=1e-4)
        self.means: list[float] = []

    def __call__(self, *args):
        losses = super().__call__(*args)
        self.means.append(losses.mean().item())
        return losses


def invert(ppa: PPA, prior, start: Tensor, labels: Tensor = TARGETS, target=None) -> Tensor:
    return ppa.invert(target or toy_victim(), prior, labels, rng(len(labels)), PlainLoop(start))


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("optimise", {"milestones": []}),
        ("optimise_clip_multistep", {"clip": True, "milestones": [3, 6]}),
    ],
)
def test_eight_steps_follow_the_golden_trace(prior, start, case, changes):
    expected = GOLDEN[case]
    ppa = attack(steps=8, view=WHOLE, reference_batch=7, **changes)
    ppa.identity_loss = Remembered()
    found = invert(ppa, prior, start)
    assert ppa.identity_loss.means == pytest.approx(expected["loss_before_each_step"], abs=1e-4)
    for tensor, summary in ((found, expected["w_final"]), (found - start, expected.get("w_change"))):
        if summary is None:
            continue
        flat = tensor.double().flatten()
        assert list(tensor.shape) == summary["shape"]
        assert flat[:8].tolist() == pytest.approx(summary["first"], abs=1e-4)
        assert flat[-4:].tolist() == pytest.approx(summary["last"], abs=1e-4)
        for name, value in (("mean", flat.mean()), ("std", flat.std(correction=0)), ("l2", flat.norm())):
            assert value.item() == pytest.approx(summary[name], abs=1e-4), name


def test_the_rate_falls_at_its_milestones():
    rates = [attack(lr=1.0, milestones=[30, 40]).lr_at(step) for step in (0, 29, 30, 39, 40, 49)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert attack(lr=1.0, milestones=[]).lr_at(1000) == 1


def test_a_code_per_layer_moves_each_layer_by_itself(prior):
    ppa = attack(single_w=False, steps=3)
    start = ppa.initialise(toy_victim(), prior, TARGETS, shared_rng=shared_rng(), runtime=RUNTIME)
    found = invert(ppa, prior, start)
    change = found - start
    assert found.shape == (7, 10, 64)
    assert not torch.allclose(change[:, 0], change[:, 5])
    assert (change.abs().amax((0, 2)) > 0.005).all()


def test_a_step_shows_all_images_the_same_box_unless_asked_otherwise(prior, start):
    shared, own = attack(), attack(view={"shared": False})
    twice = start[:1].expand(2, -1, -1)
    labels = TARGETS[:1].expand(2)
    for ppa, equal in ((shared, True), (own, False)):
        losses = [
            ppa.losses(toy_victim(), prior, twice, labels, rng(2), shared_rng(), step) for step in (0, 1)
        ]
        assert torch.equal(losses[0][0], losses[0][1]) is equal
        assert not torch.equal(losses[0], losses[1])  # each step draws anew


def test_the_discriminator_counts_by_its_weight_and_sees_the_whole_unclipped_image(start):
    judged = toy_prior(judged=True)
    plain_losses, more = (
        attack(discriminator_weight=weight, clip=True).losses(
            toy_victim(), judged, start, TARGETS, rng(7), shared_rng(), 0
        )
        for weight in (0, 2.5)
    )
    scores = judged.realism(judged.synthesise(start))
    torch.testing.assert_close(more - plain_losses, 2.5 * (1 + (-scores).exp()).log(), rtol=0, atol=1e-5)


def test_a_weight_on_a_discriminator_that_is_not_there_is_refused(prior, start):
    with pytest.raises(ConfigError, match="holds no discriminator"):
        invert(attack(discriminator_weight=1), prior, start)


# the final selection


def robustness(prior, codes, labels, selection, target=None, runtime=RUNTIME):
    images = apply(STEPS, prior.generate(codes))
    return selection.robustness(
        target or toy_victim(), images, labels, shared_rng=shared_rng(), runtime=runtime
    )


def test_robustness_is_the_mean_probability_over_views_shared_by_all(prior, start):
    selection = FinalSelection(views=5, scale=[0.5, 0.9], ratio=[0.8, 1.2], flip_p=0.5, batch=3)
    target = toy_victim()
    found = robustness(prior, start, TARGETS, selection, target)
    assert target.queries == 5 * 7
    expected = torch.zeros(7)
    for i, label in enumerate(TARGETS):
        image = STEPS[1](STEPS[0](prior.synthesise(start[i : i + 1])))
        for view in range(5):
            numbers = shared_rng().uniform("selection", NUMBERS, step=view)
            seen = random_crop(image, numbers, scale=(0.5, 0.9), ratio=(0.8, 1.2), flip_p=0.5)
            expected[i] += target(seen).logits.softmax(1)[0, label] / 5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        robustness(prior, start, TARGETS, selection, runtime=replace(RUNTIME, chunk=2)), found
    )


def test_selected_are_exactly_the_most_robust_of_each_class(prior, start):
    ppa = attack(kept=2, selection={"views": 3})
    codes = start[torch.tensor([0, 1, 2, 3, 4, 5, 3, 4])]  # two classes, with equals among them
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    images = apply(STEPS, prior.generate(codes))
    details = ppa.examine(toy_victim(), images, labels, shared_rng=shared_rng(), runtime=RUNTIME)
    found = ppa.select(toy_victim(), prior, labels, codes, details, shared_rng=shared_rng(), runtime=RUNTIME)
    for label in (0, 1):
        own, chosen = details["robustness"][labels == label], found["selected"][labels == label]
        assert chosen.sum() == 2
        assert own[chosen].min() >= own[~chosen].max()


# whole attacks


def test_no_reconstruction_is_synthesised_again_for_the_final_selection(prior, monkeypatch):
    ppa, made = attack(steps=2, selection={"views": 2}, identities=2, restarts=3), []
    honest = type(prior).generate

    def counted(self, latents, labels=None):
        made.append((len(latents), torch.is_grad_enabled()))
        return honest(self, latents, labels)

    monkeypatch.setattr(type(prior), "generate", counted)
    found = run_attack(ppa, toy_victim(), prior, runtime=Runtime(chunk=4))
    assert made == [(4, True), (4, True), (4, False), (2, True), (2, True), (2, False)]
    exact = apply(STEPS, prior.generate(found.latents))
    again = ppa.selection.robustness(
        toy_victim(), exact, found.labels, shared_rng=shared_rng(), runtime=RUNTIME
    )
    torch.testing.assert_close(found.details["robustness"], again)


def test_no_class_gets_a_candidate_twice_and_every_look_at_the_target_counts(prior):
    ppa, target = attack(steps=4, selection={"views": 3}, identities=2, restarts=3), toy_victim()
    found = run_attack(ppa, target, prior)
    assert target.queries == 12 * 2 + 6 * 4 + 6 * 3  # the search, the steps, the final selection
    assert found.labels[found.details["selected"]].tolist() == [0, 0, 1, 1]
    candidates = prior.codes(ppa.search.z(prior, shared_rng()), psi=0.5, cutoff=4)[:, 0]
    for label in range(2):  # 4 steps do not go far
        nearest = torch.cdist(found.latents[found.labels == label, 0], candidates).argmin(1)
        assert len(nearest.unique()) == 3


def test_the_target_takes_the_reconstructions_for_their_class(prior, tmp_path):
    ppa = attack(restarts=1, kept=1, selection={"views": 2}, milestones=[], lr=0.02, steps=10)
    found = run_attack(ppa, toy_victim(), prior, seed=0, work=tmp_path, runtime=RUNTIME)
    labels = found.labels
    target = toy_victim()
    starts = ppa.initialise(target, prior, labels, shared_rng=shared_rng(), runtime=RUNTIME)
    before = target.confidence(ppa.render(prior, starts, labels), labels)
    after = target.confidence(ppa.render(prior, found.latents, labels), labels)
    assert (after > before).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "attack.steps=0 must be at least 1"),
        ({"lr": 0}, "attack.lr=0 must be above 0"),
        ({"betas": [0.1, 1]}, "attack.betas=.0.1, 1. must be two numbers"),
        ({"kept": 0}, "attack.kept=0 must be at least 1"),
        ({"kept": 5}, "attack.kept=5 exceeds attack.restarts=4"),
        ({"restarts": 13}, "attack.restarts=13 exceeds attack.search.size=12"),
        ({"reference_batch": 0}, "attack.reference_batch=0 must be at least 1"),
        ({"discriminator_weight": -1}, "attack.discriminator_weight=-1 must not be negative"),
        ({"selection": {"views": 0}}, "attack.selection.views=0 must be at least 1"),
        ({"selection": {"scale": [0.5, 2]}}, "attack.selection.scale=.0.5, 2. is no range"),
        ({"selection": {"flip_p": -1}}, "attack.selection.flip_p=-1 must lie in"),
        ({"identity_loss": {"xi": 0}}, "attack.identity_loss.xi=0 must lie in"),
    ],
)
def test_settings_that_select_or_optimise_nothing_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        attack(**change)


def composed(name: str) -> dict:
    with packaged_configs():
        return compose(f"attack/{name}").attack


def test_the_official_and_the_dogs_budgets_differ_from_midres_where_they_say_so():
    midre, official, dogs = (composed(name) for name in ("ppa", "ppa_official", "ppa_dogs"))
    assert (midre.restarts, midre.kept, midre.milestones) == (16, 8, [30, 40])
    assert (official.restarts, official.kept, official.milestones) == (200, 50, [])
    assert without(official, "name", "restarts", "kept", "milestones", "reference_batch") == without(
        midre, "name", "restarts", "kept", "milestones", "reference_batch"
    )
    assert (dogs.identities, dogs.steps, dogs.lr, dogs.view.scale) == (120, 100, 0.01, [0.75, 1.0])
    assert [len(dogs.image_to_target), len(dogs.picture)] == [1, 1]


@pytest.mark.parametrize(
    ("name", "scale"),
    [("ppa", "mini"), ("ppa_official", "mini"), ("ppa_dogs", "mini"), ("ppa", "synth"), ("ppa", "paper")],
)
def test_every_scale_composes_into_an_attack_whose_images_fit_target_and_judge(name, scale):
    with packaged_configs():
        settings = settings_of(["evaluator=inception_v3", f"attack={name}", f"scale={scale}"])
    ppa = build(without(settings["attack"], "prior", "name", "shard", "judged"))
    size = settings["attack"]["prior"]["image_size"]
    images = torch.rand(1, 3, size, size)
    seen = apply(ppa.image_to_target, images)
    kept = seen if ppa.picture is None else apply(ppa.picture, images)
    assert seen.shape[-1] == settings["resolution"]
    assert kept.shape[-1] == settings["evaluator"]["resolution"]


def tiny_settings(folder) -> dict:
    """A run of seconds: a generator of 8 channels, three steps of everything."""
    changes = ["attack.search.size=6", "attack.selection.views=2", "attack.kept=1", "attack.steps=3"]
    sizes = {"z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "group_size": 2}
    changes += [f"attack.prior.{name}={size}" for name, size in sizes.items()]
    shared = [override for override in tiny_overrides(folder) if "latent_dim" not in override]
    return resolved([*shared, "attack=ppa", *changes])


def test_a_whole_run_leaves_a_record(stocked, tmp_path):
    settings = tiny_settings(tmp_path)
    record = json.loads(run(settings).read_text())
    # the search, the steps, the final selection
    assert record["queries"] == 6 * 2 + 4 * 2 * (3 + 2)
    assert 0 <= record["metrics"]["att_acc1"] <= 100
    kept = Store(settings["paths"]["store"]).find("attack", record["artifacts"]["attack"])
    found = kept.tensors("reconstructions")
    assert found["latents"].shape == (8, 1, 8)
    assert found["selected"].sum() == 4
