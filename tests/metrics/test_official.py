"""Numbers as official programs print them: against what these programs gave, and against their formulas."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.utils import save_image

from midre_exp.data.base import ImageSet
from midre_exp.data.transforms import EightBitResize, Resize
from midre_exp.metrics import (
    AttackAccuracy,
    Judge,
    KnnDistance,
    LastSeedAccuracy,
    OfficialFid,
    RebuiltEvaluator,
    StretchedKnnDistance,
    Unavailable,
    evaluate,
    frechet_distance,
)
from midre_exp.metrics.base import Evaluation
from midre_exp.metrics.distance import knn_distance
from midre_exp.metrics.inception import InceptionFeatures
from midre_exp.metrics.official import stretched
from midre_exp.metrics.tensorflow_inception import tensorflow_inception, tensorflow_resize
from midre_exp.numerics import Numerics
from midre_exp.targets.architectures.inception_v3 import InceptionV3
from midre_exp.targets.base import Output
from tests.golden.fill import fixed_values
from tests.golden.loops.read import integers, loop


class ToyJudge(torch.nn.Module):
    """The classifier of README_loops: convolution, GELU, pooling to 4 x 4, linear."""

    def __init__(self, classes: int, width: int = 12):
        super().__init__()
        self.c = torch.nn.Conv2d(3, width, 5, 4, 2)
        self.fc = torch.nn.Linear(16 * width, classes)

    def forward(self, images: torch.Tensor) -> Output:
        features = F.adaptive_avg_pool2d(F.gelu(self.c(images)), 4).flatten(1)
        return Output(self.fc(features), features)


@pytest.fixture(scope="module")
def lowres():
    """LOMMA's evaluation of 150 pictures of 30 identities, five each, by a toy judge at 112 px."""
    arrays = loop("lowres_metrics")
    meta = arrays["meta"]
    judge, tag = ToyJudge(meta["classes"]), f"{meta['tag']}/E."
    shapes = {tag + name: tuple(value.shape) for name, value in judge.state_dict().items()}
    filled = fixed_values(shapes, set())
    state = {name: torch.from_numpy(filled[tag + name]) for name in judge.state_dict()}
    for name, gain in meta["gains_classifier"].items():
        state[name] *= gain
    state["fc.bias"] = torch.from_numpy(arrays["bias_judge"])
    judge.load_state_dict(state)
    every = integers("low/1/pictures", 256, 150, 3, 8, 8).to(torch.uint8)
    pictures = every[torch.from_numpy(arrays["order"])].repeat_interleave(8, 2).repeat_interleave(8, 3)
    own = integers("low/1/private", 256, 180, 3, 8, 8).to(torch.uint8)
    private = ImageSet(
        own.repeat_interleave(14, 2).repeat_interleave(14, 3), torch.arange(30).repeat_interleave(6), ()
    )
    return pictures, judge.eval(), private, arrays, meta


def test_the_last_seeds_top_5_and_the_rest_are_what_the_official_program_prints(lowres):
    pictures, judge, private, arrays, meta = lowres
    metrics = {
        "top1": AttackAccuracy(k=1, group=meta["group"]),
        "top5": AttackAccuracy(k=5, group=meta["group"]),
        "last": LastSeedAccuracy(k=5, group=meta["group"]),
        "knn": KnnDistance(),
    }
    found = evaluate(
        pictures,
        torch.arange(30).repeat_interleave(5),
        judge,
        private=private,
        metrics=metrics,
        image_to_evaluator=(EightBitResize(size=112),),
    )
    assert found.predicted.tolist() == arrays["judged"].tolist()
    assert found.numbers["att_acc1"] == pytest.approx(meta["accuracy"], abs=1e-4)
    assert found.numbers["att_acc1_batch_std"] == pytest.approx(meta["deviation"], abs=1e-4)
    assert found.numbers["att_acc5"] == pytest.approx(meta["top5_of_all"], abs=1e-4)
    assert found.numbers["att_acc5_last_seed_official"] == pytest.approx(meta["top5_printed"], abs=1e-4)
    assert found.numbers["knn_dist"] == pytest.approx(meta["knn"], rel=1e-5)


def test_the_frechet_distance_is_the_official_one(lowres):
    pictures, judge, private, arrays, meta = lowres
    first, own = meta["frechet_dimensions"], torch.arange(30).repeat_interleave(5)
    found = Judge(judge, (EightBitResize(size=112),)).look(pictures)[1][:, :first]
    known = Judge(judge).look(private.images)[1][:, :first]
    hits = torch.from_numpy(arrays["judged"]) == own
    assert int(hits.sum()) == meta["successful"]
    assert frechet_distance(found[hits], known) == pytest.approx(meta["frechet_successful"], rel=1e-4)


@pytest.mark.parametrize("kind", ["eight bits", "floats", "one colour"])
def test_pictures_are_stretched_as_torchvision_writes_them(kind):
    draws = torch.Generator().manual_seed(0)
    images = 1.6 * torch.rand(3, 3, 7, 5, generator=draws) - 0.3
    if kind == "eight bits":
        images = (images.clamp(0.2, 0.7) * 255).to(torch.uint8)
    if kind == "one colour":
        images = torch.full_like(images, 0.25)
    for image, ours in zip(images, stretched(images), strict=True):
        file = io.BytesIO()
        exact = image / 255 if image.dtype == torch.uint8 else image
        save_image(exact, file, format="png", normalize=True, padding=0)
        written = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        assert torch.equal(written, ours)


class Means(torch.nn.Module):
    """The mean of each channel, as features and as logits; ``transform_input`` darkens."""

    def __init__(self, transform_input: bool = False):
        super().__init__()
        self.transform_input = transform_input

    def forward(self, images: torch.Tensor) -> Output:
        means = images.mean((2, 3)) * (0.5 if self.transform_input else 1)
        return Output(means if not self.transform_input else means.flip(1), means)


def evaluation(network: torch.nn.Module, size: int = 8) -> Evaluation:
    """Six reconstructions of three classes, and private images."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(40, 200, (6, 3, size, size), generator=draws, dtype=torch.uint8)
    private = torch.randint(0, 256, (9, 3, size, size), generator=draws, dtype=torch.uint8)
    judge = Judge(network)
    logits, features = judge.look(images)
    return Evaluation(
        images=images,
        labels=logits.argmax(1),
        restarts=torch.arange(6),
        logits=logits,
        features=features,
        private_features=judge.look(private)[1],
        private_labels=torch.arange(3).repeat(3),
        private_images=private,
        private_rows=torch.arange(9),
        device=torch.device("cpu"),
        judge=judge,
    )


def test_knn_on_stretched_pictures_compares_them_with_private_ones_as_they_are():
    seen = evaluation(Means())
    features = stretched(seen.images).double().div(255).mean((2, 3))
    expected = knn_distance(features, seen.labels, seen.private_features.double(), seen.private_labels)
    numbers = StretchedKnnDistance()(seen)
    assert numbers == {"knn_dist_stretched_official": pytest.approx(expected, rel=1e-5)}
    assert numbers["knn_dist_stretched_official"] != pytest.approx(KnnDistance()(seen)["knn_dist"], rel=0.01)


def test_the_rebuilt_judge_sees_everything_without_its_input_transform():
    seen = evaluation(Means(transform_input=True))
    numbers = RebuiltEvaluator()(seen)
    plain = evaluation(Means())
    expected = 100 * (plain.logits.argmax(1) == seen.labels).double().mean().item()
    assert numbers["att_acc1_rebuilt_official"] == pytest.approx(expected) and expected < 100
    apart = knn_distance(plain.features, seen.labels, plain.private_features, seen.private_labels)
    assert numbers["delta_eval_rebuilt_official"] == pytest.approx(apart, rel=1e-6)
    assert seen.judge is not None and seen.judge.network.transform_input  # the other is a copy


def test_a_judge_without_an_input_transform_needs_no_second_look():
    assert RebuiltEvaluator()(evaluation(Means())) == {}


def test_a_rebuilt_judge_computes_in_the_runs_precision_with_its_own_weights():
    network, numerics = Means(transform_input=True), Numerics(precision="bf16")
    numerics.accelerate(network)
    rebuilt = Judge(network, numerics=numerics).rebuilt()
    assert rebuilt is not None
    images = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    assert rebuilt.look(images)[1].mean() > 1.5 * Judge(network).look(images)[1].mean()


def test_an_attack_that_knows_it_failed_succeeds_by_no_judge():
    seen = evaluation(Means(transform_input=True))
    logits = seen.logits.clone()
    logits[torch.arange(6), seen.labels] = -torch.inf
    assert RebuiltEvaluator()(replace(seen, logits=logits))["att_acc1_rebuilt_official"] == 0


@pytest.mark.parametrize("pixels", [8, 64, 299, 400])
def test_tensorflows_resize_has_no_half_pixels(pixels):
    """Where a ramp is read off tells where an output pixel lies."""
    ramp = torch.arange(pixels, dtype=torch.float32).view(1, 1, 1, -1).expand(1, 1, pixels, -1)
    expected = (torch.arange(299) * pixels / 299).clamp(max=pixels - 1)
    found = tensorflow_resize(ramp, 299)
    assert found.shape == (1, 1, 299, 299)
    assert torch.allclose(found[0, 0, 17], expected, atol=1e-3)
    assert torch.equal(tensorflow_resize(ramp.transpose(2, 3), 299), found.transpose(2, 3))


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    torch.manual_seed(0)
    return tensorflow_inception().eval()


def test_tensorflows_network_has_torchvisions_names_and_1008_classes(network):
    plain = InceptionV3(num_classes=1008, auxiliary=False, transform_input=False)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert shapes == {name: value.shape for name, value in plain.state_dict().items()}
    assert not any(name.startswith("AuxLogits") for name in shapes)


@pytest.mark.parametrize(
    ("name", "channels"), [("Mixed_5b", 192), ("Mixed_6c", 768), ("Mixed_7b", 1280), ("Mixed_7c", 2048)]
)
@torch.no_grad()
def test_its_mixed_layers_average_without_padding_and_the_last_takes_the_largest(network, name, channels):
    torch.manual_seed(1)
    maps = torch.rand(1, channels, 5, 5)
    layer, plain = network.get_submodule(name), InceptionV3(num_classes=2, auxiliary=False).eval()
    other = plain.get_submodule(name)
    other.load_state_dict(layer.state_dict())
    found, usual = layer(maps), other(maps)
    width = layer.branch_pool.conv.out_channels
    assert torch.equal(found[:, :-width], usual[:, :-width])
    padded = F.pad(maps, (1, 1, 1, 1), value=torch.nan)
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    pooled = windows.nan_to_num(-torch.inf).amax(4) if name == "Mixed_7c" else windows.nanmean(4)
    assert torch.allclose(found[:, -width:], layer.branch_pool(pooled), atol=1e-5)
    assert not torch.allclose(found[:, -width:], usual[:, -width:], atol=1e-4)


def test_a_file_of_tensorflows_weights_is_read_strictly(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    read = InceptionFeatures(weights=str(tmp_path / "inception.pth"), program="lomma").network()
    assert all(map(torch.equal, read.state_dict().values(), network.state_dict().values()))
    lacking = {
        name: value for name, value in network.state_dict().items() if "Mixed_7c.branch_pool" not in name
    }
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(Unavailable, match=r"(?s)no Inception weights: .*Mixed_7c\.branch_pool"):
        InceptionFeatures(weights=str(tmp_path / "lacking.pth"), program="lomma").network()


def test_a_missing_file_of_tensorflows_weights_is_a_reason_that_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"pt_inception-2015-12-05-6726825d\.pth does not exist; put"):
        OfficialFid(weights="pytorch_fid", program="ppa")(evaluation(Means()))
    with pytest.raises(
        Unavailable, match=r"set metrics\.measure\.fid_ppa\.weights \(fid_weights\) to pytorch_fid"
    ):
        OfficialFid(weights=None, program="ppa")(evaluation(Means()))


class Watched(torch.nn.Module):
    """Remembers what it is shown."""

    def forward(self, images: torch.Tensor) -> Output:
        self.shown = images
        return Output(images[:, :, 0, 0], images.mean((2, 3)))


@pytest.mark.parametrize("program", ["ppa", "lomma", "plgmi"])
def test_every_program_shows_its_network_what_its_code_does(program, monkeypatch):
    network = Watched()
    monkeypatch.setattr(InceptionFeatures, "network", lambda self: network)
    images = torch.randint(
        0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    seen = replace(evaluation(Means()), images=images, labels=torch.tensor([0, 1]))
    InceptionFeatures(weights="x", program=program).fake(seen, None)
    entered = 2 * network.shown - 1  # what normalising with 0.5 / 0.5 makes of it
    x = images.float() / 255
    if program == "ppa":
        expected = 2 * (2 * Resize(size=299)(x) - 1) - 1
    elif program == "lomma":
        taken = ((x * 0.5 + 0.5) * 255).to(torch.uint8).float()
        theta = torch.eye(2, 3)  # the same resize by a grid that begins at the corner of the first pixel
        theta[:, 2] += theta.diagonal() / 64 - theta.diagonal() / 299
        grid = F.affine_grid(theta.expand(2, -1, -1), [2, 3, 299, 299], align_corners=False)
        expected = F.grid_sample(taken, grid, padding_mode="border", align_corners=False)
        expected = (expected - 128) / 128
    else:
        x = stretched(images).float() / 255
        x = F.interpolate(x, (299, 299), mode="bilinear")
        expected = torch.stack(
            [
                x[:, channel] * (std / 0.5) + (mean - 0.5) / 0.5
                for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])
            ],
            1,
        )
    assert entered.shape == expected.shape and torch.allclose(entered, expected, atol=2e-4)


@pytest.mark.parametrize("program", ["ppa", "lomma", "plgmi"])
def test_an_official_fid_is_named_after_its_program(program, monkeypatch):
    monkeypatch.setattr(InceptionFeatures, "network", lambda self: Watched())
    numbers = OfficialFid(weights="x", program=program)(evaluation(Means()))
    assert list(numbers) == [f"fid_{program}_official"] and numbers[f"fid_{program}_official"] > 0
