"""The tuning of style generators: schedules, independence of identities, and what leaves a prior as it is."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import Threat, Victim
from midre_exp.tuning.base import Best, Material, best_rows
from midre_exp.tuning.critic_features import critic_features, require_critic
from midre_exp.tuning.own_weights import OwnWeights, called, stacked, unfrozen
from midre_exp.tuning.style import StyleTuning, code_statistics, noise_at, rate_at
from tests.contracts.test_every_attack import CLASSES, Colours


class SmallStyle(StylePrior):
    """An untrained StyleGAN2 of 16 px with its critic."""

    def __init__(self):
        super().__init__()
        sizes = {"channel_base": 128, "channel_max": 8}
        mapping = {"num_layers": 2}
        network = StyleGAN2Generator(
            z_dim=12, w_dim=12, img_resolution=16, mapping_kwargs=mapping, synthesis_kwargs=sizes
        )
        self.take(network, StyleGAN2Discriminator(img_resolution=16, **sizes))

    def fit(self, public, victim, **options):
        raise NotImplementedError


@pytest.fixture(scope="module")
def prior():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SmallStyle()
    made.freeze()
    return made


@dataclass(frozen=True)
class Killed(Runtime):
    """Interrupted before the step of this number, of all loops together."""

    fatal: int = -1
    steps: list[None] = field(default_factory=list)

    def bar(self, steps, title, total=None, done=0, values=None):
        for step in steps:
            if len(self.steps) == self.fatal:
                raise KeyboardInterrupt
            self.steps.append(None)
            yield step


def tuning(**options):
    chosen = {
        "base": "ppa",
        "rounds": 2,
        "distance": "discrepancy",
        "pictures": 3,
        "lr": 1e-2,
        "projection_steps": 4,
        "projection_lr": 0.05,
        "steps": 3,
    }
    return StyleTuning(**{**chosen, **options})


def material(prior, work: Path, runtime: Runtime | None = None) -> Material:
    victim = Victim.of(Colours(), CLASSES, Threat.WHITE_BOX)
    used = runtime or Runtime(quiet=True)
    return Material(prior, victim, None, 0, work, used, lambda path, title: Loop(path, title, used, victim))


def best(prior, count: int, pictures: int = 3) -> Best:
    z = ItemRNG(1, "pictures", items=torch.arange(count)).normal("z", pictures, 12)
    with torch.no_grad():
        drawn = prior.generate(z.flatten(0, 1)).unflatten(0, (count, pictures))
    return Best(drawn, torch.arange(count), ItemRNG(0, "tuning", items=torch.arange(count)), None)


def one_of(all_of: Best, number: int) -> Best:
    part = slice(number, number + 1)
    return Best(all_of.pictures[part], all_of.labels[part], all_of.rng[part], None)


def test_the_rate_starts_at_nothing_rises_within_a_twentieth_and_falls_along_a_cosine():
    assert rate_at(0) == 0
    assert rate_at(0.025) == pytest.approx(0.5)
    assert rate_at(0.05) == rate_at(0.5) == rate_at(0.75) == 1
    assert rate_at(0.875) == pytest.approx(0.5)  # half of the last quarter is left
    assert rate_at(0.9375) == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 4))
    assert rate_at(1) == 0


def test_noise_on_codes_fades_by_its_square_until_three_quarters():
    assert noise_at(0) == 0.05
    assert noise_at(0.375) == pytest.approx(0.05 / 4)
    assert noise_at(0.75) == noise_at(0.9) == 0


def test_the_mean_code_and_one_deviation_for_all_its_numbers(prior):
    mean, deviation = code_statistics(prior)
    z = torch.from_numpy(np.random.RandomState(123).randn(600, 12).astype(np.float32))
    codes = prior.generator.mapping(z)[:, 0].double()
    torch.testing.assert_close(mean.double(), codes.mean(0), rtol=0, atol=1e-6)
    squares = sum(float((code - codes.mean(0)).square().sum()) for code in codes)
    assert float(deviation) == pytest.approx(math.sqrt(squares / 600), rel=1e-5)


def test_the_first_step_of_a_projection_moves_nothing(prior, tmp_path):
    codes = tuning(projection_steps=1, distance="pointwise")._project(
        material(prior, tmp_path), found := best(prior, 2), {}, torch.zeros(2, 3, 1), tmp_path / "p.pt"
    )
    assert torch.equal(codes, code_statistics(prior)[0].expand(2, 3, 1, 12))
    assert found.states is None


def test_features_are_unit_vectors_of_each_place(prior):
    images = torch.rand(2, 3, 16, 16)
    features = critic_features(require_critic(prior), images)
    blocks = 2  # of 16 px, whose maps have 8 and 4
    assert features.shape == (2, 8 * 8 * 8 + 8 * 4 * 4)
    torch.testing.assert_close(features.square().sum(1), torch.full((2,), float(blocks)), rtol=0, atol=1e-5)


def test_a_prior_without_a_critic_is_one_sentence(prior):
    lone = deepcopy(prior)
    lone.discriminator = None
    with pytest.raises(ConfigError, match=r"holds no discriminator, by whose features attack\.tuning"):
        require_critic(lone)


@pytest.mark.parametrize("distance", ["pointwise", "transport", "discrepancy"])
def test_an_identity_is_tuned_as_it_would_be_alone(prior, tmp_path, distance):
    made, everyone = tuning(distance=distance), best(prior, 3)
    together = made.tune(material(prior, tmp_path / "all"), everyone)
    (alone,) = made.tune(material(prior, tmp_path / "one"), one_of(everyone, 1))
    start = dict(prior.named_parameters())
    moved = 0.0
    for name, value in alone.items():
        torch.testing.assert_close(together[1][name], value, rtol=0, atol=2e-3 * made.steps * made.lr)
        moved = max(moved, float((value - start[name]).abs().max()))
        assert name.startswith("generator.synthesis.")
    assert moved > made.lr  # which rounding is far from
    assert any(not torch.equal(together[0][name], together[1][name]) for name in alone)


def test_tuning_brings_what_is_drawn_of_the_codes_closer(prior, tmp_path):
    made, everyone = tuning(distance="pointwise", steps=12, projection_steps=6), best(prior, 2)
    features = made._features(prior)
    with torch.no_grad():
        wanted = torch.stack([features(pictures) for pictures in everyone.pictures])
    codes = made._project(material(prior, tmp_path), everyone, {}, wanted, tmp_path / "projection.pt")
    start = {name: dict(prior.named_parameters())[name].expand(2, *s) for name, s in shapes(prior, made)}
    after = made._tuned(material(prior, tmp_path), start, codes, wanted, tmp_path / "tuning.pt")

    def distance(weights):
        drawn = called(unfrozen(prior), weights, "synthesise", codes)
        return made.distances(torch.stack([features(each) for each in drawn]), wanted).mean(1)

    with torch.no_grad():
        assert (distance(after) < 0.9 * distance(start)).all()


def shapes(prior, made):
    known = dict(prior.named_parameters())
    return [(name, known[name].shape) for name in made.changed(prior)]


@pytest.mark.parametrize("options", [{"steps": 0}, {"lr": 0.0}], ids=str)
def test_no_step_and_no_rate_leave_every_weight_equal(prior, tmp_path, options):
    for state in tuning(**options).tune(material(prior, tmp_path), best(prior, 2)):
        for name, value in state.items():
            assert torch.equal(value, dict(prior.named_parameters())[name]), name


@pytest.mark.parametrize("fatal", [2, 5])
def test_a_killed_tuning_goes_on_to_the_same_bytes(prior, tmp_path, fatal):
    made, everyone = tuning(), best(prior, 2)
    unbroken = made.tune(material(prior, tmp_path / "unbroken"), everyone)
    runtime = Killed(quiet=True, checkpoint_seconds=0, fatal=fatal)
    with pytest.raises(KeyboardInterrupt):
        made.tune(material(prior, tmp_path / "killed", runtime), everyone)
    watched = replace(runtime, fatal=-1, steps=[])
    continued = made.tune(material(prior, tmp_path / "killed", watched), everyone)
    assert len(watched.steps) < 7  # of 4 and 3: checkpoints were used
    for one, other in zip(continued, unbroken, strict=True):
        assert all(torch.equal(one[name], value) for name, value in other.items())


def test_another_round_goes_on_from_what_the_identity_had(prior, tmp_path):
    made, everyone = tuning(), best(prior, 2)
    first = made.tune(material(prior, tmp_path / "first"), everyone)
    again = replace(everyone, states=first)
    second = made.tune(material(prior, tmp_path / "second"), again)
    (alone,) = made.tune(material(prior, tmp_path / "alone"), replace(one_of(everyone, 1), states=first[1:]))
    for name, value in alone.items():
        torch.testing.assert_close(second[1][name], value, rtol=0, atol=2e-3 * made.steps * made.lr)
    # as if the first identity's prior had always been like that
    other = OwnWeights(prior, lambda identity: first[identity]).alone(1)
    (expected,) = made.tune(material(other, tmp_path / "other"), one_of(everyone, 1))
    for name, value in expected.items():
        torch.testing.assert_close(alone[name], value, rtol=0, atol=2e-3 * made.steps * made.lr)


def test_pictures_are_drawn_by_the_weights_of_their_identity(prior, tmp_path):
    states = tuning().tune(material(prior, tmp_path), best(prior, 3))
    own = OwnWeights(prior, lambda identity: states[identity])
    labels = torch.tensor([0, 0, 1, 1, 1, 2])  # as a chunk may cut identities
    codes = torch.randn(6, 1, 12)
    drawn = own.together(labels).generate(codes, labels)
    for identity in range(3):
        rows = labels == identity
        alone = own.alone(identity).generate(codes[rows], labels[rows])
        torch.testing.assert_close(drawn[rows], alone, rtol=0, atol=1e-5)
        untuned = prior.generate(codes[rows], labels[rows])
        assert (alone - untuned).abs().max() > 1e-3


def test_stacked_states_are_one_tensor_of_each_name():
    states = [{"a": torch.full((2,), float(i))} for i in range(3)]
    assert stacked(states, torch.device("cpu"))["a"].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_the_best_come_first_and_of_equals_the_earlier():
    assert best_rows(torch.tensor([[0.1, 0.9, 0.9, 0.3]]), 3).tolist() == [[1, 2, 3]]


def test_more_pictures_than_reconstructions_are_refused():
    with pytest.raises(ConfigError, match=r"attack\.tuning\.pictures=3 exceeds attack\.restarts=2"):
        tuning().taken(2)
    with pytest.raises(ConfigError, match=r"attack\.tuning\.distance=mmd is unknown"):
        tuning(distance="mmd")


def test_the_score_is_the_mean_over_the_picture_and_its_mirror_image():
    victim = Victim.of(Colours(), CLASSES, Threat.WHITE_BOX)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    shared = ItemRNG(0, "x", items=torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        found = tuning().scores(victim, images, labels, shared)
        seen = [victim(each).logits.softmax(1)[range(4), labels] for each in (images, images.flip(-1))]
    torch.testing.assert_close(found, (seen[0] + seen[1]) / 2)
    assert victim.queries == 4 * tuning().looks + 8
