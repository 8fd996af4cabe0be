"""This process as one on a machine with a GPU: what torch, Lightning and this project ask of one."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from tests.rehearsal.device_tensor import (
    DEVICE,
    TOTAL,
    DeviceTensor,
    Observer,
    PretendedDevice,
    PretendedGenerator,
    allocated,
    memory,
)

#: The environment variable with the place of the compiled stub.c, which LD_PRELOAD loads too.
STUB = "MIDRE_REHEARSAL_STUB"
#: torch's engine asks whether a context is open on more devices than there are.
ASKED_FOR = 16


def is_prepared() -> bool:
    """Whether this process was started with the stub."""
    return STUB in os.environ and os.environ.get("LD_PRELOAD") == os.environ[STUB]


class _Context:
    """A stream, an event, a device in force: nothing waits here."""

    def __init__(self, *_: Any, **__: Any):
        self.cuda_stream, self.device = 0, DEVICE

    def __enter__(self) -> _Context:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def _answers() -> dict[str, Any]:
    """What the functions of torch.cuda return; None for those that act on a device."""
    none = dict.fromkeys(
        (
            *("_lazy_init", "init", "synchronize", "empty_cache", "ipc_collect", "_sleep"),
            *("set_device", "set_stream"),
            *("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "set_rng_state_all"),
            *("reset_peak_memory_stats", "reset_accumulated_memory_stats"),
        )
    )
    state = torch.Generator().get_state()
    properties = SimpleNamespace(
        name="pretended GPU", major=8, minor=0, total_memory=TOTAL, multi_processor_count=108
    )
    return {
        **none,
        **dict.fromkeys(("memory_reserved", "max_memory_allocated", "max_memory_reserved"), 0),
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "mem_get_info": (TOTAL * 4 // 5, TOTAL),
        "get_device_name": "pretended GPU",
        "get_device_capability": (8, 0),
        "get_device_properties": properties,
        "get_arch_list": ["sm_80"],
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "get_rng_state": state,
        "get_rng_state_all": [state],
        "memory_stats": {},
        "initial_seed": 0,
    }


def pretend(observer: Observer) -> contextlib.ExitStack:
    """From now on there is a GPU in this process; closing what is returned ends it for new tensors."""
    # before there are devices, so that torch takes a guard that does nothing
    torch._C._ensureCUDADeviceGuardSet()
    ctypes.CDLL(os.environ[STUB]).pretend_devices(ASKED_FOR)
    for name, answer in _answers().items():
        setattr(torch.cuda, name, lambda *_, _answer=answer, **__: _answer)
    torch.cuda.memory_allocated = lambda *_: allocated()
    torch.cuda.set_per_process_memory_fraction = lambda share, *_: setattr(memory, "limit", share * TOTAL)
    for name in ("Stream", "Event", "stream", "device", "device_of"):
        setattr(torch.cuda, name, _Context)
    for name in ("current_stream", "default_stream"):
        setattr(torch.cuda, name, _Context)
    torch.cuda._tls = SimpleNamespace(is_initializing=False)  # type: ignore[attr-defined]
    torch.Generator = PretendedGenerator  # type: ignore[misc]
    torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[assignment,method-assign]
    # one kernel for every device, of which the operators that the mode sees are made
    torch.backends.cudnn.enabled = False
    for kind in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{kind}_sdp")(False)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # CPU weights cannot become the device's
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=cuda) is a copy that is seen
    torch.autograd.set_multithreading_enabled(False)  # backward in the thread that asks: a wait has a place
    _tell_lightning()
    _tell_checkpoints()
    stack = contextlib.ExitStack()
    stack.enter_context(PretendedDevice(observer))
    return stack


def _tell_lightning() -> None:
    from lightning_fabric.accelerators import cuda as fabric
    from pytorch_lightning.accelerators import cuda as lightning

    for module in (fabric, lightning):
        for name, answer in (("num_cuda_devices", 1), ("is_cuda_available", True)):
            if hasattr(module, name):
                setattr(module, name, lambda *_, _answer=answer: _answer)
    fabric._check_cuda_matmul_precision = lambda *_: None  # type: ignore[assignment]
    lightning._check_cuda_matmul_precision = lambda *_: None  # type: ignore[attr-defined]
    lightning._clear_cuda_memory = lambda *_: None  # type: ignore[attr-defined]


def _tell_checkpoints() -> None:
    """Tensors of the device are plain values too."""
    from midre_exp.weights import checkpoint

    checkpoint._PLAIN = (*checkpoint._PLAIN, DeviceTensor)


@contextlib.contextmanager
def seen_alone() -> Iterator[list[str]]:
    """The waits of a block, for tests."""
    found: list[str] = []
    with PretendedDevice(lambda what, size: found.append(what)):
        yield found
