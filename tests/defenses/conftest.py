"""A training small enough for the test of any defense: 18 images of three colours, a narrow VGG16, three
epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses import Batch, Defense, TrainingProgress, compose
from midre_exp.data.base import Dataset, ImageSet, Part, Role
from midre_exp.runtime import Runtime
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.training.train import train_classifier

RECIPE = {
    "epochs": 3,
    "batch_size": 6,
    "drop_last": False,
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02, "momentum": 0.9},
    "scheduler": None,
    "augment": [],
    "select": "last",
}
MODEL = {"_target_": "midre_exp.targets.VGG16", "image_size": 32, "width": 0.125}


def ask_nobody(images: Tensor, taps: Sequence[str] = ()) -> Output:
    """The ``classify`` of a defense that has no question."""
    raise AssertionError("a network is asked")


#: What ``extra_losses`` is handed where only the output of the step counts.
NO_QUESTIONS: dict[str, Any] = {"classify": ask_nobody, "generator": None}


class Colours(Dataset):
    """Three classes told apart by their colour, in noise; six images of each."""

    def load(self, part: Part) -> ImageSet:
        labels = torch.arange(3).repeat(6)
        noise = torch.randint(0, 60, (18, 3, 32, 32), generator=torch.Generator().manual_seed(len(part)))
        colour = 180 * torch.eye(3).long()[labels][:, :, None, None]
        return ImageSet((noise + colour).byte(), labels, ("r", "g", "b"))

    def fingerprint(self, role: Role) -> dict[str, object]:
        return {}


class Others(Dataset):
    """Nine more people, of three images each."""

    def load(self, part: Part) -> ImageSet:
        images = torch.randint(0, 256, (27, 3, 32, 32), generator=torch.Generator().manual_seed(9)).byte()
        return ImageSet(images, torch.arange(9).repeat_interleave(3), tuple("abcdefghi"))

    def fingerprint(self, role: Role) -> dict[str, object]:
        return {}


class Seen(Defense):
    """Keeps the batches that reach it, by epoch; may be killed at the start of one."""

    def __init__(self, killed_at: int | None = None):
        self.killed_at = killed_at
        self.batches: dict[int, list[Batch]] = {}

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        if progress.epoch == self.killed_at:
            raise RuntimeError("killed")

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        assert model.training
        self.batches.setdefault(progress.epoch, []).append(batch)
        return batch

    def index(self, epoch: int) -> Tensor:
        """Which images were seen, in order."""
        return torch.cat([batch.index for batch in self.batches[epoch]])

    def images(self, epoch: int) -> Tensor:
        """The images seen, in the order of the data set."""
        return torch.cat([batch.images for batch in self.batches[epoch]])[self.index(epoch).argsort()]


@pytest.fixture
def tiny_training(tmp_path: Path) -> SimpleNamespace:
    """``train(folder, name=defense, ...)`` returns (model, numbers, history); ``Seen`` watches it, ``data``
    is its data.
    """

    def train(folder: str, **parts: Defense) -> tuple[Classifier, dict[str, float], list[dict[str, float]]]:
        settings: dict[str, Any] = {"name": "vgg16", "model": MODEL, "weights": None, "recipe": RECIPE}
        (tmp_path / folder).mkdir(exist_ok=True)
        return train_classifier(
            settings,
            Colours(),
            compose(**parts),
            seed=0,
            work=tmp_path / folder,
            runtime=Runtime(quiet=True, checkpoint_seconds=0),
            title="t",
        )[:3]

    return SimpleNamespace(train=train, Seen=Seen, data=Colours())
