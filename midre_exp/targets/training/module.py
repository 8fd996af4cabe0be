"""What Lightning trains: a classifier, its defense and its recipe, and the batches of each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.data.base import to_float
from midre_exp.plan.config import build
from midre_exp.seeding import derive, generator
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.training.batch import Batch, Sampler, TrainingProgress
from midre_exp.targets.training.split_forward import SplitForward


class ClassifierModule(pl.LightningModule):
    """One classifier, one composed defense, one recipe. All randomness is derived from (seed, epoch), so
    epochs can be resumed exactly.
    """

    def __init__(
        self,
        model: Classifier,
        defense: Any,
        recipe: Mapping[str, Any],
        *,
        seed: int,
        trusted: tuple[str, ...] = (),
    ):
        super().__init__()
        self.model = model
        self.defense = defense
        self.recipe = recipe
        self.seed = seed
        self.trusted = trusted
        self.augment = [build(step, trusted=trusted) for step in recipe["augment"]]
        self.rates = learning_rates(recipe, trusted=trusted)
        self.wanted_taps = tuple(defense.taps(model))
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.split: SplitForward | None = None  # where several processes share each batch
        self.sample: Tensor  # some training images to try that with
        self.batches: EpochBatches
        names = defense.trainable(model)
        if names is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in set(names))

    @property
    def progress(self) -> TrainingProgress:
        """Where training stands."""
        return TrainingProgress(self.current_epoch, int(self.recipe["epochs"]))

    def on_train_epoch_start(self) -> None:
        """Seed everything for this epoch and let schedules act."""
        torch.manual_seed(derive(self.seed, "epoch", self.current_epoch))
        self.generator = generator(self.seed, "batches", self.current_epoch, device=self.device)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rates[self.current_epoch]
        self.defense.on_epoch(self.model, self.progress)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        """Augment, defend, classify, add up the losses."""
        if self.batches.epoch != self.current_epoch:
            raise RuntimeError(
                f"batches of epoch {self.batches.epoch} are served in epoch {self.current_epoch}"
            )
        images, labels, index = batch
        images = to_float(images)
        for step in self.augment:
            images = step(images, self.generator)
        current = self.defense.on_batch(
            Batch(images, labels, index), self.model, self.progress, self.generator
        )
        output = self.classify(current.images, self.wanted_taps)
        base = self._classification_loss(output, current)
        if output.auxiliary is not None:
            second = output._replace(logits=output.auxiliary)
            base = base + self.model.auxiliary_weight * self._classification_loss(second, current)
        extras = self.defense.extra_losses(output, current, self.progress)
        total: Tensor = base + sum(extras.values()) if extras else base
        hits = (output.logits.detach().argmax(1) == current.labels).float().mean()
        shown = {
            "loss": total.detach(),
            "train_acc": 100 * hits,
            **{k: v.detach() for k, v in extras.items()},
        }
        self.log_dict(shown, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels))
        return total

    def classify(self, images: Tensor, taps: tuple[str, ...] = ()) -> Output:
        """The network's outputs for a whole batch, whoever computes them."""
        output: Output = (
            self.model(images, taps) if self.split is None else self.split(self.model, images, taps)
        )
        return output

    def _classification_loss(self, output: Output, batch: Batch) -> Tensor:
        """The defense's base loss, or cross entropy; the logits may have more classes than the data (an
        auxiliary head).
        """
        if batch.soft_labels is not None:
            spare = output.logits.shape[1] - batch.soft_labels.shape[1]
            batch = replace(batch, soft_labels=F.pad(batch.soft_labels, (0, spare)))
        base: Tensor | None = self.defense.base_loss(output, batch, self.progress)
        return F.cross_entropy(output.logits, batch.targets) if base is None else base

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        """Accuracy on clean held-out private images."""
        images, labels, _index = batch
        hits = (self.classify(to_float(images)).logits.argmax(1) == labels).float()
        self.log("test_acc", 100 * hits.mean(), on_epoch=True, prog_bar=True, batch_size=len(labels))

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's numbers, and the weights if they are the best so far and the recipe selects by
        test accuracy.
        """
        numbers = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        self.history.append({"epoch": float(self.current_epoch), **numbers})
        if self.recipe["select"] == "best_test" and numbers["test_acc"] > self.best.get("test_acc", -1.0):
            weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self.best = {"test_acc": numbers["test_acc"], "epoch": self.current_epoch, "weights": weights}

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """Plain containers only, so that the checkpoint loads without unpickling anything."""
        state["midre_exp"] = {
            "next_epoch": self.current_epoch + 1,
            "history": self.history,
            "best": self.best,
        }

    def on_train_start(self) -> None:
        """Find out before the first step whether this network can be shared by several processes at all."""
        if self.split is not None:
            self.split.check(self.model, to_float(self.sample.to(self.device)), self.wanted_taps)

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Take up what an interrupted attempt had kept."""
        self.history = list(state["midre_exp"]["history"])
        self.best = dict(state["midre_exp"]["best"])

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser over the parameters that train. Its learning rate is set at the start of
        each epoch.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return build(self.recipe["optimizer"], parameters, trusted=self.trusted)


def learning_rates(recipe: Mapping[str, Any], *, trusted: tuple[str, ...] = ()) -> list[float]:
    """The learning rate of every epoch under the recipe's scheduler, played through once on a stand-in
    parameter.

    A table instead of a stepping scheduler, because Lightning saves a checkpoint before it steps schedulers,
    so that a resumed run would lag one epoch behind.
    """
    optimizer = build(recipe["optimizer"], [torch.nn.Parameter(torch.zeros(1))], trusted=trusted)
    scheduler = recipe["scheduler"] and build(recipe["scheduler"], optimizer, trusted=trusted)
    rates = []
    for _ in range(int(recipe["epochs"])):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if scheduler and len(rates) < int(recipe["epochs"]):  # some schedulers refuse a step past their end
            scheduler.step()
    return rates


class EpochBatches:
    """The batches of a ``Sampler``, one epoch per iteration from ``epoch`` on. Lightning announces epochs
    only to its own samplers and iterates before its epoch hooks, so the count is kept here and checked by the
    module.
    """

    def __init__(self, sampler: Sampler, epoch: int):
        self.sampler = sampler
        self.epoch = epoch - 1

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        return iter(self.sampler.batches(self.epoch))

    def __len__(self) -> int:
        return len(self.sampler.batches(max(self.epoch, 0)))
