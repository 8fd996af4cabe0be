from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import MIDRE, Batch, TrainingProgress, compose
from defenses.mid import MID, Bottleneck, bottleneck_kl, bottleneck_std, log_bottleneck_std
from midre_exp.errors import ConfigError
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier, Output
from tests.defenses.conftest import NO_QUESTIONS

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "defense_mid.json").read_text())
INPUTS = {
    name: torch.tensor(value, dtype=torch.int64 if name == "labels" else torch.float64)
    for name, value in GOLDEN["inputs"].items()
}
MU, RAW, EPS = (INPUTS[name] for name in ("mu", "raw", "eps"))
CLOCK = TrainingProgress(epoch=0, epochs=1)
VGG = {"model": {"_target_": "midre_exp.targets.VGG16", "image_size": 32, "width": 0.125}}
RESNET = {"model": {"_target_": "midre_exp.targets.ResNet", "width": 0.125, "stem": "small"}}
IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mid(**changes: Any) -> MID:
    values = {
        "beta": 0.003,
        "eval_noise": "sample",
        "drop_feature_norm": True,
    }
    return MID(**{**values, **changes})


def golden_head(eval_noise: str = "mean") -> Bottleneck:
    """A head whose statistics layer passes mu and raw through, with the golden last layer."""
    head = Bottleneck(6, 5, eval_noise=eval_noise).double()
    with torch.no_grad():
        head.statistics.weight.copy_(torch.eye(6))
        head.statistics.bias.zero_()
        head.classifier.weight.copy_(INPUTS["W (5,3)"])
        head.classifier.bias.copy_(INPUTS["b"])
    return head


def batch(labels: Tensor) -> Batch:
    n = len(labels)
    return Batch(torch.zeros(n, 3, 2, 2), labels, torch.arange(n))


# -- the bottleneck --


def test_spread_and_divergence_are_the_golden_ones() -> None:
    torch.testing.assert_close(bottleneck_std(RAW), torch.tensor(GOLDEN["std"]).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(log_bottleneck_std(RAW), bottleneck_std(RAW).log())
    kl = bottleneck_kl(MU, RAW)
    assert kl.tolist() == pytest.approx(GOLDEN["kl_per_sample"], rel=1e-7)
    assert float(kl.mean()) == pytest.approx(GOLDEN["kl"], rel=1e-7)
    assert float(bottleneck_kl(MU.float(), RAW.float()).mean()) == pytest.approx(GOLDEN["kl"], rel=1e-5)
    zero, limits = torch.zeros(1, 1).double(), GOLDEN["limits"]
    assert float(bottleneck_std(zero)) == pytest.approx(limits["softplus(-5)"], rel=1e-7)
    at_start = limits["kl_one_dim_at_mu0_std_softplus(-5)"]
    assert float(bottleneck_kl(zero, zero)) == pytest.approx(at_start, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_divergence_stays_finite_where_the_spread_underflows(dtype: torch.dtype) -> None:
    raw = torch.tensor([-1e4, -800.0, -100.0, -25.0, -24.9, 0.0, 200.0], dtype=dtype).requires_grad_()
    logarithm = log_bottleneck_std(raw)
    logarithm.sum().backward()
    logarithm = logarithm.detach()
    assert logarithm[:5].tolist() == pytest.approx([-10005, -805, -105, -30, -29.9], rel=1e-6)
    assert float(logarithm[6]) == pytest.approx(math.log(195), rel=1e-6)
    assert raw.grad is not None
    assert raw.grad[:5].tolist() == pytest.approx([1.0] * 5, rel=1e-5)
    assert bottleneck_kl(torch.zeros(1, 7, dtype=dtype), raw[None]).isfinite().all()


@pytest.mark.parametrize("case", GOLDEN["totals"], ids=lambda case: f"beta {case['beta']}")
def test_training_loss_and_gradients_are_the_golden_ones(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("defenses.mid.normal", lambda draws, *shape, device: EPS)
    head = golden_head().train()
    defense = mid(beta=case["beta"])
    defense.head = head
    features = torch.cat([MU, RAW], 1).requires_grad_()
    output = Output(head(features), features)
    torch.testing.assert_close(
        output.logits.detach(), torch.tensor(GOLDEN["logits"]).double(), rtol=1e-6, atol=1e-7
    )
    cross_entropy = F.cross_entropy(output.logits, INPUTS["labels"])
    assert float(cross_entropy.detach()) == pytest.approx(GOLDEN["ce"], rel=1e-7)
    total = cross_entropy + defense.extra_losses(output, batch(INPUTS["labels"]), CLOCK, **NO_QUESTIONS)["kl"]
    total.backward()
    assert float(total.detach()) == pytest.approx(case["total"], rel=1e-7)
    assert features.grad is not None
    expected = torch.cat([torch.tensor(case[f"grad_{name}"]).double() for name in ("mu", "raw")], 1)
    torch.testing.assert_close(features.grad, expected, rtol=1e-6, atol=1e-8)


def test_with_the_noise_off_the_logits_are_the_golden_means() -> None:
    logits = golden_head("mean").eval()(torch.cat([MU, RAW], 1))
    expected = torch.tensor(GOLDEN["logits_with_eps_zero"]).double()
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)


def test_noise_outside_training_is_its_own_and_can_be_rewound() -> None:
    head, features = golden_head("sample").eval(), torch.cat([MU, RAW], 1)
    state = torch.random.get_rng_state()
    first, second = head(features), head(features)
    assert not torch.equal(first, second)  # accuracy and gradients are random, as released
    assert torch.equal(torch.random.get_rng_state(), state)
    head.rewind()
    torch.manual_seed(5)
    assert torch.equal(head(features), first)
    copy = deepcopy(head)
    assert torch.equal(copy(features), second)
    assert torch.equal(head(features), second)  # a copy draws for itself


def test_noise_has_the_spread_the_statistics_name() -> None:
    head = golden_head("sample").eval()
    with torch.no_grad():
        head.classifier = nn.Linear(3, 3).double()
        head.classifier.weight.copy_(torch.eye(3))
        head.classifier.bias.zero_()
        drawn = head(torch.cat([MU, RAW], 1)[:1].expand(20000, -1))
    assert drawn.std(0).tolist() == pytest.approx(GOLDEN["std"][0], rel=0.03)
    assert drawn.mean(0).tolist() == pytest.approx(MU[0].tolist(), abs=0.03)


def test_noise_in_training_follows_the_global_generator_like_dropout() -> None:
    head, features = golden_head().train(), torch.cat([MU, RAW], 1)
    torch.manual_seed(1)
    first = head(features)
    assert not torch.equal(head(features), first)
    torch.manual_seed(1)
    assert torch.equal(head(features), first)


def test_mixed_precision_leaves_the_divergence_in_single_precision() -> None:
    model = assemble(VGG, 4, compose(mid=mid()), seed=0)
    defense = mid()
    defense.replace_head(assemble(RESNET, 4, compose(), seed=0))
    assert defense.head is not None
    with torch.autocast("cpu", torch.bfloat16):
        output = model(IMAGES)
        kl = defense.extra_losses(
            Output(output.logits, torch.rand(5, 64) - 300), batch(torch.arange(5)), CLOCK, **NO_QUESTIONS
        )
    assert kl["kl"].dtype == torch.float32 and kl["kl"].isfinite()
    assert output.logits.isfinite().all()


# -- surgery --


def test_the_bottleneck_is_half_as_wide_and_vgg_loses_its_feature_norm() -> None:
    plain = assemble(VGG, 4, compose(), seed=0)
    model = assemble(VGG, 4, compose(mid=mid()), seed=0)
    kept = assemble(VGG, 4, compose(mid=mid(drop_feature_norm=False)), seed=0)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if "fc_layer" in key}
    assert shapes == {
        "fc_layer.statistics.weight": (64, 64),
        "fc_layer.statistics.bias": (64,),
        "fc_layer.classifier.weight": (4, 32),
        "fc_layer.classifier.bias": (4,),
    }
    assert "bn.weight" not in model.state_dict() and "bn.weight" in kept.state_dict()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in plain.state_dict().items() if "feature" in k)


def test_the_bottleneck_follows_weights_of_a_file_without_a_head(tmp_path: Path) -> None:
    plain = assemble(VGG, 4, compose(), seed=3)
    state = {key: value for key, value in plain.state_dict().items() if key.startswith("feature.")}
    torch.save(state, tmp_path / "backbone.pth")
    model = assemble(VGG, 4, compose(mid=mid()), seed=0, weights=str(tmp_path / "backbone.pth"))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert isinstance(model.head, Bottleneck)


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = assemble(VGG, 4, compose(mid=mid()), seed=0)
    with pytest.raises(ConfigError, match=r"the head of VGG16 is Bottleneck"):
        mid().replace_head(model)


def test_the_divergence_belongs_to_the_model_in_training() -> None:
    defense = mid()
    first, second = (assemble(VGG, 4, compose(mid=defense), seed=seed) for seed in (0, 1))
    assert defense.head is second.head
    defense.on_epoch(first, CLOCK)
    assert defense.head is first.head


def test_losses_without_surgery_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="replace_head"):
        mid().extra_losses(
            Output(torch.zeros(1, 2), torch.zeros(1, 4)), batch(torch.zeros(1).long()), CLOCK, **NO_QUESTIONS
        )
    with pytest.raises(RuntimeError, match="no bottleneck"):
        mid().on_inference(assemble(VGG, 4, compose(), seed=0))


# -- with the rest --


def weights(model: Classifier) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_interrupted_training_draws_the_noise_of_an_unbroken_one(tiny_training: Any) -> None:
    midre = MIDRE(a_l=0.1, a_h=0.4, area="uniform", rounding="round", fill=[0, 0, 0], fill_space="pixel")
    parts = {"midre": midre, "mid": mid(beta=1e-4)}
    whole, numbers, history = tiny_training.train("whole", **parts)
    assert {"loss", "mid/kl", "test_acc"} < set(history[0]) and math.isfinite(history[-1]["mid/kl"])
    with pytest.raises(RuntimeError, match="killed"):
        tiny_training.train("broken", **parts, seen=tiny_training.Seen(killed_at=2))
    resumed, again, whole_history = tiny_training.train("broken", **parts)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole_history == history and again["acc"] == numbers["acc"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"beta": -1.0}, "defense.mid.beta=-1.0"),
        ({"beta": "low"}, "defense.mid.beta=low"),
        ({"beta": float("inf")}, "defense.mid.beta=inf"),
        ({"eval_noise": "off"}, "defense.mid.eval_noise=off is unknown; use one of sample, mean"),
        ({"drop_feature_norm": "no"}, "defense.mid.drop_feature_norm=no must be true or false"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        mid(**changes)
    assert named in str(error.value)
