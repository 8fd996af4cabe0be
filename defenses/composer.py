"""Several defenses as one. The engine trains every target with exactly one composed defense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import isfunction
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from defenses.base import Batch, Classify, Defense, Informed, Sampler, Trained, TrainingProgress
from defenses.nodef import NoDef
from midre_exp.data.base import ImageSet
from midre_exp.defense import answers_to
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.targets.base import Classifier, Output

_Choice = TypeVar("_Choice")
#: The hooks of a defense at deployment, and of a training.
_DEPLOYMENT = ("informed", "calibrate", "deploy", "answer", "measure_answers", "answer_alarms")
_TRAINING = [
    name
    for name, hook in vars(Defense).items()
    if isfunction(hook) and not name.startswith("_") and name not in _DEPLOYMENT
]


class Composed(Defense):
    """Applies the parts in the order given; what only one part may take is checked when it is built."""

    def __init__(self, parts: Mapping[str, Defense]):
        for name, part in parts.items():
            if not isinstance(part, Defense):
                raise ConfigError(
                    f"defense.{name} is a {type(part).__name__}, which does not derive from defenses.Defense"
                )
        self.parts = {name: part for name, part in _single(parts) if not isinstance(part, NoDef)}
        self.couples_images = any(part.couples_images for part in self.parts.values())
        owner: dict[str, str] = {}
        for name, part in self.parts.items():
            for taken in sorted(part.exclusive):
                if taken in owner:
                    raise ConfigError(
                        f"defenses {owner[taken]} and {name} both set the {taken}; keep one of them"
                    )
                owner[taken] = name
        self.exclusive = frozenset(owner)
        self._check_separation()
        kinds = {kind.__name__: name for name, part in self.parts.items() for kind in type(part).__mro__}
        for name, part in self.parts.items():
            for other, reason in part.conflicts.items():
                if other in kinds:
                    raise ConfigError(
                        f"defenses {name} and {kinds[other]} contradict each other: {reason}; keep one of "
                        "them"
                    )
        self._check_answers()

    def _check_answers(self) -> None:
        """Raise ConfigError for a part whose answers nobody would get to see, or that makes no difference."""
        last = None
        for name, part in self.parts.items():
            answers = _overrides(part, "answer")
            if answers and "deployment" not in part.acts_at:
                raise ConfigError(
                    f"defense.{name} is a {type(part).__name__}, which has an answer of its own and does not "
                    'say so; give the class acts_at = frozenset({"deployment"}), with "training" if it also '
                    "shapes the network"
                )
            shapes = next((hook for hook in _TRAINING if _overrides(part, hook)), None)
            if shapes is not None and "training" not in part.acts_at:
                raise ConfigError(
                    f"defense.{name} is a {type(part).__name__}, which overrides {shapes} and says that it "
                    'acts at deployment alone; add "training" to the acts_at of the class'
                )
            if answers and last is not None:
                raise ConfigError(
                    f"defense {name} comes after {last}, whose answers leave it nothing to change; name "
                    f"{last} last"
                )
            last = name if part.ends_answers else last

    def _check_separation(self) -> None:
        """Nobody couples images whose gradients somebody takes one by one."""
        for name, part in self.parts.items():
            for other, coupling in self.parts.items():
                if part.separates_images and coupling.couples_images:
                    raise ConfigError(
                        f"defenses {name} and {other} contradict each other: {name} takes the gradient of "
                        f"each image alone, and {other} couples the images of a batch; keep one of them"
                    )

    @property
    def label(self) -> str:
        """The labels of the parts joined by ``+``, ``NoDef`` when there is none."""
        return " + ".join(part.label for part in self.parts.values()) or "NoDef"

    # -- each part in turn --

    def modify_backbone(self, model: Classifier) -> None:
        for part in self.parts.values():
            part.modify_backbone(model)

    def replace_head(self, model: Classifier) -> None:
        for part in self.parts.values():
            part.replace_head(model)

    def on_other_people(self, people: ImageSet, *, seed: int) -> None:
        for part in self.parts.values():
            part.on_other_people(people, seed=seed)

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        for part in self.parts.values():
            train = part.on_dataset(train, seed=seed)
        return train

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        for part in self.parts.values():
            recipe = part.recipe(recipe)
        return recipe

    def check_execution(self, *, numerics: Numerics, devices: int) -> None:
        for part in self.parts.values():
            part.check_execution(numerics=numerics, devices=devices)

    def optimizer(
        self, optimizer: torch.optim.Optimizer, draws: Callable[[], torch.Generator]
    ) -> torch.optim.Optimizer:
        for part in self.parts.values():
            optimizer = part.optimizer(optimizer, draws)
        return optimizer

    def trained_epochs(self, epochs: int) -> int:
        for part in self.parts.values():
            epochs = part.trained_epochs(epochs)
        return epochs

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        for part in self.parts.values():
            part.on_epoch(model, progress)

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        for part in self.parts.values():
            batch = part.on_batch(batch, model, progress, generator)
        return batch

    def before_step(
        self, batch: Batch, classify: Classify, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        for part in self.parts.values():
            batch = part.before_step(batch, classify, progress, generator)
        return batch

    def on_inference(self, model: Classifier) -> None:
        for part in self.parts.values():
            part.on_inference(model)

    def informed(self, model: Classifier) -> Informed:
        """What the parts say as one: views in the order of training, those of stored images first. Raises
        ConfigError where two give the attack different losses or scores.
        """
        if not self.parts:
            told = NoDef().informed(model)
            return replace(told, reasons={"nodef": told.reason})
        known = {name: part.informed(model) for name, part in self.parts.items()}
        said = {name: one for name, one in known.items() if one is not None}
        in_order = sorted(said.values(), key=lambda one: not one.stored)
        return Informed(
            views=[view for one in in_order for view in one.views],
            identity_loss=_only("losses", {name: one.identity_loss for name, one in said.items()}),
            score=_only("scores", {name: one.score for name, one in said.items()}),
            target=[change for one in said.values() for change in one.target],
            asked=_only(
                "changes to average answers over", {name: one.asked or None for name, one in said.items()}
            )
            or (),
            reasons={name: one.reason for name, one in said.items()},
            silent=[name for name, one in known.items() if one is None],
        )

    def calibrate(
        self, probabilities: Tensor, images: Tensor, labels: Tensor, *, key: str
    ) -> Mapping[str, Tensor]:
        """What all parts need, named ``part/tensor``, each by the answers of those before it."""
        found: dict[str, Tensor] = {}
        for name, part in self._answering():
            own = part.calibrate(probabilities, images, labels, key=key)
            part.deploy(own, key=key)
            probabilities = answers_to(part, probabilities, images)
            found.update({f"{name}/{tensor}": value for tensor, value in own.items()})
        return found

    def deploy(self, calibrated: Mapping[str, Tensor], *, key: str) -> None:
        for name, part in self._answering():
            start = f"{name}/"
            own = {tensor: value for tensor, value in calibrated.items() if tensor.startswith(start)}
            part.deploy({tensor.removeprefix(start): value for tensor, value in own.items()}, key=key)

    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        for _, part in self._answering():
            probabilities = part.answer(probabilities, images)
        return probabilities

    def measure_answers(self, probabilities: Tensor, images: Tensor) -> Mapping[str, float]:
        """What all parts measure, named ``part/number``."""
        found: dict[str, float] = {}
        for name, part in self._answering():
            own = part.measure_answers(probabilities, images)
            found.update({f"{name}/{number}": value for number, value in own.items()})
            probabilities = part.answer(probabilities, images)
        return found

    def answer_alarms(self) -> Sequence[str]:
        return [sentence for _, part in self._answering() for sentence in part.answer_alarms()]

    def _answering(self) -> list[tuple[str, Defense]]:
        return [(name, part) for name, part in self.parts.items() if "deployment" in part.acts_at]

    def summary(self, trained: Trained) -> Mapping[str, Any]:
        """What each part says, by its name, of those that say something."""
        return {name: told for name, part in self.parts.items() if (told := part.summary(trained))}

    # -- what one part has --

    def training_call(self, model: Classifier) -> Callable[[Tensor, Sequence[str]], Output] | None:
        return _first(part.training_call(model) for part in self.parts.values())

    def trainable(self, model: Classifier) -> Sequence[str] | None:
        return _first(part.trainable(model) for part in self.parts.values())

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        return _first(
            part.sampler(labels, batch_size=batch_size, seed=seed, drop_last=drop_last)
            for part in self.parts.values()
        )

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None:
        return _first(part.base_loss(output, batch, progress) for part in self.parts.values())

    # -- what all parts have --

    def taps(self, model: Classifier) -> Sequence[str]:
        """All taps, each once, in order."""
        return tuple(dict.fromkeys(tap for part in self.parts.values() for tap in part.taps(model)))

    def state(self, model: Classifier) -> nn.Module | None:
        """Of all parts that have any, by their names."""
        states = {name: part.state(model) for name, part in self.parts.items()}
        owned = {name: state for name, state in states.items() if state is not None}
        return nn.ModuleDict(owned) if owned else None

    def triggered(self, state: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Of the part that has triggers."""
        named = [(*key.partition(".")[::2], value) for key, value in state.items()]
        return _first(
            part.triggered({key: value for owner, key, value in named if owner == name})
            for name, part in self.parts.items()
        )

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """All extra losses, named ``part/loss``."""
        losses = {
            name: part.extra_losses(output, batch, progress, classify=classify, generator=generator)
            for name, part in self.parts.items()
        }
        return {f"{name}/{key}": loss for name, own in losses.items() for key, loss in own.items()}

    def reports(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """All that is reported, named ``part/value``."""
        return {
            f"{name}/{key}": value
            for name, part in self.parts.items()
            for key, value in part.reports(output, batch).items()
        }


def _overrides(part: Defense, hook: str) -> bool:
    """Whether a defense has a hook of its own."""
    return getattr(type(part), hook) is not getattr(Defense, hook)


def _single(parts: Mapping[str, Defense]) -> Iterator[tuple[str, Defense]]:
    """The defenses by name, those of a composed one each by itself."""
    for name, part in parts.items():
        if isinstance(part, Composed):
            yield from ((f"{name}.{inner}", own) for inner, own in part.parts.items())
        else:
            yield name, part


def _first(choices: Iterable[_Choice | None]) -> _Choice | None:
    return next((choice for choice in choices if choice is not None), None)


def _only(what: str, choices: Mapping[str, _Choice | None]) -> _Choice | None:
    """What those parts agree on that have one."""
    chosen = {name: choice for name, choice in choices.items() if choice is not None}
    first = next(iter(chosen), None)
    for name, choice in chosen.items():
        if first is not None and choice != chosen[first]:
            raise ConfigError(
                f"defenses {first} and {name} give an informed attacker two different {what}; keep one of "
                "them, or set attack.informed=false"
            )
    return None if first is None else chosen[first]


def compose(**parts: Defense) -> Composed:
    """The defenses of a config's ``defense`` node as one. Raises ConfigError naming two parts that contradict
    each other.
    """
    return Composed(parts)
