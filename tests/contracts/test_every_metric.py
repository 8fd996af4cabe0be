"""What holds for every metric. A new one adds an entry to the list."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from midre_exp.metrics import (
    AttackAccuracy,
    Confidence,
    Evaluation,
    EvaluatorDistance,
    EvaluatorFid,
    FaceDistance,
    Fid,
    Judge,
    KnnDistance,
    LastSeedAccuracy,
    OfficialFid,
    PhaseAccuracy,
    Prdc,
    RebuiltEvaluator,
    StretchedKnnDistance,
    Unavailable,
)
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.trust import targets_of
from midre_exp.targets.base import Output
from tests.devices import CUDA

#: By what it is made of: logits, the evaluator's features, or a network of its own, here without weights.
OF_LOGITS = (
    *(AttackAccuracy(k=1, group=2), AttackAccuracy(k=5, group=2), LastSeedAccuracy(k=5, group=2)),
    *(Confidence(), PhaseAccuracy(), RebuiltEvaluator()),
)
OF_FEATURES = (
    *(KnnDistance(), EvaluatorDistance(), EvaluatorFid(), Prdc(k=1, features="evaluator")),
    StretchedKnnDistance(),
)
OF_WEIGHTS = (
    *(Fid(weights=None), FaceDistance(weights=None), Prdc(k=1, features="inception")),
    *(OfficialFid(weights=None, program="lomma"), OfficialFid(weights=None, program="plgmi")),
)
CLASSES = 6


class Network(torch.nn.Module):
    """Looks at single pixels; ``transform_input``, as in Inception, at their negatives."""

    transform_input = True

    def forward(self, images: torch.Tensor) -> Output:
        pixels = images.flatten(1) * (-1 if self.transform_input else 1)
        return Output(pixels[:, :CLASSES], pixels[:, CLASSES : CLASSES + 3])


def named(metrics: tuple[Callable[..., object], ...]):
    return pytest.mark.parametrize("metric", metrics, ids=lambda metric: type(metric).__name__)


@pytest.fixture
def evaluation() -> Evaluation:
    """Three restarts of four identities, half of them hits, and five private images of each identity."""
    draws = torch.Generator().manual_seed(0)
    labels, private_labels = torch.arange(4).repeat(3), torch.arange(4).repeat(5)
    phases = torch.randint(0, 256, (12, 2, 3, 4, 4), generator=draws, dtype=torch.uint8)
    logits = torch.randn(12, CLASSES, generator=draws)
    logits[torch.arange(0, 12, 2), labels[::2]] += 10
    return Evaluation(
        images=phases[:, -1].clone(),
        labels=labels,
        restarts=torch.arange(3).repeat_interleave(4),
        logits=logits,
        features=torch.randn(12, 3, generator=draws),
        private_features=torch.randn(20, 3, generator=draws),
        private_labels=private_labels,
        private_images=torch.randint(0, 256, (20, 3, 4, 4), generator=draws, dtype=torch.uint8),
        private_rows=torch.arange(20),
        device=torch.device("cpu"),
        confidence=torch.rand(12, generator=draws),
        phases=phases,
        judge=Judge(Network()),
    )


def reordered(evaluation: Evaluation, items: torch.Tensor, private: torch.Tensor) -> Evaluation:
    of_items = ("images", "labels", "restarts", "logits", "features", "confidence", "phases")
    of_private = ("private_features", "private_labels", "private_rows")
    changed = {name: getattr(evaluation, name)[items] for name in of_items}
    changed |= {name: getattr(evaluation, name)[private] for name in of_private}
    return replace(evaluation, **changed, shared={})


def test_the_list_is_complete():
    listed = {
        f"midre_exp.metrics.{type(metric).__name__}" for metric in (*OF_LOGITS, *OF_FEATURES, *OF_WEIGHTS)
    }
    nodes = [OmegaConf.to_container(OmegaConf.load(path)) for path in (CONF_DIR / "metrics").glob("*.yaml")]
    assert {target for node in nodes for target in targets_of(node["measure"])} == listed


@named((*OF_LOGITS, *OF_FEATURES))
def test_numbers_are_finite_and_the_same_again_and_in_any_order(metric, evaluation):
    numbers = metric(evaluation)
    assert numbers and all(type(value) is float and math.isfinite(value) for value in numbers.values())
    draws = torch.Generator().manual_seed(1)
    items, private = torch.randperm(12, generator=draws), torch.randperm(20, generator=draws)
    assert metric(evaluation) == numbers
    assert metric(reordered(evaluation, items, private)) == pytest.approx(numbers)


@pytest.mark.gpu
@named((*OF_LOGITS, *OF_FEATURES))
def test_a_gpu_measures_what_a_cpu_measures(metric, evaluation):
    on_gpu = replace(evaluation, device=CUDA, shared={})
    assert metric(on_gpu) == pytest.approx(metric(evaluation), rel=1e-3)


@named(OF_FEATURES)
def test_an_evaluator_of_logits_alone_is_a_reason(metric, evaluation):
    bare = replace(evaluation, features=torch.empty(12, 0), private_features=torch.empty(20, 0))
    with pytest.raises(Unavailable, match="gives logits alone and no features"):
        metric(bare)


@named(OF_LOGITS)
def test_what_is_made_of_logits_needs_neither_features_nor_private_images(metric, evaluation):
    none = torch.empty(0, dtype=torch.int64)
    bare = reordered(evaluation, torch.arange(12), none)
    numbers = metric(replace(bare, features=torch.empty(12, 0)))
    assert numbers and numbers.items() <= metric(evaluation).items()


@named(OF_WEIGHTS)
def test_weights_that_are_not_chosen_are_a_reason_that_names_the_key(metric, evaluation):
    with pytest.raises(Unavailable, match=r"set metrics\.measure\.\w+\.weights"):
        metric(evaluation)
