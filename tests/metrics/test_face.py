"""Face distance: unit embeddings of pictures of 160 px, weights read or a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.face import VGGFACE2, FaceDistance
from midre_exp.numerics import Numerics
from midre_exp.targets.architectures.inception_resnet_v1 import InceptionResNetV1
from midre_exp.targets.base import Output
from tests.golden.fill import fill, golden_images


def seen(private_labels=(0, 1, 0, 1)) -> Evaluation:
    """Reconstructions of two identities at 32 px; private images at 40 px, rows 1 to 4 of 6."""
    draws = torch.Generator().manual_seed(0)
    return Evaluation(
        images=torch.randint(0, 256, (3, 3, 32, 32), generator=draws, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 1]),
        restarts=torch.tensor([0, 0, 1]),
        logits=torch.zeros(3, 2),
        features=torch.zeros(3, 2),
        private_features=torch.zeros(4, 2),
        private_labels=torch.tensor(private_labels),
        private_images=torch.randint(0, 256, (6, 3, 40, 40), generator=draws, dtype=torch.uint8),
        private_rows=torch.arange(1, 5),
        device=torch.device("cpu"),
    )


class Corners(torch.nn.Module):
    """Features: ten times the colour of the first pixel."""

    def __init__(self, asked):
        super().__init__()
        self.asked = asked

    def forward(self, images):
        self.asked.append(images)
        return Output(torch.zeros(len(images), 1), 10 * images[:, :, 0, 0])


def test_the_distance_is_the_mean_least_square_between_unit_vectors_of_the_same_person(monkeypatch):
    shown, asked = seen(), []
    monkeypatch.setattr(FaceDistance, "network", lambda self: Corners(asked))
    found = FaceDistance(weights="vggface2")(shown)
    fake, real = asked
    assert fake.shape == (3, 3, 160, 160) and real.shape == (4, 3, 160, 160)
    torch.testing.assert_close(real[:, :, 0, 0] * 255, shown.private_images[1:5, :, 0, 0].float())
    units = [images[:, :, 0, 0] / images[:, :, 0, 0].norm(dim=1, keepdim=True) for images in asked]
    least = [
        min(
            float((units[0][i] - units[1][j]).square().sum())
            for j in range(4)
            if shown.private_labels[j] == label
        )
        for i, label in enumerate(shown.labels)
    ]
    assert found == {"delta_face": pytest.approx(sum(least) / 3, rel=1e-5)}


class Mixed(torch.nn.Module):
    """Features: a convolution of the picture, which autocast rounds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 16, 32, stride=32)

    def forward(self, images):
        return Output(torch.zeros(len(images), 1), self.layer(images).flatten(1))


def test_the_network_is_asked_under_the_numerics_of_the_run(monkeypatch):
    monkeypatch.setattr(FaceDistance, "network", lambda self: Mixed())
    shown = seen()
    exact = FaceDistance(weights="vggface2")(shown)["delta_face"]
    rounded = FaceDistance(weights="vggface2")(replace(shown, numerics=Numerics(precision="bf16")))
    assert exact != rounded["delta_face"] == pytest.approx(exact, rel=0.05)


def test_an_identity_without_private_images_is_a_reason(monkeypatch):
    monkeypatch.setattr(FaceDistance, "network", lambda self: Corners([]))
    with pytest.raises(Unavailable, match="no private training image"):
        FaceDistance(weights="vggface2")(seen(private_labels=(0, 0, 0, 0)))


def test_the_release_file_is_read_without_its_head_and_sees_pictures_normalised_with_a_half(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    release = fill(InceptionResNetV1(num_classes=10)).eval()
    torch.save(release.state_dict(), folder / VGGFACE2)
    images = golden_images(80, n=1)
    network = FaceDistance(weights="vggface2").network()
    with torch.no_grad():
        # (255 x - 127.5) / 128 of what the release is shown equals 2 x - 1 of what is shown here
        expected = release.embed((2 * images - 1) * 128 / 255 + 0.5)
        torch.testing.assert_close(network.embed(images), expected, rtol=0, atol=1e-5)


def test_missing_or_foreign_weights_are_reasons_that_name_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"set metrics\.measure\.delta_face\.weights"):
        FaceDistance(weights=None)(seen())
    with pytest.raises(Unavailable, match=f"{VGGFACE2} does not exist.*metrics.measure.delta_face.weights"):
        FaceDistance(weights="vggface2")(seen())
    with pytest.raises(Unavailable, match=r"no face weights: .*none\.pt"):
        FaceDistance(weights=str(tmp_path / "none.pt"))(seen())
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(Unavailable, match="no face weights"):
        FaceDistance(weights=str(tmp_path / "other.pt"))(seen())
