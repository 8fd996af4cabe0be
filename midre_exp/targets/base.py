"""What a classifier is to the rest of the project: images in [0, 1] in, one ``Output`` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.targets.blocks import Block, traced_blocks
from midre_exp.targets.shortcut import scale_shortcut


def scaled_channels(channels: int, width: float) -> int:
    """``channels`` times the channel multiplier ``width`` of a reduced network, rounded, at least 1.

    Raises ConfigError for a width that is not positive.
    """
    if width <= 0:
        raise ConfigError(f"model.width={width} must be positive; 1.0 is the published size")
    return max(1, round(channels * width))


class Output(NamedTuple):
    """What every classifier returns."""

    logits: Tensor  #: [n, k]
    features: Tensor  #: [n, d], the input of the last linear layer
    taps: Mapping[str, Tensor] = {}  #: hidden activations by stage name, only those asked for; never written
    #: Logits [n, >= k] of a second head, in training mode only (Inception-v3).
    auxiliary: Tensor | None = None


class Classifier(nn.Module):
    """Base of all classifiers.

    A subclass names its head (``head_name``) and lists its ``stages`` in order; the output of the last stage,
    flattened, is the feature vector. State-dict keys are the official ones of the architecture: input
    normalisation is a non-persistent buffer.

    Defenses change a network by what it says of itself: ``stage_blocks`` is read from the stages unless the
    subclass knows better, ``shortcuts`` names its skip connections.
    """

    head_name: ClassVar[str]
    library: str = ""  #: whose ImageNet weights are this model's: a torchvision name, or ``timm/<name>``
    fresh: tuple[str, ...] = ()  #: submodules that public weights need not give; surgery may add some
    #: Submodules unused by inference, which any weight file may lack or shape otherwise.
    optional: tuple[str, ...] = ()
    feature_norm: str = (
        ""  #: submodule that normalises the features, where the last stage ends in one of its own
    )
    auxiliary_weight: float = 0.0  #: factor of the cross entropy on ``Output.auxiliary``
    mean: Tensor
    std: Tensor

    def set_normalisation(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        """Store the per-channel input normalisation ``(x - mean) / std`` in pixel units of [0, 1].

        Raises ConfigError unless each is one number or three, and every std is positive.
        """
        for name, value in (("mean", mean), ("std", std)):
            channels = [float(value)] * 3 if isinstance(value, (int, float)) else [float(v) for v in value]
            if len(channels) != 3:
                raise ConfigError(f"model.{name}={value} must be one number or three, one per RGB channel")
            if name == "std" and min(channels) <= 0:
                raise ConfigError(f"model.std={value} must be positive; use 1 for no scaling")
            self.register_buffer(name, torch.tensor(channels).view(1, 3, 1, 1), persistent=False)

    def stages(self) -> Iterable[tuple[str, Callable[[Tensor], Tensor]]]:
        """The network up to the features, in order, as (tap name, function)."""
        raise NotImplementedError(f"{type(self).__name__} must list its stages")

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The blocks of every stage that has weights, in the order of the forward pass, by tap name.

        By default all stages with weights, as far as they can be followed without an image; ConfigError where
        they cannot. An architecture lists its own: without an embedding behind the last map, and with layers
        between two stages (reductions) as blocks of the later one.
        """
        return traced_blocks(self, self.stages())

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The submodules that carry the skip connections, by stage; none by default.

        Each takes a block's input to the sum. It is ``nn.Identity`` or None where nothing is done to the
        input, or an ``nn.Sequential``: ``scale_shortcuts`` puts a ``Shortcut`` in its place.
        """
        return {}

    def scale_shortcuts(self, stages: Sequence[str], k: float) -> None:
        """Multiply the skip connections of ``stages`` by ``k`` in [0, 1] in place, before weights are loaded.

        Keys and shapes stay those of the plain network; an architecture for which they cannot declares what
        it rebuilds as ``fresh``. Raises ConfigError for stages in which it is not possible.
        """
        for stage in stages:
            for name in self.shortcuts()[stage]:
                scale_shortcut(self, name, k)

    @staticmethod
    def own_key(key: str) -> str | None:
        """The state-dict key of what a public weight file calls ``key``; None if it has no place here."""
        return key

    @property
    def head(self) -> nn.Module:
        """The last layer: features [n, d] to logits [n, k]."""
        return self.get_submodule(self.head_name)

    @head.setter
    def head(self, module: nn.Module) -> None:
        parent, _, leaf = self.head_name.rpartition(".")
        setattr(self.get_submodule(parent), leaf, module)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "head":  # nn.Module would register a module of that name and never reach the setter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """Classify ``images`` float [n, 3, h, w] in [0, 1].

        ``taps`` names stages to return the output of; ``input`` is the normalised images. Raises ConfigError
        on an unknown one.
        """
        x = (images - self.mean) / self.std
        kept: dict[str, Tensor] = {"input": x} if "input" in taps else {}
        for name, stage in self.stages():
            x = stage(x)
            if name in taps:
                kept[name] = x
        if len(kept) != len(taps):
            known = ", ".join(["input", *(name for name, _ in self.stages())])
            missing = ", ".join(sorted(set(taps) - set(kept)))
            raise ConfigError(f"{type(self).__name__} has no tap {missing}; known taps: {known}")
        features = x.flatten(1)
        return Output(self.classify(features), features, kept)

    def classify(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        logits: Tensor = self.head(features)
        return logits
