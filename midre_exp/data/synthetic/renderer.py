"""Paints synthetic faces: background, hair behind, clothes, neck, skin, features, hair in front, sensor; many
images at once.

``paint`` is a pure function of the traits of each image alone: neither the batch an image comes in nor its
order changes a bit of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from midre_exp.data.synthetic.canvas import Canvas, Faces, Span, blob, both, disc, soft, wave
from midre_exp.data.synthetic.features import beard, earrings, eyes, glasses, mouth, relief
from midre_exp.seeding import ItemRNG

#: Part of every artifact key: raise it whenever an image changes.
RENDERER_VERSION = 1

_NOISE_PLACES = 61  # how many rows and columns an image's noise can start at


def background(c: Canvas, f: Faces) -> None:
    """Bands from a wide gradient to narrow stripes, and two blurred lights on some."""
    gx, gy = c["gx"], c["gy"]
    along = (gx * f["ground_run"]).add_(gy * f["ground_rise"]).add_(f["ground_phase"])
    mix = soft(wave(along).mul_(f["ground_edge"]).add_(0.5))
    dx, dy = (gx - f["ground_x"]).mul_(1.6), (gy - f["ground_y"]).mul_(1.6)
    spots = blob(dx, dy).add_(blob(dx * 1.5 + 2.2, dy * 1.5 - 1.2))
    mix.add_((0.8 - mix).mul_(soft(spots.mul_(1.6)).mul_(f["ground_lights"])))
    torch.add(f["ground"], (f["ground2"] - f["ground"]) * mix, out=c.colours)


def vault(x2: Tensor, y2: Tensor) -> Tensor:
    """Squared radius of a shape between ellipse and square, from squared coordinates: a skull."""
    ellipse = x2 + y2
    return (x2 * x2).add_(y2 * y2).sqrt_().sub_(ellipse).mul_(0.45).add_(ellipse)


def head(c: Canvas, f: Faces) -> None:
    """Adds ``outline``, the head's signed distance, and ``nx``, its horizontal normal."""
    low = c["y"].clamp_min(0)
    nx = (c["x"] - low * (0.16 * f["turn"])).div_(
        f["face_width"]
    )  # the chin stands out: it moves with the turn
    t2 = low.div_(f["chin"])
    t2.mul_(t2)
    w = nx / (1 - t2 * f["taper"])
    up = c["y"].clamp_max(0).div_(f["skull"])
    r2 = vault(w.mul_(w), up.mul_(up)).add_((t2 * f["jaw"]).add_(1 - f["jaw"]).mul_(t2))
    c.fields |= {"nx": nx, "outline": r2.sqrt_().sub_(1).mul_(f["face_width"])}


def hair(c: Canvas, f: Faces) -> None:
    """Paints the hair behind the head; adds its outline ``hair``, its ``opening`` for the face and its light
    ``sheen``.
    """
    x, y = c["x"], c["y"]
    half = (y.clamp_min(0) * f["hair_flare"]).add_(wave(y * 1.9).mul_(f["hair_waves"])).add_(f["hair_half"])
    q = x / half
    q2, up = q * q, y.clamp_max(0).div_(f["hair_tall"])
    shape = vault(q2, up.mul_(up)).sqrt_().sub_(1).mul_(half)
    shape = both(shape, q2.mul_(0.10).add_(y).sub_(f["hair_length"]), 0.10)
    curl = wave(wave(y * 4).mul_(0.35).add_(x * 4.7)).mul_(wave(wave(x * 3.7).mul_(0.35).add_(y * 4.1)))
    shape.sub_(curl * f["hair_curls"])
    shape = torch.minimum(shape, disc(x - 0.05, y + (f["hair_tall"] + 0.06), f["hair_knot"]))
    # the opening: between an ellipse (curtains) and a square (a fringe), its upper edge tilted and jagged
    p = (x - f["hair_part"]).div_(f["hair_wide"])
    r = (x * f["hair_slant"]).sub_(y).add_(0.10 + 0.12 * f["nod"]).clamp_min_(0).div_(f["hair_high"])
    r.mul_(wave(x * 6.7).mul_(f["hair_jag"]).add_(1))
    p.mul_(p)
    r.mul_(r)
    ellipse, square = p + r, p.mul_(p).add_(r.mul_(r)).sqrt_()
    opening = ellipse.add_(square.sub_(ellipse).mul_(f["hair_square"])).sqrt_().sub_(1).mul_(-f["hair_wide"])
    # strands run from the crown; curls are a bent checker; a band of gloss crosses both
    fan = x / (y * 0.8).add_(1.2).clamp_min_(0.3)
    strand = wave(fan * 9.0 + y * f["hair_side"]).add_(wave(fan.mul_(23.0).add_(y).add_(y))).mul_(0.5)
    strand.add_(curl.mul_(1.4).sub_(strand).mul_(f["hair_curl"]))
    lit = q.mul_(0.5 * f["light_x"]).add_(y * (0.6 * f["light_y"])).add_(0.48).clamp_min_(0)
    band = blob((x - 0.16 * f["light_x"]).mul_(2.2), (y + (0.46 + 0.5 * f["hair_top"])).mul_(5.0))
    sheen = lit.mul_(f["light"]).add_(f["ambient"]).add_(band.mul_(f["hair_shine"]))
    sheen.mul_(strand.mul_(0.13).add_(1))
    c.paint(c.cover(shape), f["hair"] * c.cover(opening).mul_(0.4).add_(0.6).mul_(sheen))
    c.fields |= {"hair": shape, "opening": opening, "sheen": sheen}


def body(c: Canvas, f: Faces) -> None:
    """Clothes, under long hair at the sides, and the neck in the shadow of the chin."""
    x, y = c["x"], c["y"]
    nx = (x - 0.09 * f["turn"]).abs_()
    reach = x.abs().div_(f["shoulders"])
    shoulder = (reach * reach).mul_(0.20).add_(0.10).mul_(reach).add_(f["drop"]).sub_(y)
    stripes = wave(x * f["cloth_x"] + y * f["cloth_y"]).mul_(4).clamp_(-1, 1).mul_(f["cloth_print"])
    lit = (x * (0.30 * f["light_x"])).add_(0.55).mul_(f["light"]).add_(f["ambient"])
    lit.mul_(wave(x * 1.9 + y * 0.9).mul_(0.05).add_(stripes).add_(1))
    under = c.cover(c["hair"]).mul_(soft((nx - f["neck_half"]).mul_(9).add_(0.5)))
    c.paint(c.cover(shoulder).mul_(1 - under), f["cloth"] * lit)
    flare = (y - 0.58).clamp_min_(0)
    column = nx - f["neck_half"] - flare.mul_(flare).mul_(2.0)
    collar = (nx * (0.30 + 0.6 * f["neckline"])).add_(y).sub_(f["drop"] + 0.03 + 0.22 * f["neckline"])
    neck = torch.maximum(both(column, collar, 0.05), 0.3 - y)
    glow = (x * (0.9 * f["light_x"])).add_(0.55).sub_(nx.mul_(nx)).clamp_min_(0)
    shadow = soft((x * (0.25 * f["light_x"])).add_(c["outline"]).mul_(-4.5).add_(1))
    c.paint(c.cover(neck), f["skin"] * glow.mul_(f["light"]).add_(f["ambient"]).mul_(1 - shadow.mul_(0.46)))


def skin(c: Canvas, f: Faces) -> None:
    """The face and the ears, lit as an ellipsoid; adds the features' coordinates ``u``, ``v``, the ``light``,
    and ``skin``.
    """
    x, y, nx, edge = c["x"], c["y"], c["nx"], c["outline"]
    ny = y / f["chin"]
    nz = (nx * nx).add_(ny * ny).neg_().add_(1.15).clamp_min_(0).sqrt_()
    light = (nx * (0.85 * f["light_x"])).add_(ny * (0.75 * f["light_y"])).add_(nz * 0.66).add_(0.33)
    light.clamp_min_(0).mul_(0.74 * f["light"]).add_(f["ambient"])
    light.mul_(1 - soft(edge * 12 + 1).mul_(ny.mul_(1.5).clamp_(0, 1).mul_(0.08).add_(0.08)))
    # ears: part of the skin's outline, hollow inside; the far one slides behind the head
    ear_x = x.abs().sub_(f["face_width"] + f["ear_out"]).add_(x.sign().mul_(0.10 * f["turn"]))
    ear_y = y - (0.06 + 0.2 * f["nod"])
    ear = disc(ear_x * 1.9, ear_y, f["ear_size"] * 1.15)
    hollow = blob(ear_x.div_(f["ear_size"] * 0.45), ear_y.div_(f["ear_size"] * 0.9)).mul_(edge > 0)
    light.mul_(1 - hollow.mul_(0.34))
    light.add_(blob((x - 0.12 * f["light_x"]).mul_(4.5), (y + 0.36).mul_(6)).mul_(0.12 * f["light"]))
    cover = c.cover(torch.minimum(edge, ear))
    flesh = (
        (f["flush"] * light).add_(f["flesh"]).mul_(light)
    )  # redder where it is dim: blood shows in the shade
    c.paint(cover, flesh)
    u, v = x - nz * (f["face_width"] * f["turn"]), y - nz.mul_(0.45 * f["chin"] * f["nod"])
    c.fields |= {"u": u, "v": v, "light": light, "skin": cover}


def fringe(c: Canvas, f: Faces) -> None:
    """The hair in front of the skin, with its shadow on the forehead."""
    on_skin = c["skin"] > 0
    near = (c["opening"] * -14).add_(0.5).clamp_(0, 1).mul_((c["hair"] * -20).add_(0.5).clamp_(0, 1))
    c.darken(near.mul_(0.22).mul_(on_skin))
    c.paint(c.cover(both(c["hair"], c["opening"], 0.04)).mul_(on_skin), f["hair"] * c["sheen"])


def in_window(
    c: Canvas, f: Faces, painter: Callable[[Canvas, Faces], None], x: Span, y: Span, *fields: str
) -> None:
    """Let ``painter`` paint on the head's rectangle ``x`` by ``y`` of every image."""
    part = c.window(f, x, y, fields)
    painter(part, f)
    c.paste(part)


def on_some(
    c: Canvas, f: Faces, who: str, painter: Callable[[Canvas, Faces], None], x: Span, y: Span, *fields: str
) -> None:
    """The same on the images where the trait ``who`` is not 0."""
    rows = f[who].squeeze(1).nonzero().squeeze(1)
    if len(rows):
        those = f.of_rows(rows)
        part = c.window(those, x, y, fields, rows)
        painter(part, those)
        c.paste(part)


def _face(c: Canvas, f: Faces) -> None:
    """The skin and all features. The rectangles hold whatever a feature paints: a test compares with whole
    images.
    """
    skin(c, f)
    # on the turned head, what lies at u appears between u and u + turn
    turn, nod = f["face_width"] * f["turn"] * 1.1, f["chin"] * 0.5 * f["nod"]
    left, right, up, down = turn.clamp_max(0), turn.clamp_min(0), nod.clamp_max(0), nod.clamp_min(0)
    of_face = ("u", "v", "light")
    in_window(c, f, relief, (left - 0.45, right + 0.45), (up - 0.17, down + 0.64), *of_face)
    on_some(c, f, "bearded", beard, (-0.56, 0.56), (-0.20, 0.80), *of_face, "outline")
    in_window(c, f, mouth, (left - 0.22, right + 0.22), (up + 0.22, down + 0.62), *of_face)
    in_window(c, f, eyes, (left - 0.40, right + 0.40), (up - 0.30, down + 0.13), *of_face)
    on_some(c, f, "glassed", glasses, (-0.54, 0.54), (-0.25, 0.28), *of_face)
    on_some(c, f, "earringed", earrings, (-0.70, 0.70), (0.10, 0.40), "x", "y", "hair", "outline")
    fringe(c, f)


@lru_cache(maxsize=8)
def _noise(size: int) -> Tensor:
    """Fixed noise [3, side, side] of unit variance, larger than an image: each image reads it at its own
    place.
    """
    side = size + _NOISE_PLACES - 1
    u = ItemRNG(0, "synthfaces", "noise", items=torch.arange(3)).uniform("tile", 3, side, side)
    return (u[:, 0] + u[:, 1] + u[:, 2] - 1.5) * 2


def develop(c: Canvas, f: Faces) -> Tensor:
    """The colour of the light, the noise of the sensor, eight bits."""
    left, top = ((f[name] * _NOISE_PLACES).long().squeeze(1) for name in ("noise_x", "noise_y"))
    noise = _noise(c.size).unfold(1, c.size, 1).unfold(2, c.size, 1)[:, top, left].flatten(2)
    values = c.colours.mul_(f["sun"]).add_(noise.mul_(f["noise"])).mul_(255).add_(0.5)
    return values.clamp_(0, 255).to(torch.uint8).view(3, -1, c.size, c.size).transpose(0, 1)


def paint(f: Faces, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of the photographs ``f``; takes about 150 bytes per pixel while it works."""
    c = Canvas.blank(f, size)
    background(c, f)
    head(c, f)
    hair(c, f)
    in_window(c, f, body, (-4.0, 4.0), (0.3, 4.0), "x", "y", "hair", "outline")
    side, skull = f["face_width"] + f["ear_size"] * 0.65 + 0.11, f["skull"] + 0.02
    fields = ("x", "y", "nx", "outline", "hair", "opening", "sheen")
    in_window(c, f, _face, (-side, side), (-skull, f["chin"] + 0.06), *fields)
    return develop(c, f)
