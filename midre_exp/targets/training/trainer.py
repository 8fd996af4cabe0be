"""Lightning's trainer as this project uses it: on one device or as one of several processes, with our
checkpoints, loggers and bar.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from tqdm import tqdm

from midre_exp.runtime import Runtime
from midre_exp.targets.training.processes import Rank, Ranks
from midre_exp.tracking.tracker import WandbTracker
from midre_exp.weights import checkpoint as checkpoints

#: The file in a training's folder that an interrupted training continues from.
CHECKPOINT = "last"


def make_trainer(
    recipe: Mapping[str, Any], work: Path, runtime: Runtime, title: str, rank: Rank | None
) -> pl.Trainer:
    """A trainer for ``recipe`` on ``runtime.device``, alone or as ``rank`` of several processes, of which the
    first alone logs.
    """
    _quiet_lightning()
    on_gpu = runtime.device.type == "cuda"
    place: dict[str, Any] = {
        "devices": [runtime.device.index or 0] if on_gpu else 1,
        # one process on one device, whatever cluster it was started on: Lightning is not to look for its own
        "plugins": [VerifiedCheckpoints(), LightningEnvironment()],
        "logger": _loggers(work, runtime, rank),
    }
    if rank is not None:
        first = (runtime.device.index or 0) - rank.index  # each has been given its own device
        place |= {
            "devices": list(range(first, first + rank.count)) if on_gpu else rank.count,
            "plugins": [VerifiedCheckpoints(), Ranks(rank)],
            # a defense may leave parameters without a gradient in some epochs
            "strategy": DDPStrategy(find_unused_parameters=True),
            "use_distributed_sampler": False,
        }
    return pl.Trainer(
        max_epochs=recipe["epochs"],
        accelerator="gpu" if on_gpu else "cpu",
        precision=recipe["precision"],
        callbacks=_callbacks(work, runtime, title),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        default_root_dir=str(work),
        **place,
    )


def show_metrics(runtime: Runtime) -> Callable[[Any], None]:
    """What the waiting process does with the metrics that the first of several processes tells it: the
    tracker is open there.
    """
    loggers = _trackers(runtime)

    def hear(told: tuple[dict[str, float], int | None]) -> None:
        for logger in loggers:
            logger.log_metrics(*told)

    return hear


def _quiet_lightning() -> None:
    """Lightning's advice on loader workers and its hardware banner do not apply: batches are sliced from
    memory, runs report themselves.
    """
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
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # every process logs the whole batch
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")


def _trackers(runtime: Runtime) -> list[Logger]:
    return [WandbLogger(experiment=runtime.tracker.run)] if isinstance(runtime.tracker, WandbTracker) else []


def _loggers(work: Path, runtime: Runtime, rank: Rank | None) -> list[Logger]:
    if rank is not None and rank.index > 0:
        return []
    attempt = len(list(work.glob("logs/attempt-*")))
    csv = CSVLogger(str(work), name="logs", version=f"attempt-{attempt}")
    return [csv, *(_trackers(runtime) if rank is None else [Telling(rank)])]


def _callbacks(work: Path, runtime: Runtime, title: str) -> list[Callback]:
    # Without a monitored value the newest checkpoint replaces the one before, so the folder holds exactly
    # last.ckpt.
    callbacks: list[Callback] = [
        ModelCheckpoint(
            dirpath=work, filename=CHECKPOINT, save_top_k=1, every_n_epochs=1, enable_version_counter=False
        )
    ]
    if runtime.progress:
        callbacks.append(TrainingBar(title))
    return callbacks


class Telling(Logger):
    """Tells the process that waits for a training what the training would log."""

    def __init__(self, rank: Rank):
        super().__init__()
        self.rank = rank

    @property
    def name(self) -> str:
        """Of no meaning here."""
        return "telling"

    @property
    def version(self) -> str:
        """Of no meaning here."""
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The tracker has the config already."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers at a step."""
        self.rank.tell((metrics, step))


class VerifiedCheckpoints(CheckpointIO):
    """Lets Lightning write its checkpoints through ours: atomic, checked on reading, never executing
    anything.
    """

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
