"""One small network of every family with skip connections, and a training of it that takes a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from defenses import Defense, compose
from midre_exp.data.base import Dataset
from midre_exp.runtime import Runtime
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.train import train_classifier
from tests.defenses.conftest import RECIPE, Colours, Others
from tests.devices import CPU

_TARGETS = "midre_exp.targets"
#: Node ``model`` of a target by name of the target; 32 px.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {"_target_": f"{_TARGETS}.ResNet", "width": 0.125, "stem": "half"},
    "resnet50": {
        "_target_": f"{_TARGETS}.ResNet",
        "depth": 50,
        "blocks": [1, 1, 1, 2],
        "width": 0.125,
        "stem": "half",
    },
    "resnest101": {
        "_target_": f"{_TARGETS}.ResNeSt",
        "width": 0.125,
        "blocks": [1, 1, 1, 2],
        "stem": "half",
    },
    "ir152": {"_target_": f"{_TARGETS}.IR", "image_size": 32, "blocks": [1, 1, 2, 2], "width": 0.125},
    "vggface_resnet50": {"_target_": f"{_TARGETS}.VGGFaceResNet50", "blocks": [1, 1, 1, 2], "width": 0.125},
    "inception_resnet_v1": {
        "_target_": f"{_TARGETS}.InceptionResNetV1",
        "width": 0.125,
        "repeats": [1, 1, 1],
        "stem": "small",
    },
    "maxvit": {
        "_target_": f"{_TARGETS}.MaxViT",
        "image_size": 32,
        "width": 0.1875,
        "channels": [64, 128, 256],
        "blocks": [1, 1, 2],
        "partition": 2,
        "head_dim": 12,
    },
    "densenet121": {
        "_target_": f"{_TARGETS}.DenseNet",
        "width": 0.375,
        "blocks": [1, 1, 2, 4],
        "stem": "half",
    },
}
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(name: str, seed: int = 0, weights: str | None = None, **parts: Defense) -> Classifier:
    """The network ``name`` for three classes as the defenses shape it."""
    return assemble({"model": NETWORKS[name]}, 3, compose(**parts), seed=seed, weights=weights)


def train(
    work: Path, name: str, recipe: dict[str, Any] | None = None, **parts: Defense
) -> tuple[Classifier, dict[str, float], list[dict[str, float]]]:
    """Train the network ``name`` in the folder ``work``; continues what an interrupted attempt left there."""
    return train_node(work, NETWORKS[name], recipe or {}, **parts)


def train_node(
    work: Path,
    node: dict[str, Any],
    recipe: dict[str, Any],
    *,
    device: torch.device = CPU,
    others: Dataset | None = None,
    seconds: float | None = None,
    **parts: Defense,
) -> tuple[Classifier, dict[str, float], list[dict[str, float]]]:
    """The same for the network of a node ``model``, which may also be one that a test defines."""
    work.mkdir(exist_ok=True)
    runtime = Runtime(quiet=True, device=device)
    settings = {"name": "small", "model": node, "weights": None, "recipe": {**RECIPE, **recipe}}
    return train_classifier(
        settings,
        Colours(),
        compose(**parts),
        seed=0,
        work=work,
        runtime=runtime if seconds is None else replace(runtime, checkpoint_seconds=seconds),
        title="t",
        trusted=("tests",),
        others=others or Others(),
    )[:3]


def state(model: Classifier) -> Tensor:
    """Everything in the state dict as one vector."""
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])
