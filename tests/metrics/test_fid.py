from __future__ import annotations

import numpy as np
import pytest
import torch

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.fid import EvaluatorFid, Fid, frechet_distance
from midre_exp.metrics.inception import InceptionFeatures
from midre_exp.targets.base import Output
from tests.golden.fill import golden


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def by_eigenvalues(a: torch.Tensor, b: torch.Tensor) -> float:
    """The textbook form, through the eigenvalues of the product of the covariances."""
    product = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * product)


def seen(hits: int, n: int = 8, size: int = 32) -> Evaluation:
    """``n`` reconstructions of class 0, of which the evaluator accepts the first ``hits``; 10 private images
    of their identity and 5 of another, in turn.
    """
    draws = torch.Generator().manual_seed(0)
    logits = torch.zeros(n, 2)
    logits[torch.arange(n), (torch.arange(n) >= hits).long()] = 1
    rows = torch.arange(15)[torch.arange(15) % 3 != 2]
    return Evaluation(
        images=torch.randint(0, 256, (n, 3, size, size), generator=draws, dtype=torch.uint8),
        labels=torch.zeros(n, dtype=torch.int64),
        restarts=torch.arange(n),
        logits=logits,
        features=torch.randn(n, 4, generator=draws),
        private_features=torch.randn(10, 4, generator=draws),
        private_labels=torch.zeros(10, dtype=torch.int64),
        private_images=torch.randint(0, 256, (15, 3, 48, 48), generator=draws, dtype=torch.uint8),
        private_rows=rows,
        device=torch.device("cpu"),
    )


def test_the_distance_matches_both_golden_numbers():
    low = golden("evaluation_lowres")["fid"]
    found = frechet_distance(torch.tensor(low["features_a"]), torch.tensor(low["features_b"]))
    assert found == pytest.approx(low["value"], rel=1e-6)
    high = golden("metrics_highres")["fid"]
    found = frechet_distance(normal(61, 40, 5), 1.3 * normal(62, 30, 5) + 0.4)
    assert found == pytest.approx(high["value"], rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(50, 40), (3, 40), (50, 3), (4, 3), (2, 2)])
def test_fewer_samples_than_dimensions_are_exact_too(n, m):
    a, b = normal(1, n, 6), 2 * normal(2, m, 6) + 1
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_gaussians_of_known_mean_and_spread_have_the_closed_form():
    a = normal(3, 400, 3)
    a = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(a.T))).T  # covariance exactly 1
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert frechet_distance(a, a + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)
    assert frechet_distance(a, 3 * a) == pytest.approx(3 * (3 - 1) ** 2, rel=1e-9)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-9)


def test_an_orthogonal_change_of_features_does_not_matter():
    a, b = normal(4, 20, 5), normal(5, 30, 5) + 1
    turn = torch.linalg.qr(normal(6, 5, 5)).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_one_sample_or_broken_features_have_no_distance():
    with pytest.raises(Unavailable, match="at least 2 images"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(Unavailable, match="not finite"):
        frechet_distance(torch.full((4, 3), float("nan")), torch.zeros(5, 3))


def test_only_successful_reconstructions_count():
    shown = seen(hits=5)
    numbers = EvaluatorFid()(shown)
    assert numbers["fid_images"] == 5
    expected = frechet_distance(shown.features[:5], shown.private_features)
    assert numbers["fid_evaluator"] == expected
    assert expected != frechet_distance(shown.features, shown.private_features)


@pytest.mark.parametrize("hits", [0, 1])
def test_too_few_successes_are_reported_not_invented(hits, monkeypatch):
    monkeypatch.setattr(InceptionFeatures, "network", lambda self: pytest.fail("loaded for nothing"))
    for metric in (EvaluatorFid(), Fid(weights="imagenet")):
        with pytest.raises(
            Unavailable, match=f"needs 2 successful reconstructions, the evaluator accepts {hits}"
        ):
            metric(seen(hits=hits))


class Means(torch.nn.Module):
    """Answers with the mean colours of what it is shown, and remembers it in ``asked``."""

    def __init__(self, asked):
        super().__init__()
        self.asked = asked

    def forward(self, images):
        self.asked.append(images)
        return Output(torch.zeros(len(images), 2), images.mean((2, 3)))


def test_inception_features_come_from_successes_and_from_private_pictures_of_the_same_size(monkeypatch):
    shown, asked = seen(hits=3), []

    monkeypatch.setattr(InceptionFeatures, "network", lambda self: Means(asked))
    found = Fid(weights="imagenet")(shown)["fid"]
    fake, real = asked
    assert fake.shape == (3, 3, 299, 299)
    assert real.shape == (10, 3, 299, 299)
    small = torch.nn.functional.interpolate(
        shown.private_images[shown.private_rows].float() / 255, size=(32, 32), mode="bilinear", antialias=True
    )
    expected = torch.nn.functional.interpolate(small, size=(299, 299), mode="bilinear", antialias=True)
    torch.testing.assert_close(real, expected, rtol=0, atol=1e-5)
    assert found == frechet_distance(fake.mean((2, 3)), real.mean((2, 3)))


def test_ppas_distance_takes_all_pictures_and_shows_them_normalised_twice(monkeypatch):
    shown, asked = seen(hits=3), []
    monkeypatch.setattr(InceptionFeatures, "network", lambda self: Means(asked))
    plain = Fid(weights="imagenet", images="all")(shown)
    twice = Fid(weights="imagenet", images="all", official_range=True)(shown)
    fake, real, fake_twice, real_twice = asked
    assert len(fake) == 8
    torch.testing.assert_close(fake_twice, 2 * fake - 1)
    torch.testing.assert_close(real_twice, 2 * real - 1)
    assert set(plain) == {"fid_all"} and set(twice) == {"fid_ppa"}
    assert twice["fid_ppa"] == pytest.approx(4 * plain["fid_all"], rel=1e-4)  # these features are linear
    of_hits = Fid(weights="imagenet", official_range=True)(shown)
    assert of_hits["fid_ppa_successful"] != twice["fid_ppa"]
    assert [len(images) for images in asked[4:]] == [3]  # the private ones are not shown again


def test_an_unknown_choice_of_images_is_refused():
    with pytest.raises(ConfigError, match="images=some"):
        Fid(weights=None, images="some")


def test_missing_inception_weights_are_a_reason_not_a_failure(tmp_path, monkeypatch):
    with pytest.raises(Unavailable, match=r"set metrics.measure.fid.weights to imagenet or to the path"):
        Fid(weights=None)(seen(hits=5))
    with pytest.raises(Unavailable, match=r"no Inception weights: .*nothing.pth does not exist"):
        Fid(weights=str(tmp_path / "nothing.pth"))(seen(hits=5))

    def offline(model):
        raise CheckpointError("ImageNet weights of inception_v3 cannot be downloaded")

    monkeypatch.setattr("midre_exp.weights.state_dict.library_file", offline)
    with pytest.raises(Unavailable, match="cannot be downloaded"):
        Fid(weights="imagenet")(seen(hits=5))


def test_inception_loads_a_file_in_torchvisions_layout_and_gives_its_pooled_features(tmp_path):
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "inception.pth")
    ours = InceptionFeatures(weights=str(tmp_path / "inception.pth"), official_range=False).network()
    pooled = []
    theirs.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    images = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        theirs((images - 0.5) / 0.5)
        found = ours(images).features
    assert found.shape == (1, 2048)
    torch.testing.assert_close(found, pooled[0], rtol=1e-4, atol=1e-5)
