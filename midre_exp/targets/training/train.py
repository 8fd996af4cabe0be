"""Training a classifier under a defense, its resume and its result. Targets and evaluators go through here
alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from midre_exp.data.base import Dataset, ImageSet
from midre_exp.data.loader import BatchLoader, BatchSampler, place_images
from midre_exp.errors import ConfigError
from midre_exp.runtime import Runtime
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import accuracy
from midre_exp.targets.training.batch import Shuffled
from midre_exp.targets.training.module import ClassifierModule, EpochBatches, learning_rates
from midre_exp.targets.training.processes import Rank, spread
from midre_exp.targets.training.split_forward import SplitForward
from midre_exp.targets.training.trainer import CHECKPOINT, make_trainer, show_metrics
from midre_exp.tracking.tracker import NoTracker
from midre_exp.weights import checkpoint as checkpoints

__all__ = ["ClassifierModule", "Training", "learning_rates", "train_classifier", "train_rank"]

SELECT = ("last", "best_test")
_LOG = logging.getLogger(__name__)


def checked_recipe(defense: Any, node: Mapping[str, Any], *, place: str = "") -> Mapping[str, Any]:
    """The recipe ``node`` as a defense wants it. Raises ConfigError for one that cannot work; ``place``: of
    the key it then names.
    """
    recipe: Mapping[str, Any] = defense.recipe(node)
    if recipe["select"] not in SELECT:
        raise ConfigError(
            f"{place}recipe.select={recipe['select']} is unknown; use one of {', '.join(SELECT)}"
        )
    return recipe


@dataclass(frozen=True)
class Training:
    """One training to be done: what ``train_classifier`` was asked for, in every process that takes part."""

    settings: Mapping[str, Any]
    data: Dataset
    defense: Any
    seed: int
    work: Path
    runtime: Runtime
    title: str
    trusted: tuple[str, ...]

    def recipe(self) -> Mapping[str, Any]:
        """The recipe as the defense wants it. Raises ConfigError for one that cannot work."""
        return checked_recipe(self.defense, self.settings["recipe"])

    def module(self, num_classes: int) -> ClassifierModule:
        """The network as it is before the first step, with its defense and recipe."""
        recipe = self.recipe()
        weights = self.settings["weights"]
        model = assemble(
            self.settings, num_classes, self.defense, seed=self.seed, weights=weights, trusted=self.trusted
        )
        return ClassifierModule(model, self.defense, recipe, seed=self.seed, trusted=self.trusted)

    def checkpoint(self) -> dict[str, Any] | None:
        """What an earlier attempt left, if it is intact."""
        return checkpoints.load(self.work / f"{CHECKPOINT}.ckpt")

    def fit(self, module: ClassifierModule, train: ImageSet, test: ImageSet, rank: Rank | None) -> None:
        """Train ``module`` from where an earlier attempt stopped; with ``rank``, in step with the other
        processes.
        """
        recipe, runtime = module.recipe, self.runtime
        train = self.defense.on_dataset(train, seed=self.seed)
        batching = {"batch_size": recipe["batch_size"], "drop_last": recipe["drop_last"], "seed": self.seed}
        sampler = self.defense.sampler(train.labels, **batching)
        if sampler is None:
            sampler = Shuffled(len(train), **batching)
        state = self.checkpoint()
        batches = EpochBatches(sampler, 0 if state is None else state["midre_exp"]["next_epoch"])
        module.batches = batches
        if rank is not None:
            module.split = SplitForward(rank.index, rank.count)
            module.sample = train.images[: 2 * rank.count]
        trainer = make_trainer(recipe, self.work, runtime, self.title, rank)
        everything = list(torch.arange(len(test)).split(int(recipe["batch_size"])))
        loaders = [_batches(train, batches, runtime), _batches(test, everything, runtime)]
        resume = None if state is None else self.work / f"{CHECKPOINT}.ckpt"
        # before a checkpoint is read, which Lightning would round to single precision
        trainer.precision_plugin.convert_module(module)
        try:
            trainer.fit(module, loaders[0], loaders[1], ckpt_path=resume)
        except SystemExit as leaving:  # Lightning's way to answer Ctrl-C, as if it were the whole program
            if trainer.interrupted and leaving.code == 1:
                raise KeyboardInterrupt from None
            raise
        if trainer.interrupted:  # older versions return
            raise KeyboardInterrupt


def train_rank(rank: Rank, training: Training) -> None:
    """The share of one process in a training on several devices; leaves the last checkpoint as its result."""
    runtime = training.runtime
    device = runtime.device
    if device.type == "cuda":
        device = torch.device("cuda", (device.index or 0) + rank.index)
    runtime = replace(
        runtime, device=device, tracker=NoTracker(), progress=runtime.progress and rank.index == 0
    )
    training = replace(training, runtime=runtime)
    train, test = training.data.load("train"), training.data.load("test")
    training.fit(training.module(train.num_classes), train, test, rank)


def _train_on_several(training: Training, module: ClassifierModule) -> None:
    """Have other processes train, and make ``module`` what they leave."""
    runtime = training.runtime
    training.checkpoint()  # a damaged one is set aside, and told of, once
    task = replace(training, runtime=replace(runtime, tracker=NoTracker()))
    spread(train_rank, task, runtime, show_metrics(runtime))
    state = training.checkpoint()
    if state is None:
        raise RuntimeError(f"a training on several devices left no {CHECKPOINT}.ckpt in {training.work}")
    module.on_load_checkpoint(state)
    weights = state["state_dict"]
    module.to(next(value.dtype for value in weights.values() if value.is_floating_point()))  # as trained
    module.load_state_dict(weights)


def train_classifier(
    settings: Mapping[str, Any],
    data: Dataset,
    defense: Any,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
    title: str,
    trusted: tuple[str, ...] = (),
) -> tuple[Classifier, dict[str, float], list[dict[str, float]]]:
    """Train ``settings`` (a node of conf/target) on the private images under a composed defense, on
    ``runtime.devices`` devices.

    Continues from ``work/last.ckpt`` if an earlier attempt left one, to the same weights as an unbroken run,
    also from one on another number of devices. Returns the model in the form that is attacked, its numbers
    (``acc`` and ``train_acc`` in percent, parameter counts) and the history by epoch. Raises ConfigError for
    a recipe that cannot work.
    """
    training = Training(settings, data, defense, seed, work, runtime, title, trusted)
    recipe = training.recipe()
    train, test = data.load("train"), data.load("test")
    module = training.module(train.num_classes)
    model = module.model
    if settings["weights"] is None and defense.trainable(model) is not None:
        _LOG.warning(
            "%s: the defense freezes layers that nothing has trained; set target.weights to public weights",
            title,
        )
    if runtime.devices == 1:
        training.fit(module, train, test, None)
    else:
        _train_on_several(training, module)
    if module.best:
        model.load_state_dict(module.best["weights"])
    defense.on_inference(model)
    model = model.to(runtime.device).eval()
    last = module.history[-1]
    numbers = {
        "acc": accuracy(model, test, runtime.device),
        "train_acc": last["train_acc"],
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "parameters_trained": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
        "epochs": float(recipe["epochs"]),
        "selected_epoch": float(module.best.get("epoch", recipe["epochs"] - 1)),
    }
    return model, numbers, module.history


def _batches(images: ImageSet, sampler: BatchSampler, runtime: Runtime) -> BatchLoader:
    placed = place_images(images, runtime.device, runtime.image_placement)
    return BatchLoader(placed, sampler, prefetch=placed.images.device.type != runtime.device.type)
