"""Random colours for training: brightness, contrast, saturation and hue in an order of its own for each
image, batched.

The law and the arithmetic are those of torchvision.transforms.ColorJitter on float images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from midre_exp.data.transforms.base import images_at_once
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative, Range
from midre_exp.seeding import uniform

#: The numbers by which an order names its operations.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_GREY = (0.2989, 0.587, 0.114)  # torchvision's luma; sums to 0.9999


@dataclass(kw_only=True, eq=False)
class ColorJitter:
    """Changes the colours of each image of a training batch: factors from [max(0, 1 - value), 1 + value] of
    brightness, contrast and saturation, and a turn of the hue from [-value, value]. 0 or None switches off.
    """

    brightness: NonNegative | None = None  # 0 or more
    contrast: NonNegative | None = None  # 0 or more
    saturation: NonNegative | None = None  # 0 or more
    hue: Annotated[float, Range(0, 0.5)] | None = None  # in whole turns, 0 to 0.5

    def __post_init__(self) -> None:
        for key in ("brightness", "contrast", "saturation", "hue"):
            _check_strength(key, getattr(self, key), 0.5 if key == "hue" else None)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, 3, h, w] in [0, 1]. With everything off they come back as they are, and nothing is
        drawn.
        """
        strengths = [value or 0.0 for value in (self.brightness, self.contrast, self.saturation)]
        if not any((*strengths, self.hue)):
            return images
        draw = uniform(generator, 8, len(images), device=images.device)
        brightness, contrast, saturation = (
            max(0.0, 1 - strength) + (1 + strength - max(0.0, 1 - strength)) * share
            for strength, share in zip(strengths, draw[4:7], strict=True)
        )
        hue = self.hue * (2 * draw[7] - 1) if self.hue else None
        return jitter_colours(images, draw[:4].argsort(0).T, brightness, contrast, saturation, hue)


def _check_strength(key: str, value: float | None, largest: float | None) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or not 0 <= value <= (largest or float("inf")):
        raise ConfigError(
            f"ColorJitter {key}={value} is no strength; give a number from 0"
            + (f" to {largest}" if largest else " on")
        )


def jitter_colours(
    images: Tensor,
    order: Tensor,
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor | None,
) -> Tensor:
    """Apply the four operations to float ``images`` [n, 3, h, w] in [0, 1], to each in its row of ``order``
    (int64 [n, 4]).

    ``brightness``, ``contrast``, ``saturation``: factors [n], not negative, 1 changes nothing; ``hue``: turns
    [n] in [-0.5, 0.5], None for none. Equal to torchvision's adjust_* functions one after another. Not
    differentiable.

    Three operations mix the image with black, its mean grey or its grey, so any of them is one mixture. The
    turn of the hue, by far the dearest, is made once, for all images together: mixtures that come before it
    in an image's order act first, the others after, and where an image has none it mixes with nothing, which
    is exact. So no image waits and the host need not know the order.
    """
    factor = torch.stack((brightness, contrast, saturation, torch.ones_like(brightness)), 1).gather(1, order)
    grey = torch.where(order == SATURATION, 1 - factor, 0.0)
    mean = torch.where(order == CONTRAST, 1 - factor, 0.0)
    position = torch.arange(4, device=images.device)
    place = position.new_full((1, 1), 4) if hue is None else (order == HUE).byte().argmax(1, keepdim=True)
    early, late = (
        torch.stack((torch.where(acts, factor, 1.0), acts * grey, acts * mean), -1)[..., None, None]
        for acts in (position < place, position > place)
    )  # [n, 4, 3, 1, 1]
    changed = torch.empty_like(images)
    chunk = images_at_once(images)
    spare = images.new_empty(4, min(chunk, len(images)), *images.shape[-2:])
    for at in range(0, len(images), chunk):
        here = slice(at, at + chunk)
        source, result = images[here], changed[here]
        work = spare[:, : len(source)]
        for index in range(4 if hue is None else 3):
            _mix(source, early[here, index], result, work[0])
            source = result
        if hue is not None:
            _turn_hue(result, hue[here, None, None], work)
            for index in range(1, 4):
                _mix(result, late[here, index], result, work[0])
    return changed


def _mix(source: Tensor, shares: Tensor, result: Tensor, grey: Tensor) -> None:
    """Set ``result`` to own * source + share * grey of source + share * mean grey of source, in [0, 1];
    ``shares`` [n, 3, 1, 1].
    """
    own, of_grey, of_mean = shares.unbind(1)
    red, green, blue = source.unbind(1)
    torch.mul(red, _GREY[0], out=grey).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
    level = of_mean * grey.mean((1, 2), keepdim=True)
    grey.mul_(of_grey).add_(level)
    # Separate passes: PyTorch's fused addcmul is many times slower on a CPU where operands are broadcast.
    torch.mul(source, own[:, None], out=result).add_(grey[:, None]).clamp_(0, 1)


def _turn_hue(images: Tensor, hue: Tensor, work: Tensor) -> None:
    """Turn the hue in place, saturation and value kept; ``hue`` [n, 1, 1] turns, ``work`` [4, n, h, w].

    With value V, smallest channel m and chroma C = V - m, the angle from red is 60 degrees times 1 + (g + b -
    r - m) / C, on the side of the larger of g and b. Back again, a channel is V within a sixth of a turn from
    its own hue, m from a third on, linear between.
    """
    red, green, blue = images.unbind(1)
    value, chroma, angle, side = work
    torch.maximum(red, green, out=value)
    torch.maximum(value, blue, out=value)
    torch.minimum(red, green, out=chroma)
    torch.minimum(chroma, blue, out=chroma)  # still m
    torch.add(green, blue, out=angle).sub_(red).sub_(chroma)
    torch.sub(value, chroma, out=chroma)
    torch.sub(green, blue, out=side)
    angle.div_(torch.clamp(chroma, min=1e-20, out=red))  # grey has no hue: 0 / 1e-20
    angle.add_(1).copysign_(side).mul_(1 / 6).add_(hue + 2).frac_()  # turns from red, in [0, 1)
    sixfold = chroma.mul_(6)
    upper = value.add_(sixfold, alpha=1 / 6)  # V + C
    for channel, own_hue in ((green, 1 / 3), (blue, 2 / 3)):
        torch.sub(angle, own_hue, out=channel).abs_().clamp_(1 / 6, 1 / 3).mul_(sixfold)
        torch.sub(upper, channel, out=channel)
    # Red lies at both ends of the circle: its distance is 1/2 less that from cyan.
    torch.sub(angle, 0.5, out=red).abs_().clamp_(1 / 6, 1 / 3).mul_(sixfold).add_(upper).sub_(
        sixfold, alpha=0.5
    )
