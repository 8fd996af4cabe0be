"""Lightning's trainer as this project uses it: on one device or as one rank of ``ddp``, with our checkpoints,
loggers and progress bar.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from midre_exp.runtime import Runtime
from midre_exp.tracking.tracker import WandbTracker
from midre_exp.weights import checkpoint as checkpoints
from midre_exp.weights.checkpointer import Checkpointer

#: The name of the file in a training's folder that an interrupted training continues from.
CHECKPOINT = "last.ckpt"
#: Steps between two questions of several processes whether a checkpoint is due, which wait for all of them.
_AGREE_EVERY = 50


def make_trainer(
    epochs: int,
    work: Path,
    runtime: Runtime,
    *,
    rank: int = 0,
    loggers: list[Logger],
    title: str,
    checkpointer: Checkpointer,
) -> pl.Trainer:
    """A trainer of ``epochs`` on ``runtime.devices`` devices from ``runtime.device`` on, in the process of
    ``rank``, which saves by ``checkpointer``.
    """
    _silence_lightning()
    on_gpu, several = runtime.device.type == "cuda", runtime.devices > 1
    first = runtime.device.index or 0
    callbacks: list[Callback] = [TimedCheckpoints(checkpointer)]
    if rank == 0 and (runtime.progress or runtime.log_every):
        callbacks.append(TrainingBar(title, runtime))
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=list(range(first, first + runtime.devices)) if on_gpu else runtime.devices,
        # a defense may leave parameters without a gradient in some epochs
        strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        sync_batchnorm=several and on_gpu,  # torch has none for CPUs, whose processes normalise their shares
        use_distributed_sampler=False,  # ``Share`` divides the batches
        # the processes are there, whatever cluster they were started on: Lightning is not to look for its own
        plugins=[VerifiedCheckpoints(checkpointer), LightningEnvironment()],
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        default_root_dir=str(work),
    )


def make_loggers(
    work: Path, runtime: Runtime, *, rank: int = 0, sender: Connection | None = None
) -> list[Logger]:
    """What rank 0 logs to: a CSV file of this attempt, and the tracker, which lies behind ``sender`` where
    another process holds it.
    """
    if rank > 0:
        return []
    attempt = len(list(work.glob("logs/attempt-*")))
    csv = CSVLogger(str(work), name="logs", version=f"attempt-{attempt}")
    return [csv, *(tracker_loggers(runtime) if sender is None else [ConnectionLogger(sender)])]


def tracker_loggers(runtime: Runtime) -> list[Logger]:
    """The tracker of this process as Lightning takes it."""
    return [WandbLogger(experiment=runtime.tracker.run)] if isinstance(runtime.tracker, WandbTracker) else []


def _silence_lightning() -> None:
    """Lightning's advice on loader workers and its hardware banner do not apply: batches are sliced from
    memory, runs report themselves.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",  # ``EpochBatches`` is told where
        ".*LeafSpec.*is deprecated.*",
        ".*`srun` command is available.*",
        "Grad strides do not match bucket view strides",
        r".*torch\.distributed\.nn\.functional\.all_gather is deprecated.*",  # called by Lightning
    ):
        warnings.filterwarnings("ignore", message=message)


class ConnectionLogger(Logger):
    """Sends metrics to the process that holds the tracker."""

    def __init__(self, sender: Connection):
        super().__init__()
        self.sender = sender

    @property
    def name(self) -> str:
        """The name of nothing: no file is written."""
        return "connection"

    @property
    def version(self) -> str:
        """The version of nothing: no file is written."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The tracker has the config already."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers at a step."""
        self.sender.send((metrics, step))


class TimedCheckpoints(Checkpoint):
    """A checkpoint when it is due, inside an epoch or after it, replacing the one before; after the last step
    only where several processes have to hand on what they trained (or after every step).
    """

    def __init__(self, checkpointer: Checkpointer):
        self.checkpointer = checkpointer

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Inside an epoch; after its last batch comes its end, and its test images before."""
        number = batch_idx + 1
        if number < trainer.num_training_batches and self._is_due(trainer, number):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """After the module has looked at the numbers of the epoch."""
        if trainer.current_epoch + 1 != trainer.max_epochs:
            is_wanted = self._is_due(trainer)
        else:
            is_wanted = trainer.world_size > 1 or not self.checkpointer.seconds
        if is_wanted:
            self._save(trainer)

    def _is_due(self, trainer: pl.Trainer, number: int = 0) -> bool:
        """What rank 0 finds, for all; asked at few of the steps, whose ``number`` all processes know."""
        if trainer.world_size == 1 or not self.checkpointer.seconds:
            return self.checkpointer.due()
        if number % _AGREE_EVERY:
            return False
        due: bool = trainer.strategy.broadcast(self.checkpointer.due())
        return due

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.checkpointer.path)


class VerifiedCheckpoints(CheckpointIO):
    """Lets Lightning write its checkpoints through ours: behind its back, atomic, checked on reading, never
    executing anything.
    """

    def __init__(self, checkpointer: Checkpointer):
        self.checkpointer = checkpointer

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write one checkpoint, of the only path there is."""
        self.checkpointer.save(checkpoint)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read one checkpoint, which the caller has found to be intact."""
        return checkpoints.load(Path(path)) or {}

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete one checkpoint."""
        Path(path).unlink(missing_ok=True)


class TrainingBar(Callback):
    """One bar over all steps of all epochs, with a time estimate for the whole training."""

    def __init__(self, title: str, runtime: Runtime):
        self.title, self.runtime = title, runtime

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Open the bar at the step an interrupted attempt had reached."""
        steps = int(trainer.num_training_batches)
        total = steps * int(trainer.max_epochs or 1)
        self.bar = self.runtime.shown(self.title, total, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """One step further; its loss is read off the device only when a line is due."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        self.bar.update(values=None if loss is None else lambda: {"loss": float(loss)})

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show the epoch's accuracy."""
        self.bar.note(f"test acc {float(trainer.callback_metrics['test_acc']):.1f}")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error starts on a line of its own."""
        if hasattr(self, "bar"):
            self.bar.close()
