"""Charts of the site as SVG: places in pixels, which the templates draw. Every mark has its words as a title,
and none needs its colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from midre_exp.records import Record
from midre_exp.records.schema import at
from midre_exp.report.site.leaderboard import OPEN_SET, Number, TrackRow

#: Pixels of a chart, and of its margins: left, top, right, below.
WIDTH, HEIGHT = 640, 400
_LEFT, _TOP, _RIGHT, _BELOW = 52, 14, 16, 44
#: Of a label: pixels of a letter and of a line of text.
_LETTER, _LINE = 6.1, 13
#: Where a label is tried, in pixels from its point, nearest first.
_PLACES = [
    (x * far, y * far)
    for far in (9, 15, 23, 33, 45)
    for x, y in ((1, 0.4), (1, -0.8), (-1, 0.4), (-1, -0.8), (0, -1), (0, 1.4))
]
#: Looks of lines in a chart of curves, told apart without colour too.
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: data to pixels."""

    title: str
    low: float
    high: float
    start: float  # pixel of ``low``
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = 0.5 if high == low else (at - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixel and text of each."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            powers = [10.0**power for power in range(first, last + 1)]
            values = powers if len(powers) > 1 else [self.low, self.high]
        else:
            step = _step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            values = [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [(self(value), f"{value:g}") for value in values]


@dataclass(frozen=True)
class Point:
    """A mark with its intervals, its words and where its label stands (None: no room)."""

    x: float
    y: float
    across: tuple[float, float] | None
    along: tuple[float, float] | None
    kind: str  # nodef | midre | other: circle, diamond, square
    title: str
    href: str
    label: str
    place: tuple[float, float] | None
    anchor: str = "start"


@dataclass(frozen=True)
class Scatter:
    """The trade-off of one target."""

    title: str
    x: Axis
    y: Axis
    points: Sequence[Point]


@dataclass(frozen=True)
class Line:
    """A line of a chart of curves."""

    name: str
    path: str
    dash: str
    number: int
    dots: Sequence[tuple[float, float, str]]
    band: str = ""


@dataclass(frozen=True)
class Curves:
    """Lines over one axis."""

    title: str
    note: str
    x: Axis
    y: Axis
    lines: Sequence[Line]


@dataclass(frozen=True)
class Strip:
    """One box for each attacked identity, the darker the more of its reconstructions are recognised."""

    name: str
    boxes: Sequence[tuple[float, float, float, str]]  # x, width, opacity, title
    mean: float
    none: int  # identities of whom nothing is recognised
    all: int  # identities of whom everything is


def trade_off(title: str, rows: Sequence[TrackRow], href: str) -> Scatter:
    """Accuracy against the worst attack accuracy of each row of one target; ``href``: with ``{}`` for a row's
    name.
    """
    numbers = [(row, row.row.acc, row.worst.number) for row in rows]
    x = _axis(
        "accuracy of the target (%), more is better", [acc for _, acc, _ in numbers], _LEFT, WIDTH - _RIGHT
    )
    y = _axis("worst attack accuracy (%), less is safer", [att for *_, att in numbers], HEIGHT - _BELOW, _TOP)
    marks = [(x(acc.value), y(att.value)) for _, acc, att in numbers]
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in marks]
    points = []
    for (row, acc, att), (px, py) in zip(numbers, marks, strict=True):
        label = row.row.shown
        place, anchor, box = _free(px, py, label, taken)
        taken += [box] if box else []
        names = row.row.defense.names
        points.append(
            Point(
                x=px,
                y=py,
                across=_ends(x, acc),
                along=_ends(y, att),
                kind="nodef" if not names else "midre" if names == ("MIDRE",) else "other",
                title=f"{label}: accuracy {acc.value:.1f} %, {row.worst.name} {_told(att)}",
                href=href.format(row.row.slug),
                label=label,
                place=place,
                anchor=anchor,
            )
        )
    return Scatter(title, x, y, points)


def _axis(title: str, numbers: Sequence[Number], start: float, end: float) -> Axis:
    ends = [value for n in numbers for value in (n.low, n.value, n.high) if value is not None]
    low, high = min(ends), max(ends)
    room = max(0.06 * (high - low), 1.0)
    return Axis(title, max(low - room, 0.0), min(high + room, 100.0 + room / 2), start, end)


def _ends(axis: Axis, number: Number) -> tuple[float, float] | None:
    return None if number.low is None or number.high is None else (axis(number.low), axis(number.high))


def _told(number: Number) -> str:
    interval = "" if number.low is None or number.high is None else f" [{number.low:.1f}, {number.high:.1f}]"
    return f"{number.value:.1f} %{interval}"


_Box = tuple[float, float, float, float]


def _free(
    x: float, y: float, text: str, taken: Sequence[_Box]
) -> tuple[tuple[float, float] | None, str, _Box | None]:
    """The nearest place for a label where it covers nothing: its start, which end that is, and its box."""
    width = _LETTER * len(text)
    for dx, dy in _PLACES:
        anchor = "start" if dx > 0 else "end" if dx < 0 else "middle"
        left = x + dx - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
        box = (left, y + dy - _LINE * 0.75, left + width, y + dy + _LINE * 0.25)
        inside = box[0] >= _LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - _BELOW
        if inside and not any(_overlap(box, other) for other in taken):
            return (round(x + dx, 1), round(y + dy, 1)), anchor, box
    return None, "start", None


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def strip(name: str, values: Sequence[float], width: float = 600.0) -> Strip:
    """Of percent by identity, in the order of labels."""
    each = width / max(len(values), 1)
    boxes = [
        (
            round(place * each, 2),
            round(each, 2),
            round(max(0.0, min(value, 100.0)) / 100, 2),
            f"identity {place}: {value:.0f} %",
        )
        for place, value in enumerate(values)
    ]
    mean = sum(values) / max(len(values), 1)
    return Strip(
        name, boxes, mean, sum(value <= 0 for value in values), sum(value >= 100 for value in values)
    )


def exposure(lines: Mapping[str, Sequence[float]]) -> Curves:
    """How many people are exposed how much: percent by identity from most to least, of each attack."""
    points = {
        name: [
            (100 * place / max(len(values) - 1, 1), value, None, None)
            for place, value in enumerate(sorted(values, reverse=True))
        ]
        for name, values in lines.items()
        if values
    }
    return _curves(
        "From the most to the least exposed",
        "Of each attacked identity the percent of its reconstructions that the evaluator recognises, sorted.",
        "identities (%)", "recognised (%)", points, dots=False,
    )  # fmt: skip


def robustness(records: Sequence[Record]) -> Curves | None:
    """Robust accuracy over the size of a change, one line for each seed."""
    points = {}
    for record in records:
        told = at(record, "diagnostics.robust_accuracy.points")
        each = [
            (float(one["eps"]), one["value"], one["low"], one["high"]) for one in told or () if one.get("eps")
        ]
        if each:
            points[f"seed {record['seed']}"] = sorted(each)
    if not points:
        return None
    note = "Percent of test images that stay right under PGD, with the 95 % interval over images."
    return _curves(
        "Robust accuracy",
        note,
        "largest change of a pixel (1/255)",
        "still right (%)",
        points,
        logarithmic=True,
    )


def acceptance(lines: Mapping[str, Record]) -> Curves | None:
    """Reconstructions that a judge who knows nobody accepts, over how many impostors he lets pass."""
    points = {}
    for name, record in lines.items():
        told = at(record, "open_set.tar")
        if isinstance(told, Mapping) and told:
            each = sorted((100 * float(rate), found) for rate, found in told.items())
            points[name] = [(rate, f["value"], f.get("low"), f.get("high")) for rate, f in each]
    if not points:
        return None
    note = f"An open-set judge at several false accept rates; the column of the leaderboard is {OPEN_SET}."
    return _curves(
        "Accepted by a judge who knows nobody",
        note,
        "impostors accepted (%)",
        "accepted (%)",
        points,
        logarithmic=True,
    )


_Place = tuple[float, float, "float | None", "float | None"]


def _curves(
    title: str, note: str, across: str, along: str, points: Mapping[str, Sequence[_Place]],
    *, logarithmic: bool = False, dots: bool = True,
) -> Curves:  # fmt: skip
    xs = [x for line in points.values() for x, *_ in line]
    x = Axis(across, min(xs), max(xs), _LEFT, WIDTH - _RIGHT, logarithmic)
    y = Axis(along, 0.0, 100.0, HEIGHT - _BELOW, _TOP)
    lines = []
    for number, (name, line) in enumerate(points.items()):
        low_high = [
            (x(px), y(low), y(high)) for px, _, low, high in line if low is not None and high is not None
        ]
        there = [f"{px},{high}" for px, _, high in low_high]
        back = [f"{px},{low}" for px, low, _ in reversed(low_high)]
        lines.append(
            Line(
                name=name,
                path=" ".join(f"{x(px)},{y(py)}" for px, py, *_ in line),
                dash=_DASHES[number % len(_DASHES)],
                number=number % len(_DASHES),
                dots=[(x(px), y(py), f"{name}: {py:.1f} % at {px:g}") for px, py, *_ in line] if dots else [],
                band=" ".join([*there, *back]) if len(low_high) == len(line) > 1 else "",
            )
        )
    return Curves(title, note, x, y, lines)


def _step(raw: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(raw, 1e-9)))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= raw * 0.999)
