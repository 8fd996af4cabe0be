"""Tensors that are cuda:0 to torch and to everybody who asks, and compute on the CPU.

A ``DeviceTensor`` holds a CPU tensor. ``PretendedDevice`` sees every operator, computes it on what the
tensors hold and raises where a GPU would: on a tensor of the CPU among tensors of the device, and on a
generator of the other one. Copies, numbers (tensors without dimensions) and CPU indices into tensors of the
device are allowed, as on a GPU. What makes the CPU wait for a GPU is told to an observer.
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CPU, DEVICE = torch.device("cpu"), torch.device("cuda:0")

#: Told of every wait and of every large operator on the CPU: what it is, and how many bytes it moves.
Observer = Callable[[str, int], None]

#: Operators whose results are numbers, or have a size, that the CPU must wait for.
WAITS = {
    "_local_scalar_dense": "item",
    "equal": "equal",
    "nonzero": "nonzero",
    "masked_select": "boolean index",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "bincount": "bincount",
    "_linalg_check_errors": "check of linear algebra",
}
#: Operators whose second argument may be indices on the CPU.
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
COPIES = {"copy_", "_copy_from", "_copy_from_and_resize"}
TOTAL = 80 << 30  # bytes of the device
LARGE = 1 << 20  # elements of an operator on the CPU that is told


class Memory:
    """That of the device: no single tensor may be larger than ``limit`` bytes."""

    limit = TOTAL


memory = Memory()


class MixedDevices(RuntimeError):
    """What a GPU would refuse."""


class DeviceTensor(Tensor):
    """A tensor of cuda:0 whose numbers lie in ``held`` on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Only where no ``PretendedDevice`` is in force: in a thread of its own."""
        return compute(func, args, kwargs or {}, lambda what, size: None)

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) in memo:
            return memo[id(self)]
        copied: Any = DeviceTensor(self.held.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied)
        copied.requires_grad_(self.requires_grad)
        if self.grad is not None:
            copied.grad = self.grad.clone()
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files hold the numbers, and readers put them where they like: ours on the CPU first."""
        return self.held.detach().__reduce_ex__(protocol)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def tolist(self) -> Any:
        """Torch refuses it to other kinds of tensors."""
        return self.cpu().tolist()

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        """Torch's own would take over what describes ``value`` and leave behind what it holds."""
        if not isinstance(value, DeviceTensor):
            raise MixedDevices(f"the data of a tensor of {DEVICE} are set to a tensor of {value.device}")
        if (value.shape, value.dtype, value.stride()) != (self.shape, self.dtype, self.stride()):
            raise NotImplementedError("the pretended device sets data of the same shape and type alone")
        self.held = value.held


#: Of which device generators say they are, by their C++ addresses: operators are handed other objects.
_SAID: dict[int, torch.device] = {}


class PretendedGenerator(torch.Generator):
    """A generator of the CPU that says it is of ``device``."""

    def __new__(cls, device: torch.device | str = "cpu") -> PretendedGenerator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg,no-any-return]

    def __init__(self, device: torch.device | str = "cpu"):
        _SAID[self._cdata] = torch.device(device)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _SAID[self._cdata]


class PretendedDevice(TorchDispatchMode):
    """Within, tensors made on or moved to ``cuda`` are ``DeviceTensor``s."""

    def __init__(self, observer: Observer):
        super().__init__()
        self.observer = observer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {}, self.observer)


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], observer: Observer) -> Any:
    """What ``func`` returns, with its tensors on the device where a GPU's would be."""
    name = func._schema.name.removeprefix("aten::")
    tensors = list(_tensors((args, kwargs)))
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    asked = kwargs.get("device")
    if not on_device and (asked is None or torch.device(asked).type != "cuda"):
        _check_generator(func, args, kwargs, "cpu")
        result = func(*args, **kwargs)
        here = [tensor.numel() for tensor in tensors if tensor.device == CPU]  # and not on ``meta``
        if here and not func.is_view and max(here) >= LARGE:
            observer("large operator on the CPU", 0)
        return result
    if name == "empty" and (more := _bytes(args[0], kwargs)) > memory.limit:
        raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {more} bytes (pretended)")
    to_device = asked is None or torch.device(asked).type == "cuda"
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    if name in COPIES:
        into, source = args[0], args[1]
        to_device = isinstance(into, DeviceTensor)
        if not to_device:
            observer("copy to the host", source.nbytes)
    elif name in ("_to_copy", "to") and on_device and not to_device:
        observer("copy to the host", on_device[0].nbytes)
    elif on_device:
        _check_mixed(func, name, args, tensors)
        if name in WAITS:
            observer(WAITS[name], 0)
        elif name in INDEXED and any(_is_mask(index) for index in args[1]):
            observer("boolean index", 0)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            observer("repeat_interleave", 0)
    if to_device:
        _check_generator(func, args, kwargs, "cuda")
    wrappers = {id(tensor.held): tensor for tensor in on_device}
    with warnings.catch_warnings():
        result = func(*_held(args), **_held(kwargs))
    if torch.Tag.inplace_view in func.tags:  # shape and strides alone, which both tensors have
        with no_dispatch():
            func(*args, **kwargs)
    return _wrapped(result, wrappers, to_device)


def allocated() -> int:
    """Bytes that living tensors of the device hold."""
    living = [thing for thing in gc.get_objects() if type(thing) is DeviceTensor and hasattr(thing, "held")]
    storages = {held.data_ptr(): held.nbytes() for held in (one.held.untyped_storage() for one in living)}
    return sum(storages.values())


def _bytes(size: Any, kwargs: dict[str, Any]) -> int:
    return int(math.prod(size)) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _held(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.held
    if isinstance(value, (tuple, list)):
        return type(value)([_held(part) for part in value])
    if isinstance(value, dict):
        return {key: _held(part) for key, part in value.items()}
    return value


def _wrapped(value: Any, wrappers: dict[int, DeviceTensor], to_device: bool) -> Any:
    """Of operators in place the tensor they were given, else a new one where the result belongs."""
    if isinstance(value, Tensor):
        if (known := wrappers.get(id(value))) is not None:
            if known.size() != value.size() or known.stride() != value.stride():
                raise NotImplementedError("the pretended device changes no shape in place")
            return known
        return DeviceTensor(value) if to_device and type(value) is Tensor else value
    if isinstance(value, (tuple, list)):
        return type(value)([_wrapped(part, wrappers, to_device) for part in value])
    return value


def _is_mask(index: Any) -> bool:
    return isinstance(index, DeviceTensor) and index.dtype in (torch.bool, torch.uint8)


def _check_mixed(func: Any, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    allowed: set[int] = set()
    if name in INDEXED and isinstance(args[0], DeviceTensor):
        allowed = {id(index) for index in args[1] if index is not None}
    elif name in INDEXED:
        words = "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        raise MixedDevices(f"{func}: {words}")
    for tensor in tensors:
        if not isinstance(tensor, DeviceTensor) and tensor.dim() and id(tensor) not in allowed:
            shapes = ", ".join(f"{list(t.shape)} on {t.device}" for t in tensors)
            raise MixedDevices(f"{func}: expected all tensors to be on the same device, but found {shapes}")


def _check_generator(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: str) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch._C.Generator) and _SAID.get(value._cdata, CPU).type != kind:
            said = _SAID.get(value._cdata, CPU).type
            raise MixedDevices(f"{func}: expected a {kind!r} device type for generator but found {said!r}")
