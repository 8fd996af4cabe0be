"""Networks of others as they are: torchvision's, timm's, or whatever a function of the user's makes.

They keep the names of their own tensors, so that their weight files fit, and say nothing of their layers:
attacks and defenses that look at images, answers and features take them, those that change layers do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import get_model, list_models  # type: ignore[attr-defined]

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Finite, Positive
from midre_exp.targets.base import Classifier, Output


class WrappedNetwork(Classifier):
    """A network that takes normalised images and returns logits [n, k], or a tuple that begins with them.

    Its features are what its last linear layer of k outputs takes; of a network without one, the logits.
    """

    head_name = ""

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ):
        super().__init__()
        self.set_normalisation(mean, std)
        self.network = network
        heads = [
            name
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == num_classes
        ]
        if heads:
            self.head_name = f"network.{heads[-1]}"  # type: ignore[misc]  # of this network alone

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """As of every classifier; the only tap is ``input``."""
        if unknown := sorted({*taps} - {"input"}):
            raise ConfigError(
                f"{type(self).__name__} has no tap {', '.join(unknown)}: it is a network of others, whose "
                "layers are not known here; known taps: input"
            )
        x = (images - self.mean) / self.std
        seen: list[Tensor] = []
        hook = None
        if self.head_name:
            hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            answer = self.network(x)
        finally:
            if hook is not None:
                hook.remove()
        auxiliary = None
        if isinstance(answer, (tuple, list)):
            answer, auxiliary = answer[0], answer[1] if len(answer) > 1 else None
        features = seen[-1] if seen else answer
        tapped = {"input": x} if taps else {}
        return Output(answer, features.flatten(1), tapped, auxiliary)

    def stages(self) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Raises ConfigError: nobody said what they are."""
        raise ConfigError(
            f"the layers of {type(self).__name__} are not known here; choose a defense that leaves layers as "
            "they are (midre, cutmix, nls), or a target of conf/target"
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own, under its own names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what ``state_dict`` gives."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)


class TorchvisionNetwork(WrappedNetwork):
    """A classifier of torchvision by its name there, e.g. ``mobilenet_v3_small``. Raises ConfigError for a
    name that it does not know.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        network: str,
        mean: Finite | Sequence[Finite] = 0.0,
        std: Positive | Sequence[Positive] = 1.0,
    ):
        super().__init__(torchvision_network(network, num_classes), num_classes, mean, std)


class TimmNetwork(WrappedNetwork):
    """A classifier of timm by its name there, e.g. ``vit_small_patch16_224``; ``image_size`` where it has to
    be told. Raises ConfigError for a name that it does not know.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        network: str,
        image_size: int | None = None,
        mean: Finite | Sequence[Finite] = 0.0,
        std: Positive | Sequence[Positive] = 1.0,
    ):
        super().__init__(timm_network(network, num_classes, image_size), num_classes, mean, std)


class FactoryNetwork(WrappedNetwork):
    """What a function of the user's makes, called with ``num_classes`` alone: a node with ``_target_`` and
    ``_partial_: true``, its package among ``runtime.trusted_packages``.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        factory: Callable[[int], nn.Module],
        mean: Finite | Sequence[Finite] = 0.0,
        std: Positive | Sequence[Positive] = 1.0,
    ):
        made = factory(num_classes=num_classes)  # type: ignore[call-arg]  # Callable has no names
        if not isinstance(made, nn.Module):
            raise ConfigError(
                f"the factory of the network makes a {type(made).__name__}; it must return a torch.nn.Module"
            )
        super().__init__(made, num_classes, mean, std)


def torchvision_names() -> list[str]:
    """The classifiers of torchvision; those for pixels, videos and quantised ones left out."""
    names: list[str] = list_models(module=models)
    return names


def torchvision_network(name: str, num_classes: int) -> nn.Module:
    """A classifier of torchvision with random weights. Raises ConfigError for an unknown name."""
    if name not in torchvision_names():
        raise ConfigError(
            f"torchvision has no classifier {name}; torchvision.models.list_models() lists them"
        )
    more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}  # minutes of drawing
    network: nn.Module = get_model(name, weights=None, num_classes=num_classes, **more)
    return network


def timm_network(name: str, num_classes: int, image_size: int | None = None) -> nn.Module:
    """A classifier of timm with random weights. Raises ConfigError for an unknown name."""
    import timm  # takes seconds, and only these networks need it

    if not timm.is_model(name):
        raise ConfigError(f"timm has no network {name}; timm.list_models() lists them")
    more: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **more)
    return network


def on_no_device(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose tensors have shapes alone."""
    with torch.device("meta"):
        return make()
