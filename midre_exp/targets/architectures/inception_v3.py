"""Torchvision's Inception-v3, the 299 px evaluation model of PPA and of its feature distances, and reduced
forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torchvision.models.inception as torchvision_inception
from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d, InceptionAux

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, Finite, NonNegative, Positive, Width
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.blocks import Block


class Stem(NamedTuple):
    """The padding of the three convolutions that have none in the published stem, and what goes with it."""

    padding: int
    pooled: bool  #: whether the second max pooling is there
    smallest: int  #: px from which on every layer has an output
    auxiliary: int  #: the same for the auxiliary head


STEMS = {"published": Stem(0, True, 75, 299), "small": Stem(1, False, 29, 141)}

#: The mixed layers, by the size of their maps; each row's last is the tap.
MIXED = (
    ("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)
#: Mixed layers that keep the number of channels: without them 48 convolutions are left of 94, one block of
#: each kind.
REPEATS = ("Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c")


class InceptionV3(Classifier, torchvision_inception.Inception3):
    """An Inception-v3 (Szegedy et al. 2016) with torchvision's keys.

    Images [n, 3, h, w], published 299 px, at least 75 (``stem="small"``: 29); features [n, 2048 * ``width``]
    after global pooling. Dropout, between features and head, acts in training only and leaves the features
    alone.

    ``auxiliary``: a second head on ``Mixed_6e`` of ``auxiliary_classes`` outputs, returned in training mode
    only; its cross entropy joins the loss with ``auxiliary_weight``. The official recipe leaves it at
    ImageNet's 1,000 outputs, whatever the number of classes. Training it takes 299 px (``small``: 141).

    ``transform_input`` is a trap: it multiplies the normalised channels by about 0.45 and shifts them to
    ImageNet's statistics, torchvision turns it on with ImageNet weights and off without, and no weight file
    tells. PPA trains its evaluation models with it on and rebuilds them for attacks with it off. It belongs
    to the weights: leave it on for models trained here, and for a published file keep whichever gives the
    higher test accuracy.

    ``init_weights`` draws all weights as the paper did (truncated normal) instead of PyTorch's way, which is
    that of the official new head. ``width`` (1, 1/2, .. 1/16) scales all channels, ``short`` leaves out the
    mixed layers that keep the number of channels. Inputs are first normalised with 0.5 / 0.5. Taps: ``stem``,
    ``Mixed_5d``, ``Mixed_6e``, ``Mixed_7c``, ``pool`` (the features). Raises ConfigError for an unknown stem,
    for other widths, for fewer auxiliary classes than classes, and for images too small.
    """

    head_name = "fc"
    library = "inception_v3"
    optional = ("AuxLogits",)

    def __init__(
        self,
        *,
        num_classes: int,
        auxiliary: bool = True,
        auxiliary_classes: Count = 1000,
        auxiliary_weight: NonNegative = 1.0,
        transform_input: bool = True,
        dropout: BelowOne = 0.5,
        init_weights: bool = False,
        width: Width = 1.0,
        short: bool = False,
        stem: Literal["published", "small"] = "published",
        mean: Finite | Sequence[Finite] = 0.5,
        std: Positive | Sequence[Positive] = 0.5,
    ):
        if stem not in STEMS:
            raise ConfigError(f"model.stem={stem} is unknown; use one of {', '.join(STEMS)}")
        if width <= 0 or width * 16 != round(width * 16):
            raise ConfigError(
                f"model.width={width} must be a positive multiple of 1/16, which keeps all channels whole"
            )
        if auxiliary and auxiliary_classes < num_classes:
            raise ConfigError(
                f"model.auxiliary_classes={auxiliary_classes} is less than the {num_classes} classes; "
                "raise it, or set model.auxiliary=false"
            )
        unit = partial(_unit, width)
        inner = [getattr(torchvision_inception, f"Inception{letter}") for letter in "ABCDE"]
        super().__init__(
            num_classes=num_classes,
            aux_logits=auxiliary,
            transform_input=transform_input,
            inception_blocks=[
                unit,
                *(partial(block, conv_block=unit) for block in inner),
                partial(_auxiliary, width, auxiliary_classes),
            ],
            init_weights=init_weights,
            dropout=dropout,
        )
        self.auxiliary_weight = auxiliary_weight if auxiliary else 0.0
        self.set_normalisation(mean, std)
        if width != 1:
            self.fc = nn.Linear(round(2048 * width), num_classes)
            if init_weights:
                nn.init.trunc_normal_(self.fc.weight, std=0.1)
        for name in REPEATS if short else ():
            setattr(self, name, nn.Identity())
        self._stem = STEMS[stem]
        for name in ("1a", "2a", "4a"):
            layer = cast(nn.Conv2d, self.get_submodule(f"Conv2d_{name}_3x3.conv"))
            layer.padding = (self._stem.padding, self._stem.padding)
        if not self._stem.pooled:
            self.maxpool2 = nn.Identity()  # type: ignore[assignment]  # torchvision types it as its own layer

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Input transform and stem, the mixed layers by the size of their maps, global average pooling."""
        yield "stem", lambda x: self._convolutions(self._transform_input(x))
        for names in MIXED:
            yield names[-1], nn.Sequential(*map(self.get_submodule, names))
        yield "pool", lambda x: torch.flatten(self.avgpool(x), 1)

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The stem, and the mixed layers by the size of their maps."""
        stem = tuple(name for name, _ in self.named_children() if name.startswith("Conv2d_"))
        return {"stem": [stem], **{names[-1]: [(name,) for name in names] for names in MIXED}}

    def _convolutions(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        y: Tensor = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        return y

    def forward(  # type: ignore[override]  # torchvision's has no taps
        self, images: Tensor, taps: Sequence[str] = ()
    ) -> Output:
        """Classify as every ``Classifier``; in training mode with dropout before the head, and with the
        auxiliary logits.
        """
        second = self.AuxLogits if self.training else None
        smallest = self._stem.smallest if second is None else self._stem.auxiliary
        if min(images.shape[-2:]) < smallest:
            height, width = images.shape[-2:]
            reason = "" if second is None else " in training, or model.auxiliary=false"
            raise ConfigError(
                f"images of {height}x{width} px are too small for InceptionV3; use {smallest} px or "
                f"more{reason}"
            )
        if second is None:
            return Classifier.forward(self, images, taps)
        output = Classifier.forward(self, images, tuple({*taps, "Mixed_6e"}))
        kept = {name: output.taps[name] for name in taps}
        return output._replace(taps=kept, auxiliary=second(output.taps["Mixed_6e"]))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d], through dropout in training mode."""
        logits: Tensor = self.head(self.dropout(features))
        return logits


def _unit(width: float, inputs: int, outputs: int, **options: Any) -> BasicConv2d:
    """Torchvision's convolution unit with ``width`` times its channels; the 3 of images stay."""
    return BasicConv2d(inputs if inputs == 3 else round(inputs * width), round(outputs * width), **options)


def _auxiliary(width: float, classes: int, inputs: int, _: int) -> InceptionAux:
    """Torchvision's auxiliary head, with its own number of classes instead of the network's."""
    second = InceptionAux(inputs, classes, conv_block=partial(_unit, width))
    if width != 1:
        second.fc = nn.Linear(round(768 * width), classes)
        second.fc.stddev = 0.001  # type: ignore[assignment]  # as torchvision marks it for init_weights
    return second
