"""Precision, recall, density and coverage against PPA's numbers, a loop, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.metrics import grouping
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.inception import InceptionFeatures
from midre_exp.metrics.prdc import NAMES, Prdc
from tests.golden.fill import golden


def clouds(seed: int, sizes, width: int = 3, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal features of ``sizes[c]`` images of each class c, classes mixed, and their labels."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=draws)]
    return spread * torch.randn(len(labels), width, generator=draws) + labels[:, None], labels


def shown(fake, labels, private, private_labels, **more) -> Evaluation:
    n, m = len(labels), len(private_labels)
    return Evaluation(
        images=more.pop("images", torch.zeros(n, 3, 4, 4, dtype=torch.uint8)),
        labels=labels,
        restarts=torch.arange(n),
        logits=torch.zeros(n, 9),
        features=fake,
        private_features=private,
        private_labels=private_labels,
        private_images=more.pop("private_images", torch.zeros(m, 3, 4, 4, dtype=torch.uint8)),
        private_rows=torch.arange(m),
        device=torch.device("cpu"),
    )


def measured(fake, labels, private, private_labels, k=3) -> dict[str, float]:
    return Prdc(k=k, features="evaluator")(shown(fake, labels, private, private_labels))


def by_loop(fake, real, k):
    """One identity, image by image."""

    def radius(points, i):
        return sorted(float((points[i] - other).norm()) for other in points)[k]

    fake, real = fake.double(), real.double()
    apart = [[float((r - f).norm()) for f in fake] for r in real]
    of_real = [radius(real, i) for i in range(len(real))]
    of_fake = [radius(fake, j) for j in range(len(fake))]
    held = [[apart[i][j] < of_real[i] for j in range(len(fake))] for i in range(len(real))]
    column = [[apart[i][j] for i in range(len(real))] for j in range(len(fake))]
    nearest_real = [int(np.argmin(column[j])) for j in range(len(fake))]
    nearest_fake = [int(np.argmin(apart[i])) for i in range(len(real))]
    return {
        "precision": np.mean([any(held[i][j] for i in range(len(real))) for j in range(len(fake))]),
        "recall": np.mean(
            [any(apart[i][j] < of_fake[j] for j in range(len(fake))) for i in range(len(real))]
        ),
        "density": np.sum(held) / k / len(fake),
        "coverage": np.mean([any(row) for row in held]),
        "precision_ppa": np.mean([held[nearest_real[j]][j] for j in range(len(fake))]),
        "recall_ppa": np.mean(
            [apart[i][nearest_fake[i]] < of_fake[nearest_fake[i]] for i in range(len(real))]
        ),
        "density_ppa": np.sum(held) / k / len(real),
        "coverage_ppa": np.mean([any(row) for row in held]),
    }


def test_both_forms_match_the_golden_numbers_of_two_unequal_classes():
    wanted = golden("metrics_highres")["prdc"]

    def draw(seed, n):
        return torch.from_numpy(np.random.RandomState(seed).standard_normal((n, 6)))

    real = torch.cat([draw(51, 14), draw(52, 11)])
    fake = torch.cat([0.9 * draw(53, 9) + 0.2, 0.6 * draw(54, 8) - 0.3])
    real_labels = torch.arange(2).repeat_interleave(torch.tensor([14, 11]))
    fake_labels = torch.arange(2).repeat_interleave(torch.tensor([9, 8]))
    for c in range(2):
        own = real_labels == c, fake_labels == c
        found = measured(fake[own[1]], fake_labels[own[1]], real[own[0]], real_labels[own[0]])
        assert {name: found[f"{name}_evaluator"] for name in NAMES} == pytest.approx(wanted["textbook"][c])
        published = [found[f"{name}_ppa_evaluator"] for name in NAMES]
        assert published == pytest.approx(wanted["as_in_ppa"]["per_class"][c], rel=1e-6)
    found = measured(fake, fake_labels, real, real_labels)
    published = [found[f"{name}_ppa_evaluator"] for name in NAMES]
    assert published == pytest.approx(wanted["as_in_ppa"]["mean_over_classes"], rel=1e-6)


@pytest.mark.parametrize("numbers", [2**25, 1])  # all classes in one block; each in its own
@pytest.mark.parametrize("sizes", [([8, 8, 8], [6, 6, 6]), ([5, 12, 9], [9, 4, 7])])
def test_classes_side_by_side_equal_a_loop_over_images(sizes, numbers, monkeypatch):
    monkeypatch.setattr(grouping, "_NUMBERS", numbers)
    (real, real_labels), (fake, fake_labels) = clouds(1, sizes[0]), clouds(2, sizes[1], spread=0.8)
    found = measured(fake, fake_labels, real, real_labels, k=2)
    each = [by_loop(fake[fake_labels == c], real[real_labels == c], 2) for c in range(3)]
    assert found == pytest.approx({f"{name}_evaluator": np.mean([e[name] for e in each]) for name in each[0]})


def test_identical_sets_are_precise_and_complete():
    real, labels = clouds(3, [7, 9])
    found = measured(real, labels, real, labels)
    for form in ("", "_ppa"):
        for name in ("precision", "recall", "coverage"):
            assert found[f"{name}{form}_evaluator"] == 1
        # Each ball holds the image itself and its nearer neighbours than the third: 3 of 3.
        assert found[f"density{form}_evaluator"] == pytest.approx(1)


def test_clouds_far_apart_share_nothing_and_other_peoples_images_do_not_count():
    real, labels = clouds(4, [6, 6])
    assert set(measured(real + 1000, labels, real, labels).values()) == {0.0}
    swapped = measured(real + 100 * labels[:, None], labels, real + 100 * (1 - labels[:, None]), labels)
    assert set(swapped.values()) == {0.0}


@pytest.mark.parametrize(
    ("sizes", "what"), [(([4, 4], [4, 3]), "reconstructions"), (([4, 3], [4, 4]), "private training")]
)
def test_too_few_images_of_one_identity_are_a_reason(sizes, what):
    (real, real_labels), (fake, fake_labels) = clouds(7, sizes[0]), clouds(8, sizes[1])
    with pytest.raises(Unavailable, match=f"needs 4 {what}.*one has 3"):
        measured(fake, fake_labels, real, real_labels)


def test_an_identity_without_private_images_is_a_reason():
    real, labels = clouds(9, [5])
    with pytest.raises(Unavailable, match="one has 0"):
        measured(real, labels + 1, real, labels)


def test_features_of_inception_are_those_of_the_distance_and_need_weights(monkeypatch):
    asked = []

    def remember(self, images, rows, device, numerics, *before):
        asked.append((self.official_range, len(rows)))
        return images[rows].float().mean((2, 3))

    monkeypatch.setattr(InceptionFeatures, "_features", remember)
    draws = torch.Generator().manual_seed(0)
    pictures = {
        name: torch.randint(0, 256, (10, 3, 4, 4), generator=draws, dtype=torch.uint8)
        for name in ("images", "private_images")
    }
    labels = torch.arange(10) % 2
    seen = shown(torch.zeros(10, 2), labels, torch.zeros(10, 2), labels, **pictures)
    found = Prdc(k=3, features="inception", weights="imagenet", official_range=True)(seen)
    assert set(found) == {f"{name}{form}" for name in NAMES for form in ("", "_ppa")}
    Prdc(k=2, features="inception", weights="imagenet", official_range=True)(seen)
    assert asked == [(True, 10), (True, 10)]
    with pytest.raises(Unavailable, match=r"set metrics\.measure\.prdc\.weights"):
        Prdc(k=3, features="inception")(seen)


def test_broken_features_and_unknown_settings_are_refused():
    real, labels = clouds(10, [5])
    with pytest.raises(Unavailable, match="not finite"):
        measured(real * float("nan"), labels, real, labels)
    with pytest.raises(ConfigError, match="k=0"):
        Prdc(k=0, features="evaluator")
    with pytest.raises(ConfigError, match="features=vgg"):
        Prdc(k=3, features="vgg")
