"""How a run rounds: the ``numerics`` node of a config (conf/numerics), applied alike to every stage and part
of the key of each.

``Numerics.applied`` sets torch's own switches for the time of a stage. Networks are put under autocast, in
another memory order or through the compiler by ``accelerate`` (those that are asked: changed in place) and
``call`` (those that are trained: a function beside the network). They still return float32; losses, latents,
optimisers and statistics are outside. Under plain ``Numerics()`` networks are not touched.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

from midre_exp.errors import ConfigError

if TYPE_CHECKING:  # here and in the functions below: keys are made before torch is loaded
    import torch
    from torch import nn

#: The methods by which a prior runs its networks on latents and images; StyleGAN's mapping network stays
#: exact where it is asked alone.
PRIOR_CALLS = ("generate", "realism", "synthesise", "run_blocks", "noise")
#: What cuBLAS reads when it starts: without it its sums may differ from one call to the next.
_CUBLAS, _IN_ONE_ORDER = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"


#: Of the numbers that networks multiply: half the distance of two neighbours near 1.
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-9}


@dataclass(frozen=True)
class Numerics:
    """How the networks of a run compute (conf/numerics/strict.yaml says what each option costs)."""

    precision: Literal["float32", "tf32", "bf16"] = "float32"  #: of products and convolutions
    deterministic: bool = True  #: algorithms that sum in one order, as far as there are any
    cudnn_benchmark: bool = False  #: try all algorithms of a convolution and keep the fastest
    channels_last: bool = False  #: convolution weights, and with them the activations, in NHWC order
    compile: bool = False  #: torch.compile, whose results can be differentiated once, not twice

    def __str__(self) -> str:
        """In a few words, for captions: ``float32, deterministic``."""
        on = [name.replace("_", " ") for name, value in asdict(self).items() if value is True]
        return ", ".join([self.precision, *on])

    def check(self, device: torch.device) -> None:
        """Raise ConfigError for what ``device`` cannot do here."""
        if self.precision == "bf16":
            _check_bf16(device)
        if self.compile:
            _check_compiler(device)

    @contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Torch's switches as asked for, within; afterwards as they were. Raises ConfigError as ``check``."""
        self.check(device)
        before = _switches()
        _switch(
            float32_matmul="highest",
            tf32=(device.type == "cuda" and self.precision != "float32",) * 2,
            benchmark=self.cudnn_benchmark,
            deterministic=self.deterministic,
            # an operator of which torch has no such algorithm warns, and computes
            debug_mode=int(self.deterministic),
            fill=False,  # memory that is written before anybody reads it
            cublas=os.environ.get(_CUBLAS, _IN_ONE_ORDER) if self.deterministic else before["cublas"],
        )
        try:
            yield
        finally:
            _switch(**before)

    def accelerate(self, network: nn.Module, calls: Sequence[str] = ("forward",)) -> None:
        """Change how ``network`` carries out those of its methods that ``calls`` names."""
        self.reorder(network)
        for name in calls:
            call = getattr(network, name, None)
            if call is not None and (self.compile or self.precision == "bf16"):
                setattr(network, name, self.call(call))

    def reorder(self, network: nn.Module) -> None:
        """Put the convolution weights of ``network`` in NHWC order, if that is asked for."""
        import torch

        if self.channels_last:  # Module.to gives this order to weights with four dimensions alone
            network.to(memory_format=torch.channels_last)

    def call(self, network: Callable[..., Any]) -> Callable[..., Any]:
        """A function that does what ``network`` does, under these numerics, and leaves it as it is."""
        import torch

        if self.compile:
            network = torch.compile(network)
        return _in_bf16(network) if self.precision == "bf16" else network


def make_numerics(settings: Mapping[str, Any]) -> Numerics:
    """What the ``numerics`` node of a resolved config asks for."""
    return Numerics(**{name: settings[name] for name in Numerics.__dataclass_fields__})


def in_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of the ``numerics`` node of a resolved config makes other results."""
    return asdict(make_numerics(settings))


def explained(settings: Mapping[str, Any]) -> str:
    """The ``numerics`` node of a resolved config in a line, with the reason of what the machine chose."""
    reason = f" (the machine chose {settings['why']})" if settings["why"] else ""
    return f"numerics: {make_numerics(settings)}{reason}"


def _switches() -> dict[str, Any]:
    """Torch's switches as they stand."""
    import torch

    cudnn = torch.backends.cudnn
    return {
        "float32_matmul": torch.get_float32_matmul_precision(),
        "tf32": (torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32),
        "benchmark": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
        "debug_mode": torch.get_deterministic_debug_mode(),
        "fill": _filling().fill_uninitialized_memory,
        "cublas": os.environ.get(_CUBLAS),
    }


def _switch(
    *,
    float32_matmul: str,
    tf32: tuple[bool, bool],
    benchmark: bool,
    deterministic: bool,
    debug_mode: int,
    fill: bool,
    cublas: str | None,
) -> None:
    """Set them; ``tf32``: of products, of convolutions. Of torch's two ways to say it, the one that every
    version knows.
    """
    import torch

    cudnn = torch.backends.cudnn
    torch.set_float32_matmul_precision(float32_matmul)
    products, cudnn.allow_tf32 = tf32
    if torch.backends.cuda.matmul.allow_tf32 != products:  # which the precision of products decides too
        torch.backends.cuda.matmul.allow_tf32 = products
    cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
    # not use_deterministic_algorithms, which loads the compiler for seconds
    torch.set_deterministic_debug_mode(debug_mode)
    _filling().fill_uninitialized_memory = fill
    if cublas is None:
        os.environ.pop(_CUBLAS, None)
    else:
        os.environ[_CUBLAS] = cublas


def _filling() -> Any:
    """Where torch keeps whether it fills new memory: a module with a property, which types cannot say."""
    import torch

    return torch.utils.deterministic


def _check_bf16(device: torch.device) -> None:
    import torch

    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"numerics.precision=bf16, but {torch.cuda.get_device_name(device)} has no bfloat16; use "
            "numerics=strict"
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
            f"numerics.compile=true needs a {language} compiler and finds no {' or '.join(names)}; "
            "install one or use numerics.compile=false"
        )


def _in_bf16(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` under autocast on the device of its first argument, its results as float32."""
    import torch

    @wraps(call, updated=())
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
