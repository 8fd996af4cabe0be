"""Training a classifier under a defense, its resume and its result. Targets and evaluators go through here
alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet
from midre_exp.data.loader import BatchLoader, BatchSampler, place_images
from midre_exp.errors import ConfigError
from midre_exp.runtime import NoTracker, Placement, Runtime, give_memory_back
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import accuracy, answers, hits_by_class
from midre_exp.targets.training.batch import EpochBatches, Sampler, Share, Shuffled, Trained
from midre_exp.targets.training.hooks import DefenseHooks
from midre_exp.targets.training.launch import launch
from midre_exp.targets.training.module import REMEDY, ClassifierModule, next_batch
from midre_exp.targets.training.trainer import CHECKPOINT, make_loggers, make_trainer, tracker_loggers
from midre_exp.weights.checkpointer import Checkpointer
from midre_exp.weights.finite import require_finite

SELECT = ("last", "best_test")
_LOG = logging.getLogger(__name__)


class TrainedClassifier(NamedTuple):
    """The result of a training, or of loading a published classifier in its place."""

    model: Classifier  #: in the form that is attacked
    numbers: dict[str, float]  #: ``acc`` and ``train_acc`` in percent, parameter counts
    history: list[dict[str, float]]  #: by epoch; empty for a published classifier
    #: Of a published classifier the class it gives each test image, int64 [n].
    predicted: Tensor | None = None
    #: Test images of each class, and how many of them are recognised (``predict.hits_by_class``).
    by_class: Mapping[str, list[int]] | None = None
    #: What the defense trained of its own, for looking at; empty for most.
    defense_state: Mapping[str, Tensor] | None = None
    #: What the defense says of it (``Defense.summary``), by part; empty: nothing, as of one that was loaded.
    defended: Mapping[str, Any] = {}


def checked_recipe(defense: DefenseHooks, node: Mapping[str, Any], *, place: str = "") -> Mapping[str, Any]:
    """The recipe ``node`` as a defense wants it. Raises ConfigError for one that cannot work; ``place``: of
    the key it then names.
    """
    recipe = defense.recipe(node)
    if recipe["select"] not in SELECT:
        raise ConfigError(
            f"{place}recipe.select={recipe['select']} is unknown; use one of {', '.join(SELECT)}"
        )
    return recipe


def train_classifier(
    settings: Mapping[str, Any],
    data: Dataset,
    defense: DefenseHooks,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
    title: str,
    trusted: tuple[str, ...] = (),
    pretrained: Path | None = None,
    others: Dataset | None = None,
) -> TrainedClassifier:
    """Train ``settings`` (a node of conf/target) on the private images under a composed defense, on
    ``runtime.devices`` devices; from the weights of the file ``pretrained``, if given, with a fresh head.
    ``others``: other people, for a defense that needs some.

    Continues from ``work/last.ckpt`` if an earlier attempt left one, also inside an epoch, on one device to
    the same weights as an unbroken training. Raises ConfigError for a recipe that cannot work, DivergedError
    when losses, weights or answers stop being finite.
    """
    training = Training(settings, data, defense, seed, work, runtime, title, trusted, pretrained, others)
    train, test = data.load("train"), data.load("test")
    module = training.module(train.num_classes)
    model = module.model
    if settings["weights"] is None and defense.trainable(model) is not None:
        _LOG.warning(
            "%s: the defense freezes layers that nothing has trained; set target.weights to public weights",
            title,
        )
    if runtime.devices == 1:
        training.fit(module, train, test, make_loggers(work, runtime))
        state = module.own_state()
    else:
        state = _train_on_several_devices(training, module)
    if module.best is not None:
        model.load_state_dict(module.best["weights"])
        state = module.best.get("state", {})
    defense.on_inference(model)
    model = model.to(runtime.device).eval()
    require_finite(model.state_dict(), "training", REMEDY)
    last_epoch = len(module.history) - 1
    logits = answers(model, test, runtime.device)
    numbers = {
        "acc": accuracy(logits, test.labels),
        "train_acc": module.history[-1]["train_acc"],
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "parameters_trained": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
        "epochs": float(len(module.history)),
        "selected_epoch": float(last_epoch if module.best is None else module.best["epoch"]),
    }
    by_class = hits_by_class(logits, test.labels)
    trained = Trained(
        train=train,
        test=test,
        answers=lambda images: answers(model, images, runtime.device),
        epochs=len(module.history),
        seed=seed,
    )
    defended = defense.summary(trained)
    return TrainedClassifier(
        model, numbers, module.history, by_class=by_class, defense_state=state, defended=defended
    )


@dataclass(frozen=True)
class Training:
    """One training to be done: what ``train_classifier`` was asked for, in every process that takes part."""

    settings: Mapping[str, Any]
    data: Dataset
    defense: DefenseHooks
    seed: int
    work: Path
    runtime: Runtime
    title: str
    trusted: tuple[str, ...]
    pretrained: Path | None = None
    others: Dataset | None = None

    def module(self, num_classes: int) -> ClassifierModule:
        """The network as it is before the first step, with its defense and recipe."""
        recipe = checked_recipe(self.defense, self.settings["recipe"])
        model = assemble(
            self.settings,
            num_classes,
            self.defense,
            seed=self.seed,
            weights=self.settings["weights"] if self.pretrained is None else str(self.pretrained),
            fresh_head=self.pretrained is not None,
            trusted=self.trusted,
        )
        numerics = self.runtime.numerics
        self.defense.check_execution(numerics=numerics, devices=self.runtime.devices)
        numerics.reorder(model)
        return ClassifierModule(
            model, self.defense, recipe, seed=self.seed, trusted=self.trusted, numerics=numerics
        )

    def checkpoint(self) -> dict[str, Any] | None:
        """What an earlier attempt left, if it is intact."""
        return self._checkpointer().load()

    def _checkpointer(self) -> Checkpointer:
        return Checkpointer(self.work / CHECKPOINT, self.runtime.checkpoint_seconds, self.runtime.clock)

    def fit(
        self,
        module: ClassifierModule,
        train: ImageSet,
        test: ImageSet,
        loggers: list[Logger],
        rank: int = 0,
    ) -> None:
        """Train ``module`` from where an earlier attempt stopped, on the share of ``rank``."""
        recipe, share = module.recipe, Share(rank, self.runtime.devices)
        checkpointer = self._checkpointer()
        trainer = make_trainer(
            self.defense.trained_epochs(int(recipe["epochs"])),
            self.work,
            self.runtime,
            rank=rank,
            loggers=loggers,
            title=self.title,
            checkpointer=checkpointer,
        )
        device = trainer.strategy.root_device
        self.introduce(device, self.runtime.image_placement)
        train = self.defense.on_dataset(train, seed=self.seed)
        module.make_defense_state()
        state = self.checkpoint()
        epoch, batch = (0, 0) if state is None else next_batch(state)
        module.batches = EpochBatches(self._sampler(train, recipe), epoch, share, batch)
        test_batches = [share.of(batch) for batch in torch.arange(len(test)).split(int(recipe["batch_size"]))]
        try:
            with checkpointer:
                trainer.fit(
                    module,
                    _loader(train, module.batches, device, self.runtime),
                    _loader(test, test_batches, device, self.runtime),
                    ckpt_path=None if state is None else checkpointer.path,
                )
        except SystemExit as leaving:  # Lightning's way to answer Ctrl-C, as if it were the whole program
            if trainer.interrupted and leaving.code == 1:
                raise KeyboardInterrupt from None
            raise
        if trainer.interrupted:  # older versions return
            raise KeyboardInterrupt

    def introduce(self, device: torch.device, placement: Placement) -> None:
        """Show the defense the other people, if there are any."""
        if self.others is not None:
            people = place_images(self.others.load("train"), device, placement)
            self.defense.on_other_people(people, seed=self.seed)

    def _sampler(self, train: ImageSet, recipe: Mapping[str, Any]) -> Sampler:
        """The defense's sampler, or shuffled batches."""
        size, drop_last = recipe["batch_size"], recipe["drop_last"]
        own = self.defense.sampler(train.labels, batch_size=size, drop_last=drop_last, seed=self.seed)
        if own is not None:
            return own
        return Shuffled(len(train), batch_size=size, drop_last=drop_last, seed=self.seed)


def _loader(images: ImageSet, sampler: BatchSampler, device: torch.device, runtime: Runtime) -> BatchLoader:
    placed = place_images(images, device, runtime.image_placement)
    return BatchLoader(placed, sampler, prefetch=placed.images.device.type != device.type)


def _train_on_several_devices(training: Training, module: ClassifierModule) -> dict[str, Tensor]:
    """Train in one process per device, make ``module`` what they leave, and give what the defense trained."""
    runtime = training.runtime
    training.checkpoint()  # a damaged one is set aside once, with its warning
    training.introduce(torch.device("cpu"), "mapped")  # for the report
    give_memory_back(runtime.device)  # rank 0 shares the first GPU with this process
    launch(
        train_rank,
        replace(training, runtime=replace(runtime, tracker=NoTracker())),
        devices=runtime.devices,
        backend="nccl" if runtime.device.type == "cuda" else "gloo",
        log=partial(_log_to, tracker_loggers(runtime)),
    )
    state = training.checkpoint()
    if state is None:
        raise RuntimeError(f"a training on several devices left no {CHECKPOINT} in {training.work}")
    module.on_load_checkpoint(state)
    module.model.load_state_dict(_below("model.", state["state_dict"]))
    return {n: v for n, v in _below("defense_state.", state["state_dict"]).items() if isinstance(v, Tensor)}


def _below(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a state dict whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _log_to(loggers: list[Logger], metrics: dict[str, float], step: int | None) -> None:
    for logger in loggers:
        logger.log_metrics(metrics, step)


def train_rank(training: Training, rank: int, sender: Connection) -> None:
    """The part of one process in a training on several devices; rank 0 leaves the checkpoint."""
    train, test = training.data.load("train"), training.data.load("test")
    loggers = make_loggers(training.work, training.runtime, rank=rank, sender=sender)
    with training.runtime.numerics.applied(training.runtime.device):
        training.fit(training.module(train.num_classes), train, test, loggers, rank)
