"""What training asks of a defense, hook by hook; ``midre_exp.defense.Defense`` documents and implements it.

A protocol, because defenses are built on top of the classifiers and their training, not below them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.numerics import Numerics
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.training.batch import Batch, Classify, Sampler, Trained, TrainingProgress


class DefenseHooks(Protocol):
    """The hooks of a composed defense in the order of their use."""

    @property
    def couples_images(self) -> bool: ...

    def check_execution(self, *, numerics: Numerics, devices: int) -> None: ...

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def modify_backbone(self, model: Classifier) -> None: ...

    def replace_head(self, model: Classifier) -> None: ...

    def trainable(self, model: Classifier) -> Sequence[str] | None: ...

    def taps(self, model: Classifier) -> Sequence[str]: ...

    def on_other_people(self, people: ImageSet, *, seed: int) -> None: ...

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet: ...

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None: ...

    def optimizer(
        self, optimizer: torch.optim.Optimizer, draws: Callable[[], torch.Generator]
    ) -> torch.optim.Optimizer: ...

    def training_call(self, model: Classifier) -> Callable[[Tensor, Sequence[str]], Output] | None: ...

    def trained_epochs(self, epochs: int) -> int: ...

    def state(self, model: Classifier) -> nn.Module | None: ...

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None: ...

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch: ...

    def before_step(
        self, batch: Batch, classify: Classify, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch: ...

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None: ...

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]: ...

    def reports(self, output: Output, batch: Batch) -> Mapping[str, Tensor]: ...

    def on_inference(self, model: Classifier) -> None: ...

    def summary(self, trained: Trained) -> Mapping[str, Any]: ...
