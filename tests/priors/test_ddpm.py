"""What a diffusion prior learns, and its tuning against the target."""

from __future__ import annotations

import pytest
import torch

from attacks import topk_identity
from midre_exp.data.base import ImageSet
from midre_exp.data.transforms import RandomView
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.priors.ddpm import DDPMPrior
from midre_exp.priors.diffusion.network import NoiseLevels
from midre_exp.priors.diffusion.tuning import TargetTuning
from midre_exp.runtime import Runtime
from midre_exp.surrogates.class_features import ClassFeatures
from midre_exp.threat import Threat
from tests.devices import CPU, each_device
from tests.priors.small import CLASSES, Killed, public, same, small, victim

SIZE = 8
VIEW = {"scale": (0.8, 1.0), "brightness": 0.2, "contrast": 0.2, "saturation": False, "jitter_p": 0.5}
TUNING = {
    "epochs": 3,
    "enough": 1.0,
    "classes": None,
    "batch_size": 2,
    "lr": 1e-2,
    "drawing_steps": 2,
    "views": 2,
    "view": RandomView(**VIEW, flip_p=0.5, degrees=5, rotation_p=0.5),
    "identity_loss": topk_identity,
    "regulariser": 1.0,
}


def tuned(work, *, runtime=None, asked=None, **changes) -> tuple[DDPMPrior, dict[str, float]]:
    prior = small("ddpm", steps=2)
    prior.tuning = TargetTuning(**{**TUNING, **changes})
    asked = asked or victim()
    return prior, prior.fit(public(40, SIZE), asked, seed=3, work=work, runtime=runtime or Runtime())


def test_tuning_moves_label_embedding_and_middle_alone_and_counts_what_it_asks(tmp_path):
    asked, untuned = victim(), small("ddpm", steps=2)
    prior, numbers = tuned(tmp_path / "tuned", asked=asked)
    untuned.fit(public(40, SIZE), victim(), seed=3, work=tmp_path / "untuned", runtime=Runtime())
    before, after = untuned.state_dict(), prior.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and {name.split(".")[1] for name in moved} == {"class_embedding", "mid_block"}
    once, goals = 40, CLASSES * 5
    assert numbers["queries"] == asked.queries == once + goals + 3 * CLASSES * 2 * 2
    assert 0 <= numbers["taken_for_label"] <= 1


def test_tuning_brings_what_is_drawn_nearer_to_its_class(tmp_path):
    latents = torch.randn(30, 3 * SIZE**2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % CLASSES

    def margin(prior: DDPMPrior) -> float:
        with torch.no_grad():
            colours = prior.generate(latents, labels).mean((2, 3))
        return float(colours.gather(1, labels[:, None]).mean() - colours.mean())

    first, _ = tuned(tmp_path / "first", epochs=1, lr=0.0)
    last, _ = tuned(tmp_path / "last", epochs=20, lr=3e-2, batch_size=3, regulariser=0.0)
    assert margin(last) > margin(first) + 0.01


@each_device
def test_a_killed_tuning_continues_to_the_same_bytes_and_trains_nothing_twice(tmp_path, device):
    whole, numbers = tuned(tmp_path / "whole", runtime=Runtime(device=device))
    work = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        tuned(work, runtime=Killed(checkpoint_seconds=0, at=3, title="tuning", device=device))

    class Untrained(Runtime):
        def bar(self, steps, title, *rest):
            assert not title.startswith("training") and steps.start == 3
            return super().bar(steps, title, *rest)

    again = victim()
    continued, told = tuned(work, runtime=Untrained(device=device), asked=again)
    if device == CPU:
        assert same(continued, whole) and told == numbers
    else:  # adds up in any order
        assert told == pytest.approx(numbers, rel=1e-2, abs=1e-2)
    assert again.queries == CLASSES * 5 + (1 + 2 + 1) * 2 * 2  # goals, and the classes of three steps


def test_an_epoch_that_convinces_the_target_is_the_last(tmp_path):
    _, numbers = tuned(tmp_path, enough=0.0, regulariser=0.0)
    assert numbers["queries"] == 40 + CLASSES * 2 * 2


def test_a_tuning_that_diverges_is_told(tmp_path):
    with pytest.raises(DivergedError, match=r"diverged before step \d; lower attack\.prior\.tuning\.lr"):
        tuned(tmp_path, lr=1e30, runtime=Runtime(checkpoint_seconds=0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, r"prior\.tuning\.epochs=0"),
        ({"enough": 2.0}, r"prior\.tuning\.enough=2\.0 must lie in"),
        ({"views": 0}, r"prior\.tuning\.views=0"),
    ],
)
def test_options_of_the_tuning_that_cannot_be_are_refused_by_name(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        tuned(tmp_path, **changes)


def test_guidance_of_one_asks_the_network_once_and_more_leans_to_the_label():
    prior = small("ddpm").eval()
    noisy, levels = torch.randn(2, 3, SIZE, SIZE), torch.tensor([10, 500])
    labels, nobody = torch.tensor([0, 1]), torch.tensor([CLASSES, CLASSES])
    with torch.no_grad():
        named, unnamed = (prior.noise(noisy, levels, whom, 1.0) for whom in (labels, nobody))
        found = prior.noise(noisy, levels, labels, 3.0)
    torch.testing.assert_close(found, unnamed + 3 * (named - unnamed))
    assert not torch.equal(named, unnamed)


def test_images_are_drawn_back_to_what_the_noise_was_added_to():
    """With the true noise known at every level, the way back ends at the image."""
    schedule, steps = NoiseLevels(1000, (1e-4, 2e-2)), 4
    image, noise = torch.rand(1, 3, 4, 4) * 2 - 1, torch.randn(1, 3, 4, 4)
    levels = schedule.drawing_levels(steps)
    assert levels == [1000, 750, 500, 250]
    x = schedule.noised(image, torch.tensor([1000]), noise)
    for level in levels:
        x, estimate = schedule.drawn(x, noise, level, steps, clip=False)
        torch.testing.assert_close(estimate, image, rtol=0, atol=1e-3)
    torch.testing.assert_close(x, image, rtol=0, atol=1e-3)


def test_without_diffusers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs diffusers; pip install 'midre-exp\[diffusion\]'"):
        small("ddpm")


def test_features_of_classes_are_means_over_the_most_confident_images(tmp_path):
    images = torch.zeros(6, 3, SIZE, SIZE, dtype=torch.uint8)
    for row, (colour, light) in enumerate([(0, 250), (0, 200), (1, 240), (1, 100), (2, 220), (2, 60)]):
        images[row, colour] = light
    made, asked = ClassFeatures(num_classes=3, per_class=2), victim()
    numbers = made.fit(ImageSet(images, torch.zeros(6, dtype=torch.long), ("x",)), asked, **fitting(tmp_path))
    assert numbers == {"queries": 6} and asked.queries == 6
    expected = torch.diag(torch.tensor([225.0, 170.0, 140.0]) / 255)
    torch.testing.assert_close(made.means, expected)
    again = ClassFeatures(num_classes=3, per_class=2)
    again.restore(made.state_dict())
    assert torch.equal(again.means, made.means)
    darker = ClassFeatures(num_classes=3, per_class=2, image_to_target=[lambda images: images / 2])
    darker.fit(ImageSet(images, torch.zeros(6, dtype=torch.long), ("x",)), victim(), **fitting(tmp_path))
    torch.testing.assert_close(darker.means, expected / 2)


def fitting(work):
    return {"seed": 0, "work": work, "runtime": Runtime()}


def test_features_of_classes_need_what_they_are_made_of(tmp_path):
    made = ClassFeatures(num_classes=3, per_class=50)
    for images, asked, words in (
        (public(40, SIZE), victim(Threat.LABELS), "with a white-box attack"),
        (None, victim(), "public images; hand them in"),
        (public(40, SIZE), victim(), r"surrogates\.per_class=50 exceeds the 40 public images"),
    ):
        with pytest.raises(ConfigError, match=words):
            made.fit(images, asked, **fitting(tmp_path))
