"""One batch on several processes: each runs the network on its rows, and all of them get what one process
would have got for the batch.

Three things tie the images of a batch together, and all three are done over the whole batch here: batch norm,
random numbers drawn for each image (dropout, a bottleneck's noise), and the losses, for which every process
receives the outputs of all. So a loss, a defense's too, is computed by every process on the whole batch, and
its gradient, averaged by Lightning's strategy, is that of the whole batch. Anything else that ties images
together is found out by ``SplitForward.check``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier, Output

_TOLERANCE = 1e-6  # relative, of outputs in double precision: rounding stays far below, an influence of other images above


class SplitForward:
    """Runs a classifier on this process's rows of a batch and returns the outputs of the whole batch,
    gradients included.

    ``index``: this process's number among ``count``. To be called by all of them with the same batch, in
    step, each with its random number generators in the same state. A batch of less than two images for each
    is run whole by every process.
    """

    def __init__(self, index: int, count: int):
        self.index = index
        self.count = count

    def __call__(self, model: Classifier, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """Classify ``images`` [n, 3, h, w], the whole batch; the result has n rows."""
        if len(images) < 2 * self.count:
            output: Output = model(images, taps)
            return output
        parts = images.tensor_split(self.count)
        sizes = [len(part) for part in parts]
        with _BatchNormOverAll(), _DrawsForAll(sum(sizes[: self.index]), sizes[self.index], len(images)):
            own: Output = model(parts[self.index], taps)

        def whole(rows: Tensor) -> Tensor:
            gathered: Tensor = _Gather.apply(rows, sizes, self.index)
            return gathered

        return Output(
            whole(own.logits),
            whole(own.features),
            {name: whole(tap) for name, tap in own.taps.items()},
            None if own.auxiliary is None else whole(own.auxiliary),
        )

    @torch.no_grad()
    def check(self, model: Classifier, images: Tensor, taps: Sequence[str] = ()) -> None:
        """Compare both ways on a copy of ``model`` in training mode and double precision, on the first of
        ``images`` [n, 3, h, w].

        Raises ConfigError when they differ, so that a network that ties images together in another way is not
        trained as another.
        """
        few = images[: 2 * self.count].double()
        twin = copy.deepcopy(model).double().train()
        devices = [few.device] if few.device.type == "cuda" else []
        outputs = []
        for forward in (twin, self):
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(0)
                output = forward(few, taps) if forward is twin else self(twin, few, taps)
            tensors = [output.logits, output.features, *output.taps.values(), output.auxiliary]
            outputs.append([tensor for tensor in tensors if tensor is not None])
        for one, other in zip(*outputs, strict=True):
            if not bool((one - other).norm() <= _TOLERANCE * one.norm()):
                raise ConfigError(
                    f"runtime.devices={self.count} would train {type(model).__name__} to other weights: what it computes for an image "
                    "depends on other images of the batch by more than batch norm; use runtime.devices=1"
                )


class _Gather(Function):
    """The rows of all processes, in order. The loss of each process is the same, so of its gradient only the
    own rows go back, times the number of processes, because the strategy takes the mean over them.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], index: int) -> Tensor:
        ctx.place, ctx.count = slice(sum(sizes[:index]), sum(sizes[: index + 1])), len(sizes)
        padded = rows.new_zeros(
            max(sizes), *rows.shape[1:]
        )  # parts of one size are all that every backend takes
        padded[: len(rows)] = rows
        flat = padded.flatten().view(torch.uint8)  # nor does each know every type of number
        parts = [torch.empty_like(flat) for _ in sizes]
        dist.all_gather(parts, flat)
        shaped = (part.view(rows.dtype).view(padded.shape) for part in parts)
        return torch.cat([part[:size] for part, size in zip(shaped, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.place] * ctx.count, None, None


class _Normalise(Function):
    """Batch norm in training by the mean and variance over the rows of all processes; per channel, the second
    dimension.

    torch.nn.SyncBatchNorm computes the same, but not on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        others = [dim for dim in range(x.dim()) if dim != 1]
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = (
            value.double() for value in torch.var_mean(precise, others, correction=0)
        )  # own rows
        count = x.numel() // x.shape[1]
        sums = torch.stack([torch.ones_like(mean), mean, variance + mean**2]) * count
        dist.all_reduce(sums)
        total = sums[0]
        mean, square = sums[1] / total, sums[2] / total
        variance = (square - mean**2).clamp(min=0)
        mean, spread = mean.to(precise.dtype), (variance + eps).rsqrt().to(precise.dtype)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        ctx.save_for_backward(x, weight, mean.view(shape), spread.view(shape), total)
        ctx.others, ctx.shape = others, shape
        y = F.batch_norm(
            precise, mean, variance.to(precise.dtype), _like(weight, precise), _like(bias, precise), eps=eps
        )
        unbiased = (variance * total / (total - 1)).to(precise.dtype)
        ctx.mark_non_differentiable(mean, unbiased)
        return y.to(x.dtype), mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, spread, total = ctx.saved_tensors
        gradient = gradients[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - mean) * spread
        sums = torch.stack([gradient.sum(ctx.others), (gradient * normal).sum(ctx.others)])
        to_bias, to_weight = sums.unbind(0)  # of own rows: the strategy adds those of the others
        to_x = None
        if ctx.needs_input_grad[0]:
            means = sums.to(torch.float64, copy=True)  # the parameters' sums stay those of own rows
            dist.all_reduce(means)
            shift, slope = (value.view(ctx.shape) for value in (means / total).to(mean.dtype).unbind(0))
            to_x = (gradient - shift - normal * slope) * spread
            to_x = to_x if weight is None else to_x * weight.to(mean.dtype).view(ctx.shape)
            to_x = to_x.to(x.dtype)
        asked = ctx.needs_input_grad[1:3]
        parameters = (
            part if wanted else None for part, wanted in zip((to_weight, to_bias), asked, strict=True)
        )
        return to_x, *parameters, None


def _like(parameter: Tensor | None, values: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(values.dtype)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` over the rows of all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    y: Tensor
    y, mean, variance = _Normalise.apply(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(variance.to(running_var.dtype), momentum)
    return y


class _BatchNormOverAll(TorchFunctionMode):
    """Within, batch norm layers in training mode work on the rows of all processes."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return (_batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


#: Random numbers by torch's names: written into a tensor or in the shape of one; of a shape given as
#: argument.
_IN_SHAPE_OF = ("bernoulli_", "normal_", "uniform_", "random_", "exponential_", "rand_like", "randn_like")
_OF_SHAPE = ("rand", "randn", "randint")


class _DrawsForAll(TorchDispatchMode):
    """Within, numbers drawn for each of ``own`` rows are drawn for ``whole`` rows, and those from row
    ``first`` on are used.

    So every process draws what one would have drawn for its images. What is drawn for no image in particular
    is the same everywhere. Raises ConfigError for a random operation it does not know.
    """

    def __init__(self, first: int, own: int, whole: int):
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = slice(first, first + own)
        self.own = own
        self.whole = whole

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _OF_SHAPE:
            place = next(place for place, value in enumerate(args) if isinstance(value, (list, tuple)))
            if not self._is_for_rows(args[place]):
                return func(*args, **kwargs)
            shape = [self.whole, *args[place][1:]]
            return func(*args[:place], shape, *args[place + 1 :], **kwargs)[self.rows].clone()
        if not self._is_for_rows(getattr(args[0], "shape", ())):
            return func(*args, **kwargs)
        template = self._for_all(args[0])
        if name == "native_dropout":  # values, chance, training: of values 1 it leaves the mask, scaled
            scaled, mask = (part[self.rows] for part in func(template.fill_(1), *args[1:], **kwargs))
            return args[0] * scaled, mask.clone()
        if name in _IN_SHAPE_OF:
            drawn = func(template, *args[1:], **kwargs)[self.rows]
            return args[0].copy_(drawn) if name.endswith("_") else drawn.clone()
        raise ConfigError(
            f"runtime.devices is above 1 and the network draws random numbers by {func}, which cannot be shared among devices; "
            "use runtime.devices=1"
        )

    def _is_for_rows(self, shape: Sequence[int]) -> bool:
        return len(shape) > 0 and shape[0] == self.own

    def _for_all(self, rows: Tensor) -> Tensor:
        """An empty tensor like ``rows`` for the whole batch, in the same order of memory, in which numbers
        are drawn.
        """
        turned = rows.dim() == 4 and not rows.is_contiguous()
        order = torch.channels_last if turned else torch.contiguous_format
        shape = (self.whole, *rows.shape[1:])
        return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=order)
