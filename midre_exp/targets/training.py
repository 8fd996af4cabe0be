"""Training a classifier under a defense: the Lightning module, its data and its resume. Targets and evaluators go through here alike."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.plugins import CheckpointIO
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from midre_exp import checkpoint as checkpoints
from midre_exp.config import build
from midre_exp.data.base import Dataset, ImageSet, to_float
from midre_exp.data.serving import Batches, Order, serve
from midre_exp.errors import ConfigError
from midre_exp.runtime import Runtime
from midre_exp.seeding import derive, generator
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.batch import Batch, Clock, Sampler, Shuffled
from midre_exp.targets.predict import accuracy
from midre_exp.tracking import WandbTracker

SELECT = ("last", "best_test")
_LOG = logging.getLogger(__name__)


class ClassifierModule(pl.LightningModule):
    """One classifier, one composed defense, one recipe. All randomness is derived from (seed, epoch), so epochs can be resumed exactly."""

    def __init__(
        self,
        model: Classifier,
        defense: Any,
        recipe: Mapping[str, Any],
        *,
        seed: int,
        allow: tuple[str, ...] = (),
    ):
        super().__init__()
        self.model = model
        self.defense = defense
        self.recipe = recipe
        self.seed = seed
        self.allow = allow
        self.augment = [build(step, allow=allow) for step in recipe["augment"]]
        self.rates = learning_rates(recipe, allow=allow)
        self.wanted_taps = tuple(defense.taps(model))
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}
        self.batches: _EpochBatches

    @property
    def clock(self) -> Clock:
        """Where training stands."""
        return Clock(self.current_epoch, int(self.recipe["epochs"]))

    def on_train_epoch_start(self) -> None:
        """Seed everything for this epoch and let schedules act."""
        torch.manual_seed(derive(self.seed, "epoch", self.current_epoch))
        self.generator = generator(self.seed, "batches", self.current_epoch, device=self.device)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rates[self.current_epoch]
        self.defense.on_epoch(self.model, self.clock)

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
        current = self.defense.on_batch(Batch(images, labels, index), self.model, self.clock, self.generator)
        output: Output = self.model(current.images, self.wanted_taps)
        base = self._classification_loss(output, current)
        if output.auxiliary is not None:
            second = output._replace(logits=output.auxiliary)
            base = base + self.model.auxiliary_weight * self._classification_loss(second, current)
        extras = self.defense.extra_losses(output, current, self.clock)
        total: Tensor = base + sum(extras.values()) if extras else base
        hits = (output.logits.detach().argmax(1) == current.labels).float().mean()
        shown = {
            "loss": total.detach(),
            "train_acc": 100 * hits,
            **{k: v.detach() for k, v in extras.items()},
        }
        self.log_dict(shown, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels))
        return total

    def _classification_loss(self, output: Output, batch: Batch) -> Tensor:
        """The defense's base loss, or cross entropy; the logits may have more classes than the data (an auxiliary head)."""
        if batch.soft_labels is not None:
            spare = output.logits.shape[1] - batch.soft_labels.shape[1]
            batch = replace(batch, soft_labels=F.pad(batch.soft_labels, (0, spare)))
        base: Tensor | None = self.defense.base_loss(output, batch, self.clock)
        return F.cross_entropy(output.logits, batch.targets) if base is None else base

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        """Accuracy on clean held-out private images."""
        images, labels, _index = batch
        hits = (self.model(to_float(images)).logits.argmax(1) == labels).float()
        self.log("test_acc", 100 * hits.mean(), on_epoch=True, prog_bar=True, batch_size=len(labels))

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's numbers, and the weights if they are the best so far and the recipe selects by test accuracy."""
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

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Take up what an interrupted attempt had kept."""
        self.history = list(state["midre_exp"]["history"])
        self.best = dict(state["midre_exp"]["best"])

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser over the parameters that train. Its learning rate is set at the start of each epoch."""
        names = self.defense.trainable(self.model)
        if names is not None:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in set(names))
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return build(self.recipe["optimizer"], parameters, allow=self.allow)


def learning_rates(recipe: Mapping[str, Any], *, allow: tuple[str, ...] = ()) -> list[float]:
    """The learning rate of every epoch under the recipe's scheduler, played through once on a stand-in parameter.

    A table instead of a stepping scheduler, because Lightning saves a checkpoint before it steps schedulers, so that a resumed run would
    lag one epoch behind.
    """
    optimizer = build(recipe["optimizer"], [torch.nn.Parameter(torch.zeros(1))], allow=allow)
    scheduler = recipe["scheduler"] and build(recipe["scheduler"], optimizer, allow=allow)
    rates = []
    for _ in range(int(recipe["epochs"])):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if scheduler and len(rates) < int(recipe["epochs"]):  # some schedulers refuse a step past their end
            scheduler.step()
    return rates


class _EpochBatches:
    """The batches of a ``Sampler``, one epoch per iteration from ``epoch`` on. Lightning announces epochs only to its own samplers
    and iterates before its epoch hooks, so the count is kept here and checked by the module.
    """

    def __init__(self, sampler: Sampler, epoch: int):
        self.sampler = sampler
        self.epoch = epoch - 1

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        return iter(self.sampler.batches(self.epoch))

    def __len__(self) -> int:
        return len(self.sampler.batches(max(self.epoch, 0)))


def _batches(images: ImageSet, order: Order, runtime: Runtime) -> Batches:
    served = serve(images, runtime.device, runtime.serve)
    return Batches(served, order, ahead=served.images.device.type != runtime.device.type)


def _quiet_lightning() -> None:
    """Lightning's advice on loader workers and its hardware banner do not apply: batches are sliced from memory, runs report themselves."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings(
        "ignore", message=".*number of training batches.*smaller than the logging interval.*"
    )
    warnings.filterwarnings(
        "ignore", message="Checkpoint directory .* exists and is not empty"
    )  # ours: resuming
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")


def train_classifier(
    settings: Mapping[str, Any],
    data: Dataset,
    defense: Any,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
    title: str,
    allow: tuple[str, ...] = (),
) -> tuple[Classifier, dict[str, float], list[dict[str, float]]]:
    """Train ``settings`` (a node of conf/target) on the private images under a composed defense.

    Continues from ``work/last.ckpt`` if an earlier attempt left one, to the same weights as an unbroken run. Returns the model in the form
    that is attacked, its numbers (``acc`` and ``train_acc`` in percent, parameter counts) and the history by epoch.
    Raises ConfigError for a recipe that cannot work.
    """
    recipe = defense.recipe(settings["recipe"])
    if recipe["select"] not in SELECT:
        raise ConfigError(f"recipe.select={recipe['select']} is unknown; use one of {', '.join(SELECT)}")
    train, test = data.load("train"), data.load("test")
    model = assemble(
        settings, train.num_classes, defense, seed=seed, weights=settings["weights"], allow=allow
    )
    if settings["weights"] is None and defense.trainable(model) is not None:
        _LOG.warning(
            "%s: the defense freezes layers that nothing has trained; set target.weights to public weights",
            title,
        )
    module = ClassifierModule(model, defense, recipe, seed=seed, allow=allow)
    train = defense.on_dataset(train, seed=seed)
    batching = {"batch_size": recipe["batch_size"], "drop_last": recipe["drop_last"], "seed": seed}
    sampler = defense.sampler(train.labels, **batching)
    if sampler is None:
        sampler = Shuffled(len(train), **batching)

    resume = work / "last.ckpt"
    state = checkpoints.load(resume)
    batches = _EpochBatches(sampler, 0 if state is None else state["midre_exp"]["next_epoch"])
    module.batches = batches
    _quiet_lightning()
    trainer = pl.Trainer(
        max_epochs=recipe["epochs"],
        accelerator="gpu" if runtime.device.type == "cuda" else "cpu",
        devices=[runtime.device.index or 0] if runtime.device.type == "cuda" else 1,
        precision=recipe["precision"],
        logger=_loggers(work, runtime),
        callbacks=_callbacks(work, runtime, title),
        # one process on one device, whatever cluster it was started on: Lightning is not to look for its own
        plugins=[VerifiedCheckpoints(), LightningEnvironment()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        default_root_dir=str(work),
    )
    everything = list(torch.arange(len(test)).split(int(recipe["batch_size"])))
    loaders = [_batches(train, batches, runtime), _batches(test, everything, runtime)]
    trainer.fit(module, loaders[0], loaders[1], ckpt_path=None if state is None else resume)
    if trainer.interrupted:
        raise KeyboardInterrupt
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


def _loggers(work: Path, runtime: Runtime) -> list[Logger]:
    attempt = len(list(work.glob("logs/attempt-*")))
    loggers: list[Logger] = [CSVLogger(str(work), name="logs", version=f"attempt-{attempt}")]
    if isinstance(runtime.tracker, WandbTracker):
        loggers.append(WandbLogger(experiment=runtime.tracker.run))
    return loggers


def _callbacks(work: Path, runtime: Runtime, title: str) -> list[Callback]:
    # Without a monitored value the newest checkpoint replaces the one before, so the folder holds exactly last.ckpt.
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=work, filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False
        )
    ]
    if runtime.progress:
        callbacks.append(TrainingBar(title))
    return callbacks


class VerifiedCheckpoints(CheckpointIO):
    """Lets Lightning write its checkpoints through ours: atomic, checked on reading, never executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one checkpoint."""
        checkpoints.save(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read one checkpoint, which the caller has found to be intact."""
        return checkpoints.load(Path(path)) or {}

    def remove_checkpoint(self, path: Any) -> None:
        """Delete one checkpoint."""
        Path(path).unlink(missing_ok=True)


class TrainingBar(Callback):
    """One bar over all steps of all epochs, with a time estimate for the whole training."""

    def __init__(self, title: str):
        self.title = title

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Open the bar at the step an interrupted attempt had reached."""
        steps = int(trainer.num_training_batches)
        self.bar = tqdm(
            total=steps * int(trainer.max_epochs or 1),
            initial=steps * trainer.current_epoch,
            desc=self.title,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """One step further."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show the epoch's accuracy."""
        self.bar.set_postfix_str(f"test acc {float(trainer.callback_metrics['test_acc']):.1f}")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error starts on a line of its own."""
        if hasattr(self, "bar"):
            self.bar.close()
