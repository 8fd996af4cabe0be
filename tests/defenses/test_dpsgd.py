from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import DPSGD, Defense, PoissonBatches, build_defense, compose
from defenses.dpsgd import groups_of, without_batch_norm
from defenses.parts.private_steps import PerImageCall, PrivateSteps, epsilon
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.training.batch import Trained
from tests.defenses.conftest import Colours
from tests.defenses.networks import NETWORKS, state, train_node
from tests.golden.fill import golden

GOLDEN = golden("defense_dpsgd")
CONTROL = {
    "noise_multiplier": 0.0,
    "max_grad_norm": 1e9,
    "delta": 1e-5,
    "groups": 32,
    "channels_per_group": 4,
}
RESNET = NETWORKS["resnet18"]
IMAGES = torch.from_numpy(np.round(np.random.RandomState(0).uniform(size=(8, 3, 4, 4)), 3))


def dpsgd(**changes: Any) -> DPSGD:
    return DPSGD(**{**CONTROL, **changes})


# -- one step --


class Toy(Classifier):
    """The network of the recorded step."""

    head_name = "fc"

    def __init__(self) -> None:
        super().__init__()
        self.set_normalisation(0, 1)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(4, 4)
        self.fc = nn.Linear(64, 5)

    def stages(self) -> Any:
        yield "all", lambda x: self.norm(self.conv(x)).relu()


def filled(network: Toy) -> Toy:
    """The recorded weights: drawn in single precision, scaled in double."""
    for key, one in network.double().named_parameters():
        state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
        draw = torch.from_numpy(state.standard_normal(tuple(one.shape)).astype(np.float32)).double()
        scaled = 0.1 * draw if key.endswith("bias") else 1 + 0.1 * draw
        one.data = draw / one[0].numel() ** 0.5 if one.ndim > 1 else scaled
    return network.train()


class Twisted(Toy):
    """The same with an operation that expanded weights do not know."""

    def stages(self) -> Any:
        yield "all", lambda x: torch.flatten(self.norm(self.conv(x)).relu(), 1)


def compare(found: Tensor, expected: Any) -> None:
    if isinstance(expected, list):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
        return
    flat = found.flatten()
    assert list(found.shape) == expected["shape"]
    summary = {"sum": flat.sum(), "abs_sum": flat.abs().sum(), "l2": flat.norm()}
    for name, value in summary.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-9, abs=1e-8)
    for some, name in ((flat[:8], "first8"), (flat[-4:], "last4")):
        torch.testing.assert_close(some, torch.tensor(expected[name], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("network", [Toy, Twisted])
@pytest.mark.parametrize(
    ("noise", "after"), [(0.5, "parameters_after"), (0.0, "parameters_after_without_noise")]
)
def test_a_step_is_the_recorded_one(network: type[Toy], noise: float, after: str) -> None:
    model = filled(network())
    call, draws = PerImageCall(model), torch.Generator().manual_seed(11)
    optimizer = PrivateSteps(
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=noise,
        max_grad_norm=1.0,
        expected_batch_size=4,
        draws=lambda: draws,
        call=call,
    )
    output = call(IMAGES[:4])
    loss = F.cross_entropy(output.logits, torch.tensor(GOLDEN["labels"][:4]))
    assert loss.item() == pytest.approx(GOLDEN["loss_mean"], abs=1e-9)
    optimizer.zero_grad()  # as Lightning does between the two passes
    loss.backward()
    call.collect()
    norms = {n: p.grad_sample.flatten(1).norm(dim=1) for n, p in model.named_parameters()}
    for name, expected in GOLDEN["per_sample_gradient_norm_by_parameter"].items():
        torch.testing.assert_close(
            norms[name], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
        )
    whole = torch.stack([*norms.values()]).norm(dim=0)
    torch.testing.assert_close(
        whole, torch.tensor(GOLDEN["per_sample_gradient_norm"], dtype=torch.float64), rtol=0, atol=1e-9
    )
    optimizer.step()
    for name, parameter in model.named_parameters():
        compare(parameter.detach(), GOLDEN[after][name])


@pytest.mark.parametrize("name", ["resnet18", "ir152", "densenet121"])
def test_gradients_of_images_are_those_of_each_alone(name: str) -> None:
    """Of a network that expanded weights can, one that they cannot, and one that they only seem to."""
    model = assemble({"model": NETWORKS[name]}, 3, compose(it=dpsgd()), seed=0).train()
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.p = 0.0
    images, labels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    call = PerImageCall(model)
    F.cross_entropy(call(images).logits, labels).backward()
    call.collect()
    each = {key: one.grad_sample[1].clone() for key, one in model.named_parameters()}
    call.forget()
    F.cross_entropy(model(images[1:2]).logits, labels[1:2]).backward()
    for key, one in model.named_parameters():
        torch.testing.assert_close(each[key], one.grad, rtol=1e-3, atol=1e-5, msg=key)


def test_an_empty_batch_steps_by_noise_alone() -> None:
    model = filled(Toy())
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    call, draws = PerImageCall(model), torch.Generator().manual_seed(11)
    optimizer = PrivateSteps(
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        expected_batch_size=4,
        draws=lambda: draws,
        call=call,
    )
    optimizer.step()
    for name, one in model.named_parameters():
        moved = (before[name] - one.detach()) * 4 / 0.1
        compare(moved, GOLDEN["noise"][name])


# -- what it costs in privacy --


@pytest.mark.parametrize(
    "row", GOLDEN["epsilon"], ids=lambda row: f"{row['noise_multiplier']}-{row['steps']}"
)
def test_epsilon_is_the_recorded_one(row: dict[str, float]) -> None:
    spent = epsilon(
        noise_multiplier=row["noise_multiplier"],
        sample_rate=row["sample_rate"],
        steps=int(row["steps"]),
        delta=row["delta"],
    )
    assert spent == pytest.approx(row["epsilon_rdp"], rel=1e-3)


def test_poisson_batches_hold_each_image_by_chance_and_are_a_function_of_the_epoch() -> None:
    batches = PoissonBatches(100, batch_size=30, drop_last=False, seed=3)
    assert (batches.steps, batches.sample_rate, batches.expected_batch_size) == (4, 0.25, 25)
    assert PoissonBatches(100, batch_size=30, drop_last=True, seed=3).steps == 3
    drawn = [batch for epoch in range(200) for batch in batches.batches(epoch)]
    sizes = torch.tensor([len(batch) for batch in drawn]).double()
    assert float(sizes.mean()) == pytest.approx(25, abs=0.7)  # binomial: deviation 4.3, of 800 batches 0.15
    assert float(sizes.var()) == pytest.approx(18.75, rel=0.2)
    counts = torch.cat(drawn).bincount(minlength=100).double()
    assert float(counts.var()) == pytest.approx(800 * 0.25 * 0.75, rel=0.4)
    again = PoissonBatches(100, batch_size=30, drop_last=False, seed=3).batches(7)
    assert all(torch.equal(a, b) for a, b in zip(again, batches.batches(7), strict=True))
    other = PoissonBatches(100, batch_size=30, drop_last=False, seed=4).batches(7)
    assert any(not torch.equal(a, b) for a, b in zip(again, other, strict=True))
    assert any(
        len(b) == 0
        for e in range(9)
        for b in PoissonBatches(3, batch_size=1, drop_last=False, seed=0).batches(e)
    )


# -- the network --


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 16), (2048, 32), (16, 4), (12, 3), (10, 2), (7, 1), (3, 1), (2, 1)]
)
def test_every_group_has_several_channels(channels: int, groups: int) -> None:
    assert groups_of(channels, most=32, least_channels=4) == groups


@pytest.mark.parametrize("name", NETWORKS)
def test_no_batch_norm_stays_and_scales_of_the_weights_do(name: str) -> None:
    plain = assemble({"model": NETWORKS[name]}, 3, compose(), seed=0)
    for one in plain.parameters():
        one.data.normal_(generator=torch.Generator().manual_seed(one.numel()))
    scales = [(m.weight.clone(), m.bias.clone()) for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    without_batch_norm(plain, most=32, least_channels=4)
    norms = [m for m in plain.modules() if isinstance(m, nn.GroupNorm)]
    assert not any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in plain.modules())
    ours = {tuple(m.weight.tolist()) for m in norms}
    assert all(tuple(weight.tolist()) in ours for weight, _ in scales) and len(norms) >= len(scales)
    assert all(m.num_channels // m.num_groups >= 2 for m in norms)
    answers = plain.eval()(torch.rand(2, 3, 32, 32)).logits
    assert not torch.equal(answers[0], answers[1])  # the data are not erased


# -- training --


def trained(folder: Path, recipe: dict[str, Any] | None = None, **options: Any) -> tuple[Classifier, Any]:
    recipe = {"epochs": 2, "batch_size": 6, **(recipe or {})}
    model, _, history = train_node(folder, RESNET, recipe, it=dpsgd(**options))
    return model, history


def test_without_noise_and_clipping_it_is_plain_training_of_the_group_norm_network(tmp_path: Path) -> None:
    recipe = {"augment": [], "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02}}
    found, history = trained(tmp_path / "ours", recipe)
    data = Colours().load("train")
    model = assemble({"model": RESNET}, 3, compose(it=dpsgd()), seed=0).train()
    batches = PoissonBatches(18, batch_size=6, drop_last=False, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for epoch in range(2):
        for rows in batches.batches(epoch):
            optimizer.zero_grad()
            logits = model(data.images[rows].float() / 255).logits
            (F.cross_entropy(logits, data.labels[rows], reduction="sum") / 6).backward()
            optimizer.step()
    torch.testing.assert_close(state(found), state(model), rtol=1e-4, atol=1e-6)
    assert history[1]["loss"] < history[0]["loss"]


def test_much_noise_destroys_the_training_and_a_tiny_norm_stops_it(tmp_path: Path) -> None:
    recipe = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02}, "epochs": 1}
    start = state(assemble({"model": RESNET}, 3, compose(it=dpsgd()), seed=0))
    plain, _ = trained(tmp_path / "plain", recipe)
    clipped, _ = trained(tmp_path / "clipped", recipe, max_grad_norm=1e-6)
    noisy, _ = trained(tmp_path / "noisy", recipe, max_grad_norm=1.0, noise_multiplier=1000.0)
    moved = [float((state(one) - start).norm()) for one in (clipped, plain, noisy)]
    assert moved[0] < 1e-7 < 0.01 < moved[1] < 0.05 * moved[2]
    few, many = [float(state(one).std()) for one in (plain, noisy)]
    assert many > 3 * few  # noise is all that is left of the weights


def test_the_record_tells_the_privacy_of_an_image_and_of_no_person(tmp_path: Path) -> None:
    it = compose(it=dpsgd(noise_multiplier=1.0, max_grad_norm=1.0))
    train_node(tmp_path, RESNET, {"epochs": 2, "batch_size": 6}, it=it.parts["it"])
    told = it.summary(
        Trained(
            train=Colours().load("train"),
            test=Colours().load("test"),
            answers=lambda i: i.images,
            epochs=2,
            seed=0,
        )
    )["it"]
    assert told["unit"] == "image" and told["accountant"] == "rdp" and told["steps"] == 6
    assert told["epsilon"] == pytest.approx(
        epsilon(noise_multiplier=1.0, sample_rate=1 / 3, steps=6, delta=1e-5)
    )
    assert told["images_per_person"] == [6, 6] and not any("person" in k and "epsilon" in k for k in told)
    control = dpsgd()
    control.sampler(torch.arange(18), batch_size=6, seed=0, drop_last=False)
    assert control.label == "GroupNorm"


def test_a_second_pass_in_a_step_is_refused() -> None:
    model = assemble({"model": RESNET}, 3, compose(it=dpsgd()), seed=0).train()
    call = PerImageCall(model)
    call(torch.rand(2, 3, 32, 32))
    with pytest.raises(ConfigError, match="one pass through the network a step"):
        call(torch.rand(2, 3, 32, 32))
    with torch.no_grad():  # to look is no pass of a step
        assert isinstance(call(torch.rand(2, 3, 32, 32)), Output)


@pytest.mark.parametrize("other", ["bido", "cutmix"])
def test_defenses_that_couple_images_are_refused(other: str) -> None:
    class Couples(Defense):
        couples_images = True

    with pytest.raises(ConfigError, match=r"gradient of each image alone|both set"):
        compose(dpsgd=dpsgd(), other=build_defense(other, scale="mini"))
    with pytest.raises(ConfigError, match="gradient of each image alone"):
        compose(dpsgd=dpsgd(), other=Couples())


class AddsBatchNorm(Defense):
    def replace_head(self, model: Classifier) -> None:
        model.head = nn.Sequential(nn.BatchNorm1d(64), model.head)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: dpsgd(channels_per_group=1), "lets a group hold one number"),
        (lambda: dpsgd().check_execution(numerics=Numerics(precision="bf16"), devices=1), "precision=bf16"),
        (lambda: dpsgd().check_execution(numerics=Numerics(compile=True), devices=1), "compile=true"),
        (lambda: dpsgd().check_execution(numerics=Numerics(), devices=2), "runtime.devices=2"),
        (
            lambda: dpsgd(noise_multiplier=1.0, delta=0.1).sampler(
                torch.arange(18), batch_size=6, seed=0, drop_last=False
            ),
            "delta=0.1 is no less than one over the 18",
        ),
        (
            lambda: dpsgd().training_call(
                assemble({"model": RESNET}, 3, compose(it=dpsgd(), loft=AddsBatchNorm()), seed=0)
            ),
            "name dpsgd last",
        ),
    ],
)
def test_mistakes_are_told(made: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        made()
    assert "\n" not in str(error.value)


def test_it_asks_for_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'midre-exp\[dp\]'"):
        dpsgd().check_execution(numerics=Numerics(), devices=1)
