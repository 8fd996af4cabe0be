"""What a defense may do to the training of a classifier, and to what it answers once it is deployed. Every
hook defaults to doing nothing; a defense overrides the few it needs.

The order in which training calls them is the order of this file. Schedules are stateless: whatever depends on
time is a function of the ``TrainingProgress`` a hook is given, so that a resumed run continues exactly.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.transforms import View
from midre_exp.numerics import Numerics
from midre_exp.plan.config import Trusted, build
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.training.batch import (
    Batch,
    Classify,
    Companions,
    Sampler,
    Trained,
    TrainingProgress,
)

__all__ = [
    "Batch",
    "Classify",
    "Companions",
    "Defense",
    "Informed",
    "PictureView",
    "Sampler",
    "Trained",
    "TrainingProgress",
]

_AT_ONCE = 256  # images as floats


@dataclass(frozen=True, kw_only=True)
class Informed:
    """What a white-box attacker does who knows a defense. Nothing by default; records and logs call the parts
    by their ``repr``, functions by their names.
    """

    reason: str = ""  # one sentence: what is done and why, or why there is nothing to do
    #: Changes of images [n, 3, h, w], each a function of the image alone, over which an attacker who sees
    #: scores alone averages the answers; the first may be none.
    asked: Sequence[Callable[[Tensor], Tensor]] = ()
    #: Changes of images over which loss, search and selection are averaged, each image's by its own stream.
    views: Sequence[View] = ()
    stored: bool = False  # the views are of stored images: they come before those of batches
    #: What is minimised in place of the attack's function of logits [n, k] and labels int64 [n], [n].
    identity_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    #: What search and selection rank by in place of the softmax, [n, k] of logits [n, k].
    score: Callable[[Tensor], Tensor] | None = None
    target: Sequence[Callable[[Classifier], None]] = ()  # changes of the attacker's own copy of the network
    reasons: Mapping[str, str] = field(default_factory=dict)  # of composed defenses, by name
    silent: Sequence[str] = ()  # composed defenses that do not say what such an attacker does

    def network(self, deployed: Classifier) -> Classifier:
        """The network that the attacker asks: ``deployed`` itself, or a changed copy of it."""
        if not self.target:
            return deployed
        own = copy.deepcopy(deployed)
        for change in self.target:
            change(own)
        return own

    def of_answers(self, answering: Collection[str]) -> Informed:
        """What of it is of use to one who sees scores alone: of the parts ``answering``, by name. Nothing
        that follows gradients or changes a copy of the network; other parts tell such an attacker nothing.
        """
        heard = {name: text for name, text in self.reasons.items() if name in (*answering, "nodef")}
        deaf = [name for name in (*self.reasons, *self.silent) if name not in heard]
        return Informed(asked=self.asked, reasons=heard, silent=deaf)

    def told(self) -> dict[str, Any]:
        """What a record says of it, in plain values."""
        return {
            "views": [_name(view) for view in self.views],
            "identity_loss": None if self.identity_loss is None else _name(self.identity_loss),
            "score": None if self.score is None else _name(self.score),
            "target": [_name(change) for change in self.target],
            **({"asked": [_name(change) for change in self.asked]} if self.asked else {}),
            "reasons": dict(self.reasons) or ({"defense": self.reason} if self.reason else {}),
            "silent": list(self.silent),
        }


class PictureView(ABC):
    """A view that shows pictures besides: ``pictures`` [m, 3, h, w] of the attacker's own prior as the target
    would be shown them, which an attack draws before it begins.
    """

    pictures: Tensor | None = None

    @abstractmethod
    def __call__(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """As ``View``."""


def _name(part: object) -> str:
    """A part in a line of text: the name of a function, the ``repr`` of anything else."""
    text = str(getattr(part, "__name__", None) or repr(part))
    return "".join(letter if letter.isprintable() else " " for letter in text)


class Defense:
    """The no-op defense.

    ``exclusive`` names what it takes for itself: ``base_loss``, ``head``, ``skip`` (connections), ``freeze``,
    ``sampler``, ``erase`` or ``optimizer``. Two defenses that take the same cannot be combined.
    """

    exclusive: frozenset[str] = frozenset()
    #: Class names of defenses that cannot be combined with this one, nor can what derives from them, for
    #: another reason, each with it.
    conflicts: ClassVar[Mapping[str, str]] = {}
    #: Whether ``on_batch`` mixes, or a loss compares, the images of a batch. A training on several devices
    #: then gathers each batch whole, as one device would see it.
    couples_images: bool = False
    #: When it acts: at ``training`` (whatever shapes the network), at ``deployment`` (``answer``), or both.
    #: Planning asks the class. One of deployment alone has no part in the target's key: its network is that
    #: of the same training without it.
    acts_at: ClassVar[frozenset[str]] = frozenset({"training"})
    #: Whether what another defense would make of its answers is the same whatever it does.
    ends_answers: ClassVar[bool] = False
    #: Whether a step is made of the gradient of each image alone: one pass through the network a step, and
    #: nothing that couples images.
    separates_images: bool = False

    @property
    def label(self) -> str:
        """How tables call this defense with its parameters, e.g. ``MIDRE [0.1, 0.4]``."""
        return type(self).__name__

    # -- model --

    def modify_backbone(self, model: Classifier) -> None:
        """Change the layers before weights are loaded (skip connections)."""

    def replace_head(self, model: Classifier) -> None:
        """Replace the head after weights are loaded."""

    def trainable(self, model: Classifier) -> Sequence[str] | None:
        """Names of the parameters that train, or None for all that require gradients."""
        return None

    def taps(self, model: Classifier) -> Sequence[str]:
        """Stages whose activations the losses need."""
        return ()

    # -- data --

    def on_other_people(self, people: ImageSet, *, seed: int) -> None:
        """Keep images of people who are neither private nor the attacker's (``data.others``, docs/data.md),
        placed as training images are. Called before ``on_dataset`` if the options of a defense in the config
        have an ``other_people``; the fingerprint of these images is then part of the target's key.
        """

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        """Change the stored training images once, before any augmentation (a fixed erasure, for example)."""
        return train

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        """A sampler of its own, or None for shuffled batches. ``drop_last``: whether the recipe leaves out a
        last, smaller batch.
        """
        return None

    # -- optimisation --

    def check_execution(self, *, numerics: Numerics, devices: int) -> None:
        """Raise UserError for numbers, devices or libraries that it cannot be trained with."""

    def optimizer(
        self, optimizer: torch.optim.Optimizer, draws: Callable[[], torch.Generator]
    ) -> torch.optim.Optimizer:
        """What steps in place of the recipe's ``optimizer``, after ``sampler`` was asked; its learning rate
        is set through ``param_groups``. ``draws``: gives the step's own generator, of the CPU, whose state
        is in checkpoints.
        """
        return optimizer

    def training_call(self, model: Classifier) -> Callable[[Tensor, Sequence[str]], Output] | None:
        """What answers images in training in place of ``model`` itself, or None; with ``numerics`` as
        ``check_execution`` allows them.
        """
        return None

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The training recipe (a node of conf/target/recipe as plain values), changed where the defense's own
        source demands it.

        Only with ``defense_recipe=own`` of the config: ``shared`` trains every defense alike, as the reduced
        scale does.
        """
        return recipe

    def trained_epochs(self, epochs: int) -> int:
        """How many of the recipe's ``epochs`` are trained, from 1 to all; schedules stay those of all."""
        return epochs

    def state(self, model: Classifier) -> nn.Module | None:
        """What the defense trains of its own beside ``model``, which is as it is before its first step and on
        the CPU, or None; made anew for every training, after ``on_dataset``.

        Drawn from torch's global generator, which is seeded; moved to the device; kept in checkpoints, by its
        ``state_dict``, which may hold plain values besides; left out of the attacked network and stored
        beside it. On several devices each gathers the whole batch and trains it alike.
        """
        return None

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Set what a schedule changes in the model, called before the first batch of each epoch and once
        before resuming inside one.
        """

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Change a batch on the device, after augmentation and before the network. ``generator`` lives on the
        device of the images. Never called outside training.
        """
        return batch

    def before_step(
        self, batch: Batch, classify: Classify, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Train ``state``, or change a batch by what the network says of it, after every defense's
        ``on_batch`` and before the step on what is returned.
        """
        return batch

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None:
        """The classification loss, a scalar, or None for cross entropy."""
        return None

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """Named scalars added to the base loss, weights included. ``classify`` asks the network about other
        images, ``generator`` is that of ``on_batch``.
        """
        return {}

    def reports(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """Named scalars of a step that stand in the history beside its losses, and are none."""
        return {}

    # -- afterwards --

    def on_inference(self, model: Classifier) -> None:
        """Bring the model into the form that is attacked (after training or after loading its weights)."""

    def summary(self, trained: Trained) -> Mapping[str, Any]:
        """What records say of the training under ``defended``: plain values. ``protected``, if there, lists
        the labels of the people whom it protects; success on them and on the others is then told apart.
        """
        return {}

    def triggered(self, state: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor] | None:
        """How images float [n, 3, h, w] show each the trigger of its class, int64 [n], by the tensors that
        ``state`` left, on their device; None where there are no triggers. A defense with some has an option
        of that name, by which a run knows.
        """
        return None

    def informed(self, model: Classifier) -> Informed | None:
        """What an attacker does who knows this defense and holds ``model`` in the form that is attacked;
        None: nobody has said. Never from private images or a judge.
        """
        return None

    # -- deployment, of a defense that acts at it --

    def calibrate(
        self, probabilities: Tensor, images: Tensor, labels: Tensor, *, key: str
    ) -> Mapping[str, Tensor]:
        """What ``answer`` needs to know beforehand, as named tensors: by what the network answers
        (``probabilities`` float [n, k], behind the parts before this one) to ``images`` uint8 [n, 3, h, w] of
        the private people that it was not trained on, some of each class, with their ``labels`` int64 [n].
        ``key``: as of ``deploy``.
        """
        return {}

    def deploy(self, calibrated: Mapping[str, Tensor], *, key: str) -> None:
        """Get ready to ``answer``: with what ``calibrate`` gave, on the device of the answers, and the
        target's ``key``, a secret of the defender's by which random numbers may be made.
        """

    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """What the deployed target answers, [n, k], in place of its ``probabilities`` [n, k] for ``images``
        float [n, 3, h, w] in [0, 1]: the very tensor where nothing changes. It depends on each image alone,
        not on those beside it or asked before, or chunks would change results.
        """
        return probabilities

    def measure_answers(self, probabilities: Tensor, images: Tensor) -> Mapping[str, float]:
        """Numbers of its own about its answers to held-out images, shares in percent."""
        return {}

    def answer_alarms(self) -> Sequence[str]:
        """What puts results behind its answers in doubt, a sentence each."""
        return ()


def answers_to(defense: Defense, probabilities: Tensor, images: Tensor) -> Tensor:
    """What a deployed defense answers to images uint8 [n, 3, h, w] in place of ``probabilities`` [n, k]."""
    parts = [
        defense.answer(some, to_float(shown))
        for some, shown in zip(probabilities.split(_AT_ONCE), images.split(_AT_ONCE), strict=True)
    ]
    return torch.cat(parts)


def compose_defenses(nodes: Mapping[str, Any], trusted: Trusted = ()) -> Defense:
    """The defenses of a config's ``defense`` node as one; of none, one that does nothing. Raises ConfigError
    as ``build``, and for defenses that contradict each other.
    """
    parts = {name: build(node, kind=Defense, trusted=trusted) for name, node in nodes.items()}
    composed: Defense = import_module("defenses").compose(**parts)  # plug-ins import the engine
    return composed
