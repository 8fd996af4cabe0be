from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from defenses import Defense, TrainingProgress, compose
from defenses.early_stopping import EarlyStopping
from defenses.nls import NLS
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier
from tests.defenses.networks import state, train

FALLING = {
    "epochs": 5,
    "scheduler": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [1, 2], "gamma": 0.1},
}


class Watch(Defense):
    """Keeps the weights and the time with which each epoch starts."""

    def __init__(self) -> None:
        self.starts: list[Tensor] = []
        self.progress: list[TrainingProgress] = []

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        self.starts.append(state(model))
        self.progress.append(progress)


@pytest.mark.parametrize(
    ("share", "epochs", "trained"), [(1, 60, 60), (0.3, 60, 18), (0.05, 60, 3), (0.01, 18, 1), (0.9, 1, 1)]
)
def test_the_share_is_rounded_to_whole_epochs_and_leaves_at_least_one(
    share: float, epochs: int, trained: int
) -> None:
    assert EarlyStopping(share=share).trained_epochs(epochs) == trained
    assert compose(early=EarlyStopping(share=share)).trained_epochs(epochs) == trained


def test_the_stopped_network_is_the_whole_training_at_that_epoch(tmp_path: Path) -> None:
    watch = Watch()
    train(tmp_path / "whole", "resnet18", FALLING, watch=watch)
    stopped, numbers, history = train(
        tmp_path / "stopped", "resnet18", FALLING, early_stopping=EarlyStopping(share=0.6)
    )
    assert torch.equal(state(stopped), watch.starts[3])
    assert len(history) == numbers["epochs"] == 3 and numbers["selected_epoch"] == 2


def test_schedules_of_other_defenses_are_those_of_the_whole_training(tmp_path: Path) -> None:
    watch = Watch()
    nls = NLS(alpha=-0.05, schedule="linear", start=0.2, full=0.8)
    train(tmp_path, "resnet18", FALLING, early_stopping=EarlyStopping(share=0.4), nls=nls, watch=watch)
    assert watch.progress == [TrainingProgress(0, 5), TrainingProgress(1, 5)]


@pytest.mark.parametrize("share", [0, 1.1, -0.5, "half"])
def test_values_out_of_range_are_refused_by_name(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"defense.early_stopping.share={share} must be a share"):
        EarlyStopping(share=share)
