"""LOMMA's student classifiers: EfficientNets of torchvision without their head and dropout, reduced ones for
small images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier

#: Width and depth multipliers of each name (Tan and Le 2019, Table 8).
SIZES = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2)}
#: Expansion, kernel, stride, channels in and out, layers of each stage of B0 (Table 1).
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class Student(Classifier):
    """EfficientNet ``name`` (b0, b1, b2) for images in [0, 1], not normalised; official keys of LOMMA,
    ``feature.*`` and ``fc_layer.*``.

    ``width`` and ``depth`` multiply those of the published network; ``stem`` "small" leaves out the first
    halving, for 32 pixels. In train mode blocks are skipped at random (stochastic depth 0.2, torchvision).
    Raises ConfigError for an unknown name or stem or a multiplier that is not positive.
    """

    head_name = "fc_layer"

    def __init__(
        self, *, name: str, num_classes: int, width: float = 1.0, depth: float = 1.0, stem: str = "imagenet"
    ):
        super().__init__()
        if name not in SIZES:
            raise ConfigError(
                f"student {name} is unknown; attack.surrogates.students may list {', '.join(SIZES)}"
            )
        if stem not in ("imagenet", "small"):
            raise ConfigError(f"attack.surrogates.stem={stem} is unknown; use imagenet or small")
        if width <= 0 or depth <= 0:
            raise ConfigError(
                f"attack.surrogates.width={width} and attack.surrogates.depth={depth} must be positive; 1.0 "
                "is the published size"
            )
        own_width, own_depth = SIZES[name]
        whole = EfficientNet(
            [MBConvConfig(*stage, own_width * width, own_depth * depth) for stage in _STAGES], dropout=0.0
        )
        if stem == "small":
            first = whole.get_submodule("features.0.0")
            first.stride = (1, 1)  # type: ignore[assignment]  # of a Conv2d
        self.library = f"efficientnet_{name}"
        self.feature = nn.Sequential(whole.features, whole.avgpool)
        channels = whole.get_submodule("classifier.1").get_parameter("weight").shape[1]
        self.fc_layer = nn.Linear(channels, num_classes)
        self.set_normalisation(0.0, 1.0)

    def stages(self) -> Iterable[tuple[str, Callable[[Tensor], Tensor]]]:
        """The network up to the pooled features."""
        return (("feature", self.feature),)

    @staticmethod
    def own_key(key: str) -> str | None:
        """Torchvision's ``features.*`` is ``feature.0.*`` here; its head has no place."""
        part, _, rest = key.partition(".")
        return {"features": f"feature.0.{rest}", "classifier": None}.get(part, key)
