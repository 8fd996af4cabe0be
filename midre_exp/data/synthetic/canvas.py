"""What synthetic faces are painted with: many images at once, windows of them, and a few soft
shapes.

The painter uses nothing but + - * / sqrt, min, max and rounding. IEEE 754 fixes these to the last bit, so an
image is the same in any batch, split and memory layout; exponentials and sines are not, because their vector
and scalar versions differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
Span = tuple[Tensor | float, Tensor | float]  # from, to, in head units


class Faces:
    """The traits of n photographs by name: ``numbers`` [k, n, 1] and ``colours`` [c, 3, n, 1]; see
    ``traits``.
    """

    def __init__(self, names: tuple[str, ...], numbers: Tensor, colours: Tensor):
        self.names, self.numbers, self.colours = names, numbers, colours
        self._views = dict(zip(names, (*numbers.unbind(), *colours.unbind()), strict=True))

    @classmethod
    def of(cls, traits: dict[str, Tensor]) -> Faces:
        """From numbers [n, 1] and colours [3, n, 1] in any order."""
        numbers = {name: value for name, value in traits.items() if value.dim() == 2}
        colours = {name: value for name, value in traits.items() if value.dim() == 3}
        return cls((*numbers, *colours), torch.stack([*numbers.values()]), torch.stack([*colours.values()]))

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __len__(self) -> int:
        return self.numbers.shape[1]

    def of_rows(self, rows: slice | Tensor) -> Faces:
        """Some of the photographs."""
        return Faces(self.names, self.numbers[:, rows], self.colours[:, :, rows])


def colour(red: float, green: float, blue: float) -> Tensor:
    """A colour [3, 1, 1]."""
    return torch.tensor([red, green, blue])[:, None, None]


def wave(x: Tensor) -> Tensor:
    """Triangle wave of period 1 in [-1, 1]."""
    return x.sub(x.round()).abs_().mul_(4).sub_(1)


def soft(x: Tensor) -> Tensor:
    """Smoothstep of x: 0 below 0, 1 above 1."""
    x = x.clamp(0, 1)
    return (x * -2).add_(3).mul_(x).mul_(x)


def blob(x: Tensor, y: Tensor) -> Tensor:
    """A soft round spot of radius 1: (1 - x² - y²)² inside, 0 outside."""
    r = (x * x).add_(y * y).neg_().add_(1).clamp_min_(0)
    return r.mul_(r)


def ridge(x: Tensor) -> Tensor:
    """A soft line: 1 at 0, falling to 0 at -1 and 1."""
    return x.abs().neg_().add_(1).clamp_min_(0)


def disc(x: Tensor, y: Tensor, radius: Tensor | float) -> Tensor:
    """Signed distance of a disc."""
    return (x * x).add_(y * y).sqrt_().sub_(radius)


def both(a: Tensor, b: Tensor, rounding: float) -> Tensor:
    """Signed distance of the intersection of two shapes, the corner rounded (polynomial smooth maximum)."""
    h = a.sub(b).abs_().neg_().add_(rounding).clamp_min_(0)
    return torch.maximum(a, b).add_(h.mul_(h).mul_(0.25 / rounding))


class Canvas:
    """n images, or one window of them: ``colours`` [3, n, p] and the pixels' ``fields`` [n, p], by name.

    ``sharp`` [n, 1] is one over the width of an edge, in head units. A window shows the pixels in ``box`` of
    all images of its parent, or of some ``rows`` of them.
    """

    def __init__(
        self,
        colours: Tensor,
        fields: dict[str, Tensor],
        sharp: Tensor,
        *,
        size: int,
        box: Box,
        rows: Tensor | None = None,
    ):
        self.colours, self.fields, self.sharp = colours, fields, sharp
        self.size, self.box, self.rows = size, box, rows

    @classmethod
    def blank(cls, f: Faces, size: int) -> Canvas:
        """Whole images with fields ``gx``, ``gy`` (the image, -1..1) and ``x``, ``y`` (head units, turned
        with it).
        """
        line = (torch.arange(size) + 0.5) * (2.0 / size) - 1
        gx, gy = line.repeat(size)[None], line.repeat_interleave(size)[None]
        dx, dy = gx - f["x"], gy - f["y"]
        cos, sin = f["cos"] / f["scale"], f["sin"] / f["scale"]
        x, y = (dx * cos).add_(dy * sin), (dy * cos).sub_(dx * sin)
        edge = (2.2 / size + f["zero"]) / f["scale"] + f["blur"]  # about one pixel, more when out of focus
        colours = torch.empty(3, len(f), size * size)
        fields = {"gx": gx, "gy": gy, "x": x, "y": y}
        return cls(colours, fields, torch.ones_like(edge) / edge, size=size, box=(0, 0, size, size))

    def __getitem__(self, field: str) -> Tensor:
        return self.fields[field]

    def cover(self, distance: Tensor) -> Tensor:
        """How much of each pixel lies inside a shape of the given signed distance (negative inside)."""
        return (distance * self.sharp).neg_().add_(0.5).clamp_(0, 1)

    def paint(self, cover: Tensor, colour: Tensor) -> None:
        """Lay a colour [3, n, 1 or p] over the pixels where covered."""
        self.colours.add_((colour - self.colours).mul_(cover))

    def darken(self, shade: Tensor) -> None:
        """Take away the share ``shade`` [n, p] of the light."""
        self.colours.mul_(1 - shade)

    def _inside(self, pixels: Tensor, box: Box) -> Tensor:
        """The view [.., height, width] of this canvas's pixels that lie in a box."""
        (left, top, right, bottom), (x, y, *_) = self.box, box
        image: Tensor = pixels.unflatten(-1, (bottom - top, right - left))
        return image[..., y - top : box[3] - top, x - left : box[2] - left]

    def window(
        self, f: Faces, x: Span, y: Span, fields: tuple[str, ...], rows: Tensor | None = None
    ) -> Canvas:
        """A copy of the smallest box that shows the head's rectangle ``x`` by ``y`` in every image, with some
        fields.

        With ``rows`` it shows these images only, and ``f`` has their traits. A window saves work and changes
        nothing: what is painted there must not reach beyond the rectangle.
        """
        across, along = (
            torch.stack([f["zero"] + at for at in x])[:, None],
            torch.stack([f["zero"] + at for at in y]),
        )
        column = across * f["scaled_cos"] - along * f["scaled_sin"] + f["x"]
        row = across * f["scaled_sin"] + along * f["scaled_cos"] + f["y"]
        corners = torch.stack([column, row]).view(2, -1)
        spread = float(f["blur"].max()) + 2.5 / self.size  # soft edges reach beyond a shape
        first = ((corners.amin(1) - spread + 1) * (0.5 * self.size)).long().tolist()
        last = ((corners.amax(1) + spread + 1) * (0.5 * self.size)).long().tolist()
        left, top = (
            min(max(at, low), high - 1)
            for at, low, high in zip(first, self.box[:2], self.box[2:], strict=True)
        )
        right, bottom = (
            max(min(last[0] + 1, self.box[2]), left + 1),
            max(min(last[1] + 1, self.box[3]), top + 1),
        )
        box = (left, top, right, bottom)
        colours, sharp = self._inside(self.colours, box), self.sharp
        cut = {name: self._inside(self[name], box) for name in fields}
        if rows is not None:
            colours, sharp = colours[:, rows], sharp[rows]
            cut = {name: value.index_select(0, rows) for name, value in cut.items()}
        cut = {name: value.flatten(1) for name, value in cut.items()}
        return Canvas(colours.flatten(2), cut, sharp, size=self.size, box=box, rows=rows)

    def paste(self, part: Canvas) -> None:
        """Put a window of this canvas back."""
        left, top, right, bottom = part.box
        target = self._inside(self.colours, part.box)
        colours = part.colours.unflatten(-1, (bottom - top, right - left))
        if part.rows is None:
            target.copy_(colours)
        else:
            target.index_copy_(1, part.rows, colours)
