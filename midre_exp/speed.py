"""Faster arithmetic for the attack stage: what ``speed`` in the config switches on. Training and evaluation
stay in plain float32.

Networks are changed in place, keep their type and their weights, and still return float32; losses, latents
and optimisers are outside. All three switches round differently (``bf16`` coarsely, the others in the last
bits, which an optimisation of hundreds of steps amplifies), so a switch that is on enters the attack's key.
With all of them off nothing is touched.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError

if TYPE_CHECKING:  # here and in the functions below: keys are made before torch is loaded
    import torch
    from torch import nn

SWITCHES = ("bf16", "channels_last", "compile")

#: The methods by which a prior runs its networks on latents and images; StyleGAN's mapping network stays
#: exact where it is asked alone.
PRIOR_CALLS = ("generate", "realism", "synthesise", "run_blocks")


@dataclass(frozen=True)
class Speed:
    """How the networks of an attack compute."""

    bf16: bool = False  #: products and convolutions in bfloat16 by autocast, forward and backward
    channels_last: bool = False  #: convolution weights, and with them the activations, in NHWC order
    compile: bool = False  #: torch.compile, whose results can be differentiated once, not twice

    def accelerate(self, network: nn.Module, calls: Sequence[str] = ("forward",)) -> None:
        """Change how ``network`` carries out those of its methods that ``calls`` names."""
        import torch

        if self.channels_last:  # Module.to gives this order to weights with four dimensions alone
            network.to(memory_format=torch.channels_last)
        if not (self.compile or self.bf16):
            return
        for name in calls:
            call = getattr(network, name, None)
            if call is None:
                continue
            if self.compile:
                call = torch.compile(call)
            setattr(network, name, _in_bf16(call) if self.bf16 else call)


def switched_on(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the switches that are on in the ``speed`` node of a config.

    Raises ConfigError for a name that is no switch and for a value that is neither true nor false.
    """
    for name, value in settings.items():
        if name not in SWITCHES:
            raise ConfigError(f"speed.{name} is unknown; use one of {', '.join(SWITCHES)}")
        if not isinstance(value, bool):
            raise ConfigError(f"speed.{name}={value} must be true or false")
    return tuple(name for name in SWITCHES if settings.get(name))


def make_speed(settings: Mapping[str, Any], device: torch.device) -> Speed:
    """What the ``speed`` node of a config asks for. Raises ConfigError as ``switched_on``, and for what
    ``device`` cannot do here.
    """
    switches = switched_on(settings)
    if "bf16" in switches:
        _check_bf16(device)
    if "compile" in switches:
        _check_compiler(device)
    return Speed(**dict.fromkeys(switches, True))


def _check_bf16(device: torch.device) -> None:
    import torch

    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"speed.bf16=true, but {torch.cuda.get_device_name(device)} has no bfloat16; use speed.bf16=false"
        )


def _check_compiler(device: torch.device) -> None:
    """torch.compile writes C++ for the CPU and, around its Triton kernels, C for a GPU."""
    if device.type == "cuda":
        language, names = "C", [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    else:
        language = "C++"
        names = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"speed.compile=true needs a {language} compiler and finds no {' or '.join(names)}; "
            "install one or use speed.compile=false"
        )


def _in_bf16(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` under autocast on the device of its first argument, its results as float32."""
    import torch

    @wraps(call)
    def with_autocast(first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if torch.is_autocast_enabled(first.device.type):  # within another such call, which returns to float32
            return call(first, *rest, **options)
        with torch.autocast(first.device.type, torch.bfloat16):
            result = call(first, *rest, **options)
        return _as_float32(result)

    return with_autocast


def _as_float32(value: Any) -> Any:
    """The same structure with every bfloat16 tensor as float32."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, Mapping):
        return {name: _as_float32(part) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [_as_float32(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
