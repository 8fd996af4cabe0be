"""Surgery on skip connections, which RoLSS, SSF and TTS share (Koh et al. 2024): each multiplies what a
shortcut carries by a factor k.

State-dict keys and, except in DenseNets, shapes stay those of the plain network, so its weight files still
fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from midre_exp.defense import Defense
from midre_exp.errors import ConfigError
from midre_exp.targets.anatomy import Unit, stages_of
from midre_exp.targets.architectures.densenet import DenseNet
from midre_exp.targets.architectures.evolve import IR
from midre_exp.targets.architectures.inception_resnet_v1 import InceptionResNetV1
from midre_exp.targets.architectures.maxvit import MaxViT
from midre_exp.targets.architectures.resnest import ResNeSt
from midre_exp.targets.architectures.resnet import ResNet
from midre_exp.targets.architectures.vggface_resnet50 import VGGFaceResNet50
from midre_exp.targets.base import Classifier


class Shortcut(nn.Sequential):
    """A shortcut path of no or some layers, times ``k``. At k = 0 it is the scalar 0 and its layers are not
    run.

    At k = 1 nothing is multiplied: even the order in which autograd adds up gradients is that of the plain
    network.
    """

    def __init__(self, k: float, *layers: nn.Module):
        super().__init__(*layers)
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Take ``x`` [n, c, h, w] along the path, times k."""
        if self.k == 0:
            return x.new_zeros(())
        path = x
        for layer in self:
            path = layer(path)
        return path if self.k == 1 else self.k * path


class ScaledAttention(nn.Module):
    """A window or grid attention layer of torchvision's MaxViT with a ``Shortcut`` around the attention; its
    MLP keeps its own.

    At k = 0 stochastic depth spares the attention: with no shortcut to fall back on, a dropped branch would
    erase the image.
    """

    def __init__(self, layer: nn.Module, k: float):
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        self.shortcut = Shortcut(k)
        self._side: int = layer.p  # type: ignore[assignment]  # of the partitions, in the map's pixels
        self._grid: tuple[int, int] = layer.grid_size  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to the same shape."""
        part = self.get_submodule
        x = part("partition_swap")(part("partition_op")(x, self._side))
        branch = part("attn_layer")(x)
        x = self.shortcut(x) + (part("stochastic_dropout")(branch) if self.shortcut.k else branch)
        x = x + part("stochastic_dropout")(part("mlp_layer")(x))
        rows, columns = (length // self._side for length in self._grid)
        joined: Tensor = part("departition_op")(part("departition_swap")(x), self._side, rows, columns)
        return joined


class TruncatedBlock(nn.ModuleDict):
    """A dense block whose layers keep, of every earlier tensor but the newest, the first ``kept`` channels
    only.

    ``kept``: channels kept of the block's input, then of each layer's output.
    """

    def __init__(self, layers: Mapping[str, nn.Module], kept: tuple[int, int]):
        super().__init__(layers)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, c, h, w] to [n, c', h, w]: what the last layer adds, behind what is kept of the tensors
        before.
        """
        seen = [x]
        for index, layer in enumerate(self.values()):
            added = layer(seen)
            seen[-1] = seen[-1][:, : self.kept[index > 0]]
            seen.append(added)
        return torch.cat(seen, 1)


def scale_shortcuts(model: Classifier, k: float, stages: Sequence[str] | None, *, defense: str) -> None:
    """Multiply the shortcuts of ``stages`` (taps; None: the last stage) by ``k`` in [0, 1], in place.

    MaxViT: the shortcuts of the grid attention. DenseNet: of each tensor that a layer passes on beside its
    own, the first round(k c) of its c channels (half to even), in the last block only, whose parts are then
    ``fresh``. Other networks: of every residual block or unit. Raises ConfigError naming ``defense`` for a
    network without skip connections and for unknown stages.
    """
    known = stages_of(model)
    last = list(known)[-1]
    chosen = (last,) if stages is None else tuple(stages)
    if unknown := [name for name in chosen if name not in known or name == "stem"] or ["none"] * (not chosen):
        raise ConfigError(
            f"defense.{defense}.stages names {', '.join(unknown)}; the stages of {type(model).__name__} with skip connections are "
            f"{', '.join(name for name in known if name != 'stem')}"
        )
    for kind, scale in _FAMILIES.items():
        if isinstance(model, kind):
            for stage in chosen:
                scale(model, known[stage], k)
            return
    if not isinstance(model, DenseNet):
        raise ConfigError(
            f"defense.{defense} acts on skip connections and {type(model).__name__} has none; choose another target or defense"
        )
    if chosen != (last,):
        raise ConfigError(
            f"defense.{defense}.stages={list(chosen)} is not possible in a DenseNet, where a changed block changes the shapes of all that "
            f"follows; leave it at null, the last block"
        )
    _truncate(model, last, k)


def set_shortcuts(model: nn.Module, k: float) -> None:
    """Give every ``Shortcut`` in ``model`` the factor ``k``, in place."""
    for module in model.modules():
        if isinstance(module, Shortcut):
            module.k = k


def _scale_downsample(model: Classifier, units: Sequence[Unit], k: float) -> None:
    for (name,) in units:
        block: Any = model.get_submodule(name)
        block.downsample = Shortcut(k, *(block.downsample or ()))


def _scale_ir(model: Classifier, units: Sequence[Unit], k: float) -> None:
    for (name,) in units:
        unit: Any = model.get_submodule(name)
        path = unit.shortcut_layer
        unit.shortcut_layer = Shortcut(k, *(path if isinstance(path, nn.Sequential) else (path,)))


def _scale_inception(model: Classifier, units: Sequence[Unit], k: float) -> None:
    for (name,) in units:
        block: Any = model.get_submodule(name)
        if hasattr(block, "shortcut"):  # the reductions have none
            block.shortcut = Shortcut(k)


def _scale_vggface(model: Classifier, units: Sequence[Unit], k: float) -> None:
    for unit in units:
        for name in unit:
            if name.endswith("_shortcut"):
                setattr(model, name, Shortcut(k))


def _scale_attention(model: Classifier, units: Sequence[Unit], k: float) -> None:
    for (name,) in units:
        layers: Any = model.get_submodule(f"{name}.layers")
        layers.grid_attention = ScaledAttention(layers.grid_attention, k)


_FAMILIES: Mapping[type[Classifier], Callable[[Classifier, Sequence[Unit], float], None]] = {
    ResNet: _scale_downsample,
    ResNeSt: _scale_downsample,
    IR: _scale_ir,
    InceptionResNetV1: _scale_inception,
    VGGFaceResNet50: _scale_vggface,
    MaxViT: _scale_attention,
}


def _truncate(model: DenseNet, name: str, k: float) -> None:
    """Rebuild the last dense block, the norm behind it and the head for fewer channels, initialised as
    torchvision does.
    """
    layers: dict[str, Any] = dict(model.get_submodule(f"features.{name}").named_children())
    growth: int = layers["denselayer1"].conv2.out_channels
    inputs: int = layers["denselayer1"].norm1.num_features
    kept = round(k * inputs), round(k * growth)
    if kept == (inputs, growth):
        return  # nothing is cut off
    channels = [inputs] + [kept[0] + index * kept[1] + growth for index in range(len(layers))]
    for layer, before in list(zip(layers.values(), channels, strict=False))[1:]:
        layer.norm1 = nn.BatchNorm2d(before)
        layer.conv1 = nn.Conv2d(before, layer.conv1.out_channels, 1, bias=False)
        nn.init.kaiming_normal_(layer.conv1.weight)
    model.features.add_module(name, TruncatedBlock(layers, kept))
    model.features.add_module("norm5", nn.BatchNorm2d(channels[-1]))
    model.head = nn.Linear(channels[-1], model.classifier.out_features)
    nn.init.zeros_(model.classifier.bias)
    model.fresh = (*model.fresh, f"features.{name}", "features.norm5")


class SkipDefense(Defense):
    """What RoLSS, SSF and TTS have in common.

    ``k``: factor of the shortcuts, 0 to 1. ``stages``: where (taps of the target); None takes the entry of
    ``stages_by_target`` for ``target``, or without one the last stage. Raises ConfigError for another k.
    """

    exclusive: ClassVar[frozenset[str]] = frozenset({"skip"})
    name: ClassVar[str]

    def __init__(
        self,
        *,
        target: str,
        k: float,
        stages: Sequence[str] | None,
        stages_by_target: Mapping[str, Sequence[str]],
    ):
        if not isinstance(k, (int, float)) or not 0 <= k <= 1:
            raise ConfigError(
                f"defense.{self.name}.k={k} must be a number from 0 to 1; 1 is the plain network"
            )
        self.k = k
        self.stages = stages_by_target.get(target) if stages is None else stages

    def modify_backbone(self, model: Classifier) -> None:
        """Scale the shortcuts. Raises ConfigError for a network without any."""
        scale_shortcuts(model, self.k, self.stages, defense=self.name)
