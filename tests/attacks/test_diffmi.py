"""Diff-MI against recorded numbers of the official program, and what its settings do."""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attacks.diffmi
from attacks import MirrorBrightnessBlur, TargetedPGD, TopKLogits, build_attack, topk_identity
from attacks.losses import feature_regulariser
from attacks.parts.diffusion_descent import Descent, jitter, noise_level
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.priors.ddpm import DDPMPrior
from midre_exp.priors.diffusion.network import NoiseLevels
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.surrogates.class_features import ClassFeatures
from midre_exp.targets.base import Output
from midre_exp.threat import Victim
from tests.priors.small import CLASSES, Colours, small

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "diffmi.json").read_text())
LABELS = torch.tensor(GOLDEN["labels"])
STILL = MirrorBrightnessBlur(
    flip_p=0, brightness=0, brightness_p=0, blur_size=1, blur_sigma=1, blur_p=0
)  # but for the clamp


def draw(key: str, *shape: int) -> Tensor:
    numbers = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)
    return torch.from_numpy(numbers).float()


class Toy:
    """The golden's noise predictor."""

    levels, latent_dim, num_classes = 1000, 48, 6
    noise, _nobody = DDPMPrior.noise, DDPMPrior._nobody

    def __init__(self):
        self.schedule = NoiseLevels(1000, (1e-4, 2e-2))
        self.weight, self.table = 0.1 * draw("diff.net", 48, 48), 0.2 * draw("diff.emb", 7, 48)

    def as_images(self, latents: Tensor) -> Tensor:
        return latents.view(-1, 3, 4, 4)

    def _predicted(self, noisy: Tensor, levels: Tensor, labels: Tensor) -> Tensor:
        found = (noisy.flatten(1) @ self.weight.T).tanh() + self.table[labels] * levels[:, None] / 1000
        return found.view_as(noisy)


class Target(nn.Module):
    def forward(self, images: Tensor, taps: tuple[str, ...] = ()) -> Output:
        features = (images.flatten(1) @ (0.25 * draw("diff.F", 7, 48)).T).tanh()
        return Output(features @ (0.7 * draw("diff.C", 6, 7)).T, features)


class Recorded:
    """The golden's random numbers in the order in which they are asked for."""

    def __init__(self) -> None:
        self.asked, self.offsets = 0, iter(GOLDEN["t_offsets"])

    def normal(self, name: str, *shape: int, step: int = 0) -> Tensor:
        if name == "start":
            return draw("diff.start", 2, 3, 4, 4).flatten(1)
        self.asked += 1
        return draw(f"diff.eps.{self.asked - 1}", 2, 3, 4, 4).flatten(1)

    def uniform(self, name: str, *shape: int, step: int = 0) -> Tensor:
        offset = next(self.offsets) if name == "level" else 0
        return torch.full((2, *shape), (offset + 50.5) / 101)


def diffmi(**options):
    return build_attack("diffmi", identities=2, restarts=1, **options)


def class_features(means: Tensor) -> ClassFeatures:
    made = ClassFeatures(num_classes=len(means), per_class=1)
    made.restore({"means": means})
    return made


def test_steps_and_the_way_back_are_those_of_the_official_program(tmp_path, monkeypatch):
    def of_the_batch(gradient: Tensor) -> Tensor:
        return gradient.norm().expand(len(gradient))

    monkeypatch.setattr(attacks.diffmi, "Descent", partial(Descent, norms=of_the_batch))
    attack = diffmi(
        steps=4,
        views=2,
        reference_batch=2,
        tail_from=30,
        identity_loss={"_target_": "attacks.TopKLogits", "k": GOLDEN["k"], "regulariser": GOLDEN["alpha"]},
    )
    attack.view, attack.surrogates = STILL, class_features(0.3 * draw("diff.preg", 6, 7))
    victim, rng, toy = Victim.of(Target(), 6), Recorded(), Toy()
    loop = Loop(tmp_path / "state.pt", "Diff-MI", Runtime(), victim)
    latents = attack._descended(victim, toy, LABELS, rng, loop)
    images = (attack._brought_back(toy, latents, LABELS, rng, loop) + 1) / 2
    assert rng.asked == GOLDEN["gaussian_tensors_used"]
    assert victim.queries == 4 * 2 * 2
    expected = torch.tensor(GOLDEN["result_first_item"]).view(3, 4, 4)
    torch.testing.assert_close(images[0], expected, rtol=0, atol=1e-4)
    found = torch.stack((images.mean(), images.std()))
    torch.testing.assert_close(found, torch.tensor(GOLDEN["result_mean_std"]), rtol=0, atol=1e-4)


def test_levels_losses_and_noise_are_those_of_the_official_program():
    offsets = [torch.tensor([float(offset)]) for offset in GOLDEN["t_offsets"]]
    levels = [int(noise_level(step, 4, offset, 1000)) for step, offset in enumerate(offsets)]
    assert [*levels, 30] == GOLDEN["t_used"]
    assert int(noise_level(0, 4, torch.tensor([50.0]), 1000)) == 1000
    ends = jitter(torch.tensor([0.0, 0.5, 1 - 2.0**-24]))
    assert ends.tolist() == [-50, 0, 50]
    known = GOLDEN["topk_loss"]
    logits, labels = torch.tensor(known["logits"]), torch.tensor(known["labels"])
    assert float(topk_identity(logits, labels, 3).mean()) == pytest.approx(known["k3"], abs=1e-6)
    assert float(topk_identity(logits, labels, 0).mean()) == pytest.approx(known["k0"], abs=1e-6)
    assert torch.equal(topk_identity(logits, labels, 5), topk_identity(logits, labels, 20))
    features = torch.tensor(GOLDEN["p_reg_loss"]["features"])
    goals = (0.3 * draw("diff.preg", 6, 7))[LABELS]
    apart = feature_regulariser(features, goals).mean()
    assert float(apart) == pytest.approx(GOLDEN["p_reg_loss"]["value"], abs=1e-5)
    schedule, known = NoiseLevels(1000, (1e-4, 2e-2)), GOLDEN["alphabar_at"]
    ones = torch.ones(len(known["t"]), 1, 1, 1)
    kept = schedule.noised(ones, torch.tensor(known["t"]), torch.zeros_like(ones)).flatten() ** 2
    torch.testing.assert_close(kept, torch.tensor(known["value"]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("number", range(1, 6))
def test_a_step_of_the_way_back_is_that_of_the_official_program(number):
    known = {name: torch.tensor(values[number - 1]) for name, values in GOLDEN["ddim_of_first_5"].items()}
    x, noise, fresh = (draw(name, 1, 3, 2, 2) for name in ("x", "noise", "fresh"))
    image = (x - (1 - known["alphas"]).sqrt() * noise) / known["alphas"].sqrt()
    rest = (1 - known["alphas_prev"] - known["sigmas"] ** 2).sqrt()
    expected = known["alphas_prev"].sqrt() * image + rest * noise + known["sigmas"] * fresh
    found = NoiseLevels(1000, (1e-4, 2e-2)).tail(x, noise, number, 100, fresh)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def attacked(**options):
    """Reconstructions on a tiny prior, and how often the target was asked."""
    prior = small("ddpm").eval()
    attack = build_attack(
        "diffmi",
        **{"identities": 2, "restarts": 2, "steps": 2, "tail_from": 20, "keep_floats": False, **options},
    )
    attack.identity_loss = TopKLogits(k=2, regulariser=0)
    victim = Victim.of(Colours(), CLASSES)
    return run_attack(attack, victim, prior), victim.queries


def test_the_kept_picture_is_the_one_before_pgd_and_both_are_there():
    honest, asked = attacked()
    moved, _ = attacked(counted="after_pgd")
    without, fewer = attacked(pgd=None)
    before, after = honest.details["stages"].unbind(1)
    assert torch.equal(honest.images, before) and torch.equal(moved.images, after)
    assert torch.equal(without.images, before) and "stages" not in without.details
    assert asked - fewer == 4 * (10 + 1)  # of ten steps, and the last point
    apart = (after.float() - before.float()).flatten(1).norm(dim=1) / 255
    assert apart.min() > 0 and apart.max() < 0.5 + 0.1  # of 8-bit pictures, each rounded
    assert (moved.confidence > honest.confidence).all()


def test_without_steps_the_target_is_not_asked_and_images_are_of_the_class():
    found, asked = attacked(steps=0, tail_from=1000, pgd=None)
    assert asked == 0 and found.images.float().std() > 0
    (again, _), (other, _) = attacked(steps=0, tail_from=1000, pgd=None), attacked(steps=1, pgd=None)
    assert torch.equal(found.images, again.images) and not torch.equal(found.images, other.images)


def test_pgd_stays_in_its_ball_and_keeps_the_best_point():
    pgd = TargetedPGD(radius=0.5, step=0.1, steps=10)
    pictures, goal = torch.full((2, 3, 4, 4), 0.4), torch.tensor([0.45, 0.9])

    def losses(points: Tensor) -> Tensor:
        return (points - goal[:, None, None, None]).square().mean((1, 2, 3))

    state = pgd.start(pictures, draw("pgd", 2, 3, 4, 4))
    norms = [(state["point"] - pictures).flatten(1).norm(dim=1)]
    torch.testing.assert_close(norms[0], torch.full((2,), 0.5))
    seen = []
    for _ in range(pgd.steps):
        seen.append(losses(state["point"]))
        state = pgd.moved(state, losses)
        norms.append((state["point"] - pictures).flatten(1).norm(dim=1))
    best = pgd.best(state, losses)
    assert torch.stack(norms).max() <= 0.5 + 1e-5
    torch.testing.assert_close(losses(best), torch.stack([*seen, losses(state["point"])]).amin(0))
    assert losses(best)[1] < losses(pictures)[1]


def test_views_are_of_their_item_alone_and_stay_images():
    view = MirrorBrightnessBlur(
        flip_p=0.5, brightness=0.2, brightness_p=0.5, blur_size=3, blur_sigma=1.5, blur_p=0.5
    )
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = ItemRNG(0, "view", items=torch.arange(40))
    found = view(images, rng, "v", 3)
    torch.testing.assert_close(found[7:9], view(images[7:9], rng[7:9], "v", 3))
    assert found.min() >= 0 and found.max() <= 1
    unchanged = sum(torch.equal(a, b) for a, b in zip(found, images, strict=True))
    mirrored = sum(torch.equal(a, b.flip(-1)) for a, b in zip(found, images, strict=True))
    assert 1 <= unchanged <= 12 and 1 <= mirrored <= 12  # an eighth of 40 each
    assert torch.equal(STILL(images, rng, "v", 3), images)
    for wrong in ({"blur_size": 4}, {"blur_sigma": 0.0}, {"flip_p": 1.5}):
        with pytest.raises(ConfigError, match=f"MirrorBrightnessBlur .*{next(iter(wrong))}="):
            MirrorBrightnessBlur(**{**vars(view), **wrong})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tail_from": 1001}, r"attack\.tail_from=1001 must be at most attack\.prior\.levels=1000"),
        ({"tail_steps": 300}, r"attack\.tail_steps=300 divide it"),
        ({"counted": "both"}, r"attack\.counted=both is unknown; use before_pgd or after_pgd"),
        ({"views": 0}, r"attack\.views=0 must be at least 1"),
        ({"norm_ratio": 0.0}, r"attack\.norm_ratio=0\.0 must be above 0"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        attacked(**changes)


def test_what_is_missing_is_told():
    attack = diffmi(steps=1)
    victim, labels = Victim.of(Colours(), CLASSES), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ConfigError, match="predicts no noise; use prior ddpm"):
        run_attack(attack, victim, small("plgmi").eval())
    with pytest.raises(ConfigError, match=r"set attack\.surrogates to .*class_features\.yaml"):
        attack.identity_loss(victim, None, torch.rand(1, 3, 8, 8), labels, SimpleNamespace(), 0)
