"""What Lightning trains: a classifier under a defense and a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.data.base import to_float
from midre_exp.data.transforms import Augmentation
from midre_exp.errors import DivergedError
from midre_exp.numerics import Numerics
from midre_exp.plan.config import build
from midre_exp.seeding import derive, generator
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.predict import hits
from midre_exp.targets.training.batch import Batch, EpochBatches, TrainingProgress
from midre_exp.targets.training.gathered import own_rows
from midre_exp.targets.training.hooks import DefenseHooks
from midre_exp.targets.training.schedule import learning_rates
from midre_exp.weights.finite import few, not_finite

#: Of a training that diverged; who knows the place of the recipe in a config says more.
REMEDY = "lower recipe.optimizer.lr or the strength of the defense"


class BestEpoch(TypedDict):
    """The epoch with the best accuracy on the test images so far."""

    test_acc: float  #: percent
    epoch: int
    weights: dict[str, Tensor]
    state: dict[str, Tensor]  #: what the defense had trained of its own


class ClassifierModule(pl.LightningModule):
    """One classifier, one composed defense, one recipe (conf/recipe).

    All randomness is derived from (seed, epoch, rank), so epochs can be resumed exactly; what was drawn
    inside one is told by the states of its generators. Of several processes each trains on its share of every
    batch with random numbers of its own. Only if the defense ``couples_images``, or trains something of its
    own, does each process defend, and compute the losses of, the whole batch, whose outputs are gathered with
    their gradients.
    """

    batches: EpochBatches
    sums: dict[str, Tensor]  #: of what is reported of this epoch so far, weighted by the images
    images: float  #: of this epoch so far; a whole number but for trainings that changed their processes
    done: int  #: batches of this epoch so far; 0 between epochs

    def __init__(
        self,
        model: Classifier,
        defense: DefenseHooks,
        recipe: Mapping[str, Any],
        *,
        seed: int,
        trusted: tuple[str, ...] = (),
        numerics: Numerics | None = None,
    ):
        super().__init__()
        self.model = model
        # of a method, because a module would be taken for a part of this one
        self.answer = (numerics or Numerics()).call(model.__call__)
        self.training_answer = defense.training_call(model) or self.answer
        self.defense = defense
        self.recipe = recipe
        self.seed = seed
        self.trusted = trusted
        self.augment = [build(step, kind=Augmentation, trusted=trusted) for step in recipe["augment"]]
        self.learning_rates = learning_rates(recipe, trusted=trusted)
        self.taps = tuple(defense.taps(model))
        self.history: list[dict[str, float]] = []
        self.best: BestEpoch | None = None
        self.done = 0
        self._unfinished: dict[str, Any] | None = None  # epoch of a checkpoint from inside it
        self.defense_state: torch.nn.Module | None = None
        names = defense.trainable(model)
        if names is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in set(names))

    def make_defense_state(self) -> None:
        """What the defense trains of its own, as it is before the first step, as a part of this module."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "defense state"))
            self.defense_state = self.defense.state(self.model)

    def own_state(self) -> dict[str, Tensor]:
        """The tensors of ``defense_state``, by their names in it."""
        if self.defense_state is None:
            return {}
        return {n: value for n, value in self.defense_state.state_dict().items() if isinstance(value, Tensor)}

    @property
    def progress(self) -> TrainingProgress:
        """Where training stands."""
        return TrainingProgress(self.current_epoch, int(self.recipe["epochs"]))

    @property
    def gathers(self) -> bool:
        """Whether every process computes the losses of the whole batch, and trains the defense's state."""
        couples = self.defense.couples_images or self.defense_state is not None
        return self.trainer.world_size > 1 and couples

    def on_train_start(self) -> None:
        """Begin the epoch inside which an earlier attempt stopped once more: Lightning goes on without its
        start.
        """
        if self._unfinished is not None:
            self.on_train_epoch_start()

    def on_train_batch_start(self, *_: Any) -> None:
        """Take up where an earlier attempt stopped inside the epoch."""
        if self._unfinished is not None:
            self._continue_epoch(self._unfinished)
            self._unfinished = None

    def on_train_epoch_start(self) -> None:
        """Seed everything for this epoch and let schedules act."""
        rank = self.trainer.global_rank
        own = ("rank", rank) if rank else ()
        torch.manual_seed(derive(self.seed, "epoch", self.current_epoch, *own))
        self.generator = generator(self.seed, "batches", self.current_epoch, *own)
        self.defense_generator = self.generator
        if self.gathers:  # the whole batch is defended alike by every process
            purpose = ("whole batches", self.current_epoch)
            self.defense_generator = generator(self.seed, *purpose)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rates[self.current_epoch]
        self.sums, self.images, self.done = {}, 0, 0
        if self.trainer.world_size > 1:  # all train the same, but for rounding and dropout
            for value in self.own_state().values():
                torch.distributed.broadcast(value, 0)
        self.defense.on_epoch(self.model, self.progress)

    def training_step(self, step_input: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
        """Augment, defend, classify, add up the losses."""
        if self.batches.epoch != self.current_epoch:
            raise RuntimeError(f"batches of epoch {self.batches.epoch} arrive in epoch {self.current_epoch}")
        if not len(step_input[1]):  # a sampler may draw no image; the optimiser still steps
            self.done = number + 1
            return torch.zeros((), device=self.device, requires_grad=True)
        batch = self._defend(self._augment(*step_input))
        output, beside = self._classify_batch(batch)
        base, extras = self._losses(output, batch)
        reports = {"train_acc": _accuracy(output, batch.seen_labels)}
        if batch.companions is not None and beside is not None:
            others = batch.companions
            theirs = self._base_loss(beside, Batch(others.images, others.labels, batch.index))
            base = (1 - others.weight) * base + others.weight * theirs
            reports[f"{others.name}_acc"] = _accuracy(beside, others.labels)
        total: Tensor = base + sum(extras.values()) if extras else base
        reports |= self.defense.reports(output, batch)
        self._add({"loss": total.detach(), **reports, **_detached(extras)}, len(batch.labels))
        self.done = number + 1
        return total

    def _augment(self, images: Tensor, labels: Tensor, index: Tensor) -> Batch:
        """The batch of this process (uint8 images) with the recipe's random transforms applied."""
        images = to_float(images)
        for transform in self.augment:
            images = transform(images, self.generator)
        return Batch(images, labels, index)

    def _defend(self, batch: Batch) -> Batch:
        """The batch as the defense changes it: of all processes where it couples images."""
        if self.gathers:
            images, labels, index = map(self._gather, (batch.images, batch.labels, batch.index))
            batch = Batch(images, labels, index)
        batch = self.defense.on_batch(batch, self.model, self.progress, self.defense_generator)
        return self.defense.before_step(batch, self._classify, self.progress, self.defense_generator)

    def _classify(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """What the network makes of images, of the whole batch where it is gathered; each process runs it on
        its share alone.
        """
        output: Output = self.training_answer(self._share(images), taps)
        return self._whole(output)

    def _classify_batch(self, batch: Batch) -> tuple[Output, Output | None]:
        """What the network makes of every image of the batch, and of its companions in the same forward."""
        if batch.companions is None:
            return self._classify(batch.images, self.taps), None
        own, others = self._share(batch.images), self._share(batch.companions.images)
        output: Output = self.training_answer(torch.cat((own, others)), self.taps)
        first, last = slice(None, len(own)), slice(len(own), None)
        return self._whole(_rows(output, first)), self._whole(_rows(output, last))

    def _share(self, images: Tensor) -> Tensor:
        """The part of images that this process runs the network on."""
        return own_rows(images, self.global_rank, self.trainer.world_size) if self.gathers else images

    def _whole(self, own: Output) -> Output:
        """What all processes made of theirs."""
        if not self.gathers:
            return own
        return Output(
            self._gather(own.logits),
            self._gather(own.features),
            {name: self._gather(tap) for name, tap in own.taps.items()},
            None if own.auxiliary is None else self._gather(own.auxiliary),
        )

    def _gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes by rank. Their gradients are added up over the processes, each of which
        has the loss of the whole batch, and ddp takes the mean: the gradient of the whole batch.
        """
        gathered = self.all_gather(rows, sync_grads=rows.requires_grad)  # [ranks, n, ...]
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def _losses(self, output: Output, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The base loss and the defense's further losses."""
        base = self._base_loss(output, batch)
        draws = self.defense_generator
        extras = self.defense.extra_losses(
            output, batch, self.progress, classify=self._classify, generator=draws
        )
        return base, extras

    def _base_loss(self, output: Output, batch: Batch) -> Tensor:
        """The classification loss, with that of an auxiliary head."""
        base = self._classification_loss(output, batch)
        if output.auxiliary is not None:
            auxiliary = self._classification_loss(output._replace(logits=output.auxiliary), batch)
            base = base + self.model.auxiliary_weight * auxiliary
        return base

    def _classification_loss(self, output: Output, batch: Batch) -> Tensor:
        """The defense's base loss, or cross entropy. An auxiliary head may have more classes than labels."""
        if batch.soft_labels is not None:
            surplus = output.logits.shape[1] - batch.soft_labels.shape[1]
            batch = replace(batch, soft_labels=F.pad(batch.soft_labels, (0, surplus)))
        base = self.defense.base_loss(output, batch, self.progress)
        return F.cross_entropy(output.logits, batch.targets) if base is None else base

    def validation_step(self, step_input: tuple[Tensor, Tensor, Tensor], _: int) -> None:
        """Accuracy on clean test images of the private classes."""
        images, labels, _index = step_input
        share = hits(self.answer(to_float(images)).logits, labels).mean()
        self._log({"test_acc": 100 * share}, len(labels))

    def _add(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add what is reported of ``count`` images to the sums of the epoch, which Lightning would not keep
        in a checkpoint.
        """
        for name, value in values.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), device=value.device)
            self.sums[name] += value * count
        self.images += count

    def _means(self) -> dict[str, Tensor]:
        count = torch.tensor(self.images, device=self.device)
        return {name: total / count for name, total in self.sums.items()}

    def _log(self, values: Mapping[str, Tensor], batch_size: int) -> None:
        """Means over the images of an epoch, of all processes."""
        self.log_dict(
            dict(values),
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=batch_size,
            sync_dist=self.trainer.world_size > 1,
        )

    def on_train_epoch_end(self) -> None:
        """Keep the epoch's numbers, and the weights if they are the best so far and the recipe selects by
        test accuracy. Raises DivergedError, before a checkpoint is written, when the network has diverged.
        """
        means = self._means()
        self._log(means, 1)
        self.done = 0
        numbers = {name: float(self._of_all_ranks(mean).mean()) for name, mean in means.items()}
        numbers["test_acc"] = float(self.trainer.callback_metrics["test_acc"])
        self._check_health(numbers)
        self.history.append({"epoch": float(self.current_epoch), **numbers})
        if self.recipe["select"] == "best_test" and (
            self.best is None or numbers["test_acc"] > self.best["test_acc"]
        ):
            self.best = {
                "test_acc": numbers["test_acc"],
                "epoch": self.current_epoch,
                "weights": _copied(self.model.state_dict()),
                "state": _copied(self.own_state()),
            }

    def _check_health(self, numbers: Mapping[str, float]) -> None:
        """Raise DivergedError unless the means of the epoch so far and all weights are finite. Asked only
        before something is kept: one NaN among all steps makes a mean NaN.
        """
        when = f"training diverged in epoch {self.current_epoch + 1} of {self.recipe['epochs']}"
        if broken := [f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value)]:
            raise DivergedError(f"{when} ({few(broken)})", REMEDY)
        if broken := not_finite({**self.model.state_dict(), **self.own_state()}):
            raise DivergedError(f"{when} (weights not finite: {few(broken)})", REMEDY)

    def on_save_checkpoint(self, state: dict[str, Any]) -> None:
        """Plain containers only, so that the checkpoint loads without unpickling anything."""
        state["midre_exp"] = {
            "next_epoch": self.current_epoch + (self.done == 0),
            "history": self.history,
            "best": self.best,
            "unfinished": self._epoch_so_far() if self.done else None,
        }

    def on_load_checkpoint(self, state: dict[str, Any]) -> None:
        """Take up what an interrupted attempt had kept."""
        self.history = list(state["midre_exp"]["history"])
        self.best = state["midre_exp"]["best"]
        self._unfinished = state["midre_exp"]["unfinished"]

    def _epoch_so_far(self) -> dict[str, Any]:
        """What the rest of the epoch depends on, besides weights and optimiser. Raises DivergedError instead
        of keeping what has diverged.
        """
        self._check_health({name: float(mean) for name, mean in self._means().items()})
        names = list(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        return {
            "done": self.done,
            "images": self.images,
            "names": names,
            "sums": self._of_all_ranks(sums),
            "generators": [self._of_all_ranks(state) for state in self._generator_states()],
        }

    def _continue_epoch(self, saved: dict[str, Any]) -> None:
        """Take up what ``_epoch_so_far`` gave; of another number of processes, whose generators are not
        these, the means alone.
        """
        rank, share = self.global_rank, len(saved["sums"]) / self.trainer.world_size
        sums = saved["sums"][rank] if share == 1 else saved["sums"].mean(0) * share
        self.sums = dict(zip(saved["names"], sums.to(self.device).unbind(), strict=True))
        self.done, self.images = saved["done"], saved["images"] * share
        if share != 1:
            return
        states = [states[rank] for states in saved["generators"]]
        self.generator.set_state(states[0])
        self.defense_generator.set_state(states[1])
        torch.set_rng_state(states[2])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(states[3], self.device)

    def _generator_states(self) -> list[Tensor]:
        states = [self.generator.get_state(), self.defense_generator.get_state(), torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else states

    def _of_all_ranks(self, value: Tensor) -> Tensor:
        """The values of all processes [ranks, ...], on the CPU."""
        if self.trainer.world_size == 1:
            return value.detach()[None].cpu()
        gathered = self.all_gather(value.detach().to(self.device))
        assert isinstance(gathered, Tensor)
        return gathered.cpu()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimiser over the parameters that train. Its learning rate is set at the start of
        each epoch.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        node, kind = self.recipe["optimizer"], torch.optim.Optimizer
        optimizer = build(node, parameters, kind=kind, trusted=self.trusted)
        return self.defense.optimizer(optimizer, lambda: self.defense_generator)


def next_batch(state: Mapping[str, Any]) -> tuple[int, int]:
    """Epoch and batch, both from 0, with which the training of a checkpoint goes on."""
    kept = state["midre_exp"]
    return kept["next_epoch"], kept["unfinished"]["done"] if kept["unfinished"] else 0


def _accuracy(output: Output, labels: Tensor) -> Tensor:
    """Percent of the images that are recognised; the host does not wait."""
    return 100 * hits(output.logits.detach(), labels).mean()


def _rows(output: Output, rows: slice) -> Output:
    auxiliary = None if output.auxiliary is None else output.auxiliary[rows]
    taps = {name: tap[rows] for name, tap in output.taps.items()}
    return Output(output.logits[rows], output.features[rows], taps, auxiliary)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}
