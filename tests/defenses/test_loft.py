from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import LoFt, compose, low_rank_head
from defenses.loft import ACTIVATIONS
from midre_exp.errors import ConfigError
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from tests.defenses.networks import IMAGES, network, state
from tests.defenses.test_mid import VGG

FUNCTIONS = {
    "tanh": torch.tanh,
    "none": lambda x: x,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(head: nn.Module) -> nn.Module:
    """``head`` in double precision with drawn weights and statistics."""
    head.double()
    drawn = seeded(0)
    for name, value in head.state_dict().items():
        if value.is_floating_point():
            numbers = torch.rand(value.shape, generator=drawn, dtype=torch.float64)
            value.copy_(numbers + 0.5 if "running_var" in name else 2 * numbers - 1)
    return head


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_the_head_is_norm_linear_function_linear(activation: str, training: bool) -> None:
    head = filled(low_rank_head(6, 5, rank=3, activation=activation)).train(training)
    features = torch.randn(7, 6, generator=seeded(1), dtype=torch.float64)
    weights = head.state_dict()
    mean, var = weights["0.running_mean"].clone(), weights["0.running_var"].clone()
    if training:
        mean, var = features.mean(0), features.var(0, unbiased=False)
    normed = (features - mean) / (var + 1e-5).sqrt() * weights["0.weight"] + weights["0.bias"]
    low = FUNCTIONS[activation](normed @ weights["1.weight"].T + weights["1.bias"])
    torch.testing.assert_close(head(features), low @ weights["3.weight"].T + weights["3.bias"])


def gradients(head: nn.Module) -> Tensor:
    features = torch.randn(9, 8, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(head(features), torch.arange(9) % 5, reduction="sum")
    return torch.autograd.grad(loss, features)[0]


def test_gradients_of_a_batch_have_the_rank_of_the_head_and_more_where_the_norm_couples_images() -> None:
    head = filled(low_rank_head(8, 5, rank=3, activation="tanh"))
    assert int(torch.linalg.matrix_rank(gradients(head.eval()))) == 3
    assert int(torch.linalg.matrix_rank(gradients(head.train()))) > 3


def test_features_stay_those_of_the_network_and_null_leaves_the_head_alone() -> None:
    plain, off, ours = (
        network("resnet18", **parts).eval()
        for parts in (
            {},
            {"loft": LoFt(rank=None, activation="tanh")},
            {"loft": LoFt(rank=2, activation="tanh")},
        )
    )
    assert torch.equal(state(plain), state(off)) and isinstance(off.head, nn.Linear)
    assert torch.equal(plain(IMAGES).features, ours(IMAGES).features)
    assert isinstance(ours.head, nn.Sequential) and ours.head[1].weight.shape[0] == 2


def test_a_network_that_normalises_its_features_gets_no_second_norm() -> None:
    model = assemble(VGG, 3, compose(loft=LoFt(rank=2, activation="tanh")), seed=0)
    assert [type(layer) for layer in model.head] == [nn.Identity, nn.Linear, nn.Tanh, nn.Linear]


def test_an_informed_attacker_sees_the_same_answers_and_gradients_past_saturation() -> None:
    defense = LoFt(rank=2, activation="tanh")
    model = network("resnet18", loft=defense).eval()
    with torch.no_grad():
        model.head[1].bias.fill_(200.0)  # all saturated
    own = defense.informed(model).network(model)
    torch.testing.assert_close(own(IMAGES).logits, model(IMAGES).logits, rtol=0, atol=0)

    def gradient(of: Classifier) -> Tensor:
        images = IMAGES.clone().requires_grad_()
        return torch.autograd.grad(of(images).logits[:, 0].sum(), images)[0]

    assert not gradient(model).any() and gradient(own).any()
    assert not LoFt(rank=2, activation="none").informed(model).target


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match=r"defense\.loft\.rank=0 must be a whole number"):
        LoFt(rank=0, activation="tanh")
    with pytest.raises(
        ConfigError, match=r"defense\.loft\.activation=gelu is unknown; use one of tanh, none"
    ):
        LoFt(rank=2, activation="gelu")
    model = network("resnet18")
    model.head = nn.Sequential(nn.Linear(64, 3))
    with pytest.raises(
        ConfigError, match=r"defense\.loft replaces a linear layer, and the head of ResNet is"
    ):
        LoFt(rank=2, activation="tanh").replace_head(model)
