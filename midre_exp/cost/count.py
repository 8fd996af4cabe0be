"""Counting on tensors without content: what a program would compute, move, launch and hold if it ran.

``Counter`` sees every operator below autograd. Whatever a program makes within it lies on torch's meta
device, whose tensors have shapes and no memory, so a network of any size is counted in a second. Where a
program asks for a number, it gets one.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from midre_exp.cost.counted import Operator, Phase, gathered

aten = torch.ops.aten

_META = torch.device("meta")
#: From so many channels in a group on, tensor cores serve a grouped convolution.
_WIDE_GROUP = 16
#: Read or written in part: as many bytes as what comes out, or what goes in.
_GATHERS = {aten.index, aten.index_select, aten.gather, aten.embedding, aten.slice_scatter}
_SCATTERS = {aten.index_put_, aten.index_put, aten.scatter, aten.scatter_, aten.index_add}
#: No kernel runs.
_FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten._unsafe_view}
#: Indexed by masks as well, whose size nobody knows.
_MASKED = {aten.index, aten.index_put, aten.index_put_}
_ATTENTION = {"_scaled_dot_product_flash_attention_for_cpu": sdpa_flop}
_ATTENTION_BACKWARD = {"_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop}
#: Tensors that one kernel of a multi-tensor operator takes.
_TENSORS_PER_KERNEL = 30


class Counter(TorchDispatchMode):
    """Counts what is called within it, by phases."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.times = 1.0  #: how often what is called now is called in truth
        self.phases: list[Phase] = []
        self._operators: list[Operator] = []
        self._live: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[Any]] = {}
        self.held = self.peak = 0  #: bytes

    @contextmanager
    def repeated(self, times: float) -> Iterator[None]:
        """What is called within stands for ``times`` as many calls."""
        before, self.times = self.times, self.times * times
        try:
            yield
        finally:
            self.times = before

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is called within is a phase."""
        self._operators, self.peak = [], self.held
        yield
        self.phases.append(Phase(name, gathered(self._operators), float(self.peak)))
        self._operators = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        how = _how(func)
        args, given = _without_content(args)
        if kwargs or how.makes_tensors:
            kwargs = _on_meta(how, kwargs or {})
            given = given, tuple([(name, _like(value)) for name, value in kwargs.items()])
        else:
            kwargs = {}
        packet = how.packet
        if how.is_special:
            if (answer := _ANSWERS.get(packet)) is not None:
                return answer(*args, **kwargs)
            if packet is aten._to_copy and kwargs.get("dtype", args[0].dtype) == args[0].dtype:
                return args[0].detach()  # of another place, where everything is
            if packet in _MASKED:
                args = (args[0], [_places(one) for one in args[1]], *args[2:])
            if packet is aten.cat:  # empty ones of any shape count for nothing, which meta does not know
                args = ([one for one in args[0] if one.numel()] or args[0], *args[1:])
            given = _like(args), given
        if how.is_view:
            return func(*args, **kwargs)
        key = func, given
        known = _KNOWN.get(key)
        if known is None:
            before = _like(args), _like(tuple(kwargs.items()))
            out = func(*args, **kwargs)
            flops, kind = _arithmetic(packet, args, kwargs, out)
            layouts = [_layout(one) for one in _tensors(out)] if how.makes_new else []
            # only what leaves the layouts of what it changes as they were need not be done again
            is_repeatable = how.makes_new or (
                how.changed is not None and before == (_like(args), _like(tuple(kwargs.items())))
            )
            counted = (kind, flops, *_traffic(packet, args, kwargs, out))
            known = _KNOWN[key] = _Known(layouts, counted, is_repeatable)
        elif not known.is_repeatable:
            out = func(*args, **kwargs)
        elif how.makes_new:
            out = _made(how, known.layouts)
        else:
            out = _changed(how, args, kwargs)
        self._hold(out)
        if not how.is_free:
            self._operators.append(Operator(*known.counted, self.times))
        return out

    def mark(self) -> int:
        """Where counting is now, for ``since``."""
        return len(self._operators)

    def since(self, mark: int) -> tuple[Operator, ...]:
        """What was called since then, as often as it was then called."""
        return tuple(one._replace(times=one.times / self.times) for one in self._operators[mark:])

    def again(self, operators: Iterable[Operator]) -> None:
        """Count what ``since`` gave once more."""
        self._operators += [one._replace(times=one.times * self.times) for one in operators]

    def outside(self, tensor: Tensor) -> Tensor:
        """A tensor that does not lie on the device, but in a file that is mapped into memory."""
        self._release(tensor.untyped_storage()._cdata)
        return tensor

    def _hold(self, out: Any) -> None:
        for tensor in [out] if isinstance(out, Tensor) else _tensors(out):
            if tensor is not None:
                storage = tensor.untyped_storage()
                name = storage._cdata
                if name not in self._live:
                    self._live[name] = storage.nbytes()
                    self.held += self._live[name]
                    self.peak = max(self.peak, self.held)
                    self._watched[name] = weakref.ref(storage, partial(self._release, name))

    def _release(self, name: int, _: object = None) -> None:
        self.held -= self._live.pop(name, 0)
        self._watched.pop(name, None)


def _without_content(args: Any) -> tuple[Any, tuple[Any, ...]]:
    """The same with tensors of the meta device in place of others, and what they are like."""
    found: list[Any] = []
    like: list[Any] = []
    for one in args:
        if isinstance(one, Tensor):
            if not one.is_meta:
                one = torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=_META)
            like.append((one.shape, one.stride(), one.dtype))
        elif isinstance(one, list | tuple):
            one, inner = _without_content(one)
            like.append(inner)
        else:
            like.append((type(one), one))
        found.append(one)
    return type(args)(found), tuple(like)


def _on_meta(how: _How, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a call that makes its tensors on the meta device and draws nothing."""
    found = dict(zip(kwargs, _without_content(tuple(kwargs.values()))[0], strict=True))
    if "device" in found or how.makes_tensors:
        found["device"] = _META
    if "generator" in found:
        found["generator"] = None
    found.pop("pin_memory", None)
    return found


class _How(NamedTuple):
    """What an operator does, by its schema."""

    packet: Any
    is_special: bool  #: answered, or given otherwise than it is called
    is_view: bool  #: what it returns is what it was given, unchanged
    is_free: bool  #: no kernel runs
    makes_new: bool  #: all that it returns is new and of a shape that follows from shapes
    makes_tensors: bool  #: of none, on a device that is named
    is_single: bool  #: returns one tensor, no list
    changed: tuple[int | str, ...] | None  #: arguments that it returns, changed; None: not these alone


@cache
def _how(func: Any) -> _How:
    packet, schema = func.overloadpacket, func._schema
    returns, arguments = schema.returns, schema.arguments
    kinds = {str(one.type) for one in returns}
    aliases = [one.alias_info for one in returns if one.alias_info is not None]
    return _How(
        packet,
        is_special=packet in _ANSWERS or packet in _MASKED or packet in (aten._to_copy, aten.cat),
        is_view=bool(aliases) and not any(alias.is_write for alias in aliases),
        is_free=packet in _FREE,
        makes_new=bool(returns)
        and kinds <= {"Tensor", "List[Tensor]", "Optional[Tensor]"}
        and not schema.is_mutable
        and not aliases
        and packet is not aten._unsafe_view,
        makes_tensors=any(one.name == "device" for one in arguments)
        and not any("Tensor" in str(one.type) for one in arguments),
        is_single=len(returns) == 1 and kinds != {"List[Tensor]"},
        changed=_changed_arguments(schema) if schema.is_mutable else None,
    )


def _changed_arguments(schema: Any) -> tuple[int | str, ...] | None:
    """Where a call has what it returns, by number or name; None where it returns anything else."""
    found: list[int | str] = []
    for one in schema.returns:
        alias = one.alias_info
        same = [
            argument.name if argument.kwarg_only else number
            for number, argument in enumerate(schema.arguments)
            if alias is not None
            and argument.alias_info is not None
            and argument.alias_info.before_set == alias.before_set
        ]
        if len(same) != 1 or str(one.type) != "Tensor":
            return None
        found.append(same[0])
    return tuple(found)


class _Known(NamedTuple):
    """Of a call that was counted: the layouts of the tensors that it makes, what an ``Operator`` says but how
    often, and whether the next one like it can be spared.
    """

    layouts: list[Any]
    counted: tuple[str, float, float, int]
    is_repeatable: bool


#: By operator and what its arguments are like. Networks repeat themselves, and so do stages.
_KNOWN: dict[Any, _Known] = {}


def _made(how: _How, layouts: Sequence[Any]) -> Any:
    """Tensors as the operator makes them."""
    made = [
        None if one is None else torch.empty_strided(one[0], one[1], dtype=one[2], device=_META)
        for one in layouts
    ]
    return made[0] if how.is_single else made


def _changed(how: _How, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the operator returns of its arguments, which have no content that it could change."""
    assert how.changed is not None
    found = [args[one] if isinstance(one, int) else kwargs[one] for one in how.changed]
    return None if not found else found[0] if len(found) == 1 else tuple(found)


def _tensors(values: Any) -> list[Tensor | None]:
    """Those among arguments or results, of lists too; None where one was left out."""
    if values is None or isinstance(values, Tensor):
        return [values]
    if isinstance(values, tuple | list):
        return [one for value in values for one in _tensors(value)]
    return []


def _like(value: Any) -> Any:
    """What of an argument decides what an operator returns, to be compared."""
    if isinstance(value, Tensor):
        return _layout(value)
    if isinstance(value, tuple | list):
        return tuple(map(_like, value))
    return type(value), value


def _layout(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype)


def _arithmetic(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[float, str]:
    """Floating-point operations of a call and its kind. Those of elementwise operators, which wait for
    memory, are not counted.
    """
    if packet in (aten.convolution, aten._convolution):
        image, weight, transposed, groups = args[0], args[1], args[6], args[8]
        return _convolution(image if transposed else out, weight), _conv_kind(weight, groups)
    if packet is aten.convolution_backward:
        gradient, image, weight = args[:3]
        transposed, groups, wanted = args[7], args[9], args[10]
        both = int(wanted[0]) + int(wanted[1])
        return both * _convolution(image if transposed else gradient, weight), _conv_kind(weight, groups)
    name = packet.__name__
    if name in _ATTENTION:
        return float(sdpa_flop(args[0].shape, args[1].shape, args[2].shape)), "matmul"
    if name in _ATTENTION_BACKWARD:
        return float(sdpa_backward_flop(*(one.shape for one in args[:4]))), "matmul"
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=out)), "matmul"
    return 0.0, "other"


def _convolution(places: Tensor, weight: Tensor) -> float:
    """A multiplication and an addition for every weight that meets a place."""
    return 2.0 * places.numel() * weight.shape[1] * math.prod(weight.shape[2:])


def _conv_kind(weight: Tensor, groups: int) -> str:
    return "grouped" if groups > 1 and weight.shape[1] < _WIDE_GROUP else "conv"


def _traffic(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[float, int]:
    """Bytes that a call reads and writes, and the kernels it launches."""
    given = [one for one in _tensors((*args, *kwargs.values())) if one is not None]
    made = [one for one in _tensors(out) if one is not None]
    written = sum(map(_size, made))
    if packet in _GATHERS:
        return 2.0 * written, 1
    if packet in _SCATTERS:
        return 2.0 * sum(map(_size, given[1:])), 1
    several = packet.__name__.startswith(("_foreach", "_fused"))
    kernels = -(-len(given) // _TENSORS_PER_KERNEL) if several else 1
    if packet is aten.convolution_backward:
        kernels = int(args[10][0]) + int(args[10][1])
    return float(sum(map(_size, given)) + written), max(1, kernels)


def _size(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor: of an expanded one those that it repeats."""
    own = math.prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step)
    return own * tensor.element_size()


def number_of(tensor: Tensor) -> Any:
    """A number of a tensor that has none: true, or one."""
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1


def _nonzero(tensor: Tensor) -> Tensor:
    """The places of everything: no mask leaves anything out."""
    return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.int64)


def _places(index: Tensor | None) -> Tensor | None:
    """A mask as the places of everything."""
    if index is None or index.dtype != torch.bool:
        return index
    return index.new_empty((index.numel(),), dtype=torch.int64)


def _unique(tensor: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Everything differs."""
    flat = tensor.reshape(-1)
    places = torch.empty_like(tensor, dtype=torch.int64)
    return flat.clone(), places, flat.new_empty(flat.shape, dtype=torch.int64)


def _repeated(repeats: Tensor, *_: Any, output_size: int | None = None, **__: Any) -> Tensor:
    """Everything once."""
    return repeats.new_empty((output_size or repeats.numel(),))


def _bincount(tensor: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """As many numbers as are known to occur."""
    like = tensor if weights is None else weights
    return like.new_empty((max(1, minlength),))


_ANSWERS: dict[Any, Any] = {
    aten.bincount: _bincount,
    aten.repeat_interleave: _repeated,
    aten._local_scalar_dense: number_of,
    aten.nonzero: _nonzero,
    aten.equal: lambda *_: True,  # whatever is repeated until nothing changes has arrived
    aten._unique2: _unique,
}
