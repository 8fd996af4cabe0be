"""The Oxford VGGFace2 ResNet-50 that MIRROR attacks, in the layer names of its PyTorch conversion; not
torchvision's ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import linear, relu

from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier, scaled_channels
from midre_exp.targets.blocks import Block

#: Mean pixel of the Oxford models, RGB in 0-255, as fractions; they subtract it and divide by nothing.
MEAN = (131.0912 / 255, 103.8827 / 255, 91.4953 / 255)


class PointwiseLinear(nn.Linear):
    """A linear layer [n, d] to [n, k] whose weight has the shape of a 1x1 convolution's, [k, d, 1, 1]."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(self.weight.detach()[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, in_features] to [n, out_features]."""
        return linear(x, self.weight.flatten(1), self.bias)


class VGGFaceResNet50(Classifier):
    """ResNet-50 as converted from Oxford's Caffe model ("scratch", 8631 identities of VGGFace2), with its
    names and strides.

    A stage halves the map in the first 1x1 convolution and the projection of its first block, not in the 3x3;
    the max pooling is unpadded and rounds up. Images [n, 3, h, w] of any size (native 224); features [n, 2048
    * ``width``], pooled. ``blocks`` are the residual blocks of ``conv2`` to ``conv5``. The default
    normalisation is Oxford's, 0-255 minus the mean pixel. Taps: ``stem``, ``conv2`` to ``conv5``, ``pool``
    (the features). Raises ConfigError naming the option.

    Written from a description of the converted layers (MIRROR's repository); no numbers of the original
    network were at hand to compare with, so check the accuracy of a published file before relying on it.
    """

    head_name = "classifier"

    def __init__(
        self,
        *,
        num_classes: int,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: float = 1.0,
        mean: float | Sequence[float] = MEAN,
        std: float | Sequence[float] = 1 / 255,
    ):
        super().__init__()
        self.set_normalisation(mean, std)
        if len(blocks) != 4 or min(blocks) < 1:
            raise ConfigError(
                f"model.blocks={list(blocks)} must be four positive numbers; published are 3, 4, 6, 3"
            )
        self._blocks = tuple(blocks)
        before = scaled_channels(64, width)
        self._add("conv1_7x7_s2", 3, before, 7, stride=2, padding=3)
        self.pool1_3x3_s2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        for stage, number in enumerate(blocks, start=2):
            inner = scaled_channels(64 * 2 ** (stage - 2), width)
            for index in range(1, number + 1):
                name, stride = f"conv{stage}_{index}", 2 if stage > 2 and index == 1 else 1
                self._add(f"{name}_1x1_reduce", before, inner, 1, stride=stride)
                self._add(f"{name}_3x3", inner, inner, 3, padding=1)
                self._add(f"{name}_1x1_increase", inner, 4 * inner, 1)
                if index == 1:
                    self._add(f"{name}_1x1_proj", before, 4 * inner, 1, stride=stride)
                self.add_module(f"{name}_shortcut", nn.Identity())  # a place for defenses that act on it
                before = 4 * inner
        self.classifier = PointwiseLinear(before, num_classes)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """The first convolution with pooling, the four stages, global average pooling (7x7 at 224 px)."""
        yield "stem", lambda x: self.pool1_3x3_s2(relu(self._normed("conv1_7x7_s2", x)))
        for stage in range(2, 6):
            yield f"conv{stage}", partial(self._stage, stage)
        yield "pool", lambda x: x.mean((2, 3))

    def stage_blocks(self) -> Mapping[str, Sequence[Block]]:
        """The first convolution, and the layers of every residual block."""
        names = [name for name, _ in self.named_children()]
        return {
            "stem": [("conv1_7x7_s2", "conv1_7x7_s2_bn")],
            **{
                f"conv{stage}": [
                    tuple(name for name in names if name.startswith(f"conv{stage}_{index}_"))
                    for index in range(1, self._blocks[stage - 2] + 1)
                ]
                for stage in range(2, 6)
            },
        }

    def shortcuts(self) -> Mapping[str, Sequence[str]]:
        """The path around every residual block, behind its projection where it has one."""
        return {
            f"conv{stage}": [f"conv{stage}_{n}_shortcut" for n in range(1, self._blocks[stage - 2] + 1)]
            for stage in range(2, 6)
        }

    def _add(
        self, name: str, before: int, channels: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        """A convolution ``name`` and its batch norm ``name_bn``."""
        convolution = nn.Conv2d(before, channels, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.add_module(name, convolution)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(channels))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        normed: Tensor = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return normed

    def _stage(self, stage: int, x: Tensor) -> Tensor:
        for index in range(1, self._blocks[stage - 2] + 1):
            name = f"conv{stage}_{index}"
            shortcut = self._normed(f"{name}_1x1_proj", x) if index == 1 else x
            x = relu(self._normed(f"{name}_1x1_reduce", x))
            x = relu(self._normed(f"{name}_3x3", x))
            x = relu(
                self._normed(f"{name}_1x1_increase", x) + self.get_submodule(f"{name}_shortcut")(shortcut)
            )
        return x
