"""Renders synthetic faces: background, hair behind, clothes, neck, skin, features, hair in front, sensor; many images at once.

``render`` is a pure function of (seed, identity, index, size, source): every image has its own random streams and its own arithmetic,
so neither the batch it comes in nor the order changes a bit of it. Head units: see ``face_traits``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from midre_exp.data.face_canvas import Canvas, Faces, Span, blob, both, colour, disc, soft, wave
from midre_exp.data.face_features import beard, eyes, glasses, mouth, relief
from midre_exp.data.face_traits import faces
from midre_exp.seeding import Streams

NOISE_PLACES = 61


def background(c: Canvas, f: Faces) -> None:
    """Bands from a wide gradient to narrow stripes, and two blurred lights on some."""
    gx, gy = c["gx"], c["gy"]
    along = (
        (gx * (f["ground_slant"] * f["ground_period"])).add_(gy * f["ground_rise"]).add_(f["ground_phase"])
    )
    mix = soft(wave(along).mul_(f["ground_edge"]).add_(0.5))
    dx, dy = (gx - f["ground_x"]).mul_(1.6), (gy - f["ground_y"]).mul_(1.6)
    spots = blob(dx, dy).add_(blob(dx * 1.5 + 2.2, dy * 1.5 - 1.2))
    mix.add_((0.8 - mix).mul_(soft(spots.mul_(1.6)).mul_(f["ground_lights"])))
    torch.add(f["ground"], (f["ground2"] - f["ground"]) * mix, out=c.colours)


def vault(x2: Tensor, y2: Tensor) -> Tensor:
    """Squared radius of a shape between ellipse and square, from squared coordinates: a skull is not an egg."""
    ellipse = x2 + y2
    return (x2 * x2).add_(y2 * y2).sqrt_().sub_(ellipse).mul_(0.45).add_(ellipse)


def outline(c: Canvas, f: Faces) -> None:
    """The head's outline as a signed distance: an ellipse above, a jaw below; the chin stands out, so it moves with the turn."""
    low = c["y"].clamp_min(0)
    nx = (c["x"] - low * (0.16 * f["turn"])).div_(f["face_width"])
    t2 = low.div_(f["chin"])
    t2.mul_(t2)
    w = nx / (1 - t2 * f["taper"])
    r = c["y"].clamp_max(0).div_(f["skull"])
    r = vault(w.mul_(w), r.mul_(r)).add_((t2 * f["jaw"]).add_(1 - f["jaw"]).mul_(t2))
    c.fields |= {"nx": nx, "outline": r.sqrt_().sub_(1).mul_(f["face_width"])}


def hair(c: Canvas, f: Faces) -> None:
    """Paints the hair behind the head, and keeps its outline (``hair``), the opening for the face, and its light (``sheen``)."""
    x, y = c["x"], c["y"]
    half = (y.clamp_min(0) * f["hair_flare"]).add_(wave(y * 1.9).mul_(f["hair_waves"])).add_(f["hair_half"])
    q = x / half
    q2 = q * q
    up = y.clamp_max(0).div_(f["hair_tall"])
    shape = vault(q2, up.mul_(up)).sqrt_().sub_(1).mul_(half)
    ringlets = wave(x * 3.1 + 0.40).mul_(wave(y * 2.7 + 1.08))
    shape = both(shape, q2.mul_(0.10).add_(y).sub_(f["hair_length"]), 0.10).sub_(
        ringlets.mul_(f["hair_curls"])
    )
    shape = torch.minimum(shape, disc(x - 0.05, y + (f["hair_tall"] + 0.06), f["hair_knot"]))
    # the opening: between an ellipse (curtains) and a square (a fringe), its upper edge tilted and jagged
    over = (x * f["hair_slant"]).sub_(y).add_(0.10 + 0.12 * f["nod"]).clamp_min_(0)
    jag = wave(x * 5.3).add_(wave(x * 8.7)).mul_(f["hair_jag"]).add_(1)
    p, r = (x - f["hair_part"]).div_(f["hair_wide"]), over.div_(f["hair_high"]).mul_(jag)
    p.mul_(p)
    r.mul_(r)
    ellipse, square = p + r, p.mul_(p).add_(r.mul_(r)).sqrt_()
    opening = ellipse.add_(square.sub_(ellipse).mul_(f["hair_square"])).sqrt_().sub_(1).mul_(-f["hair_wide"])
    # strands run from the crown; curls are a bent checker; a band of gloss crosses both
    fan = x / (y * 0.8).add_(1.2).clamp_min_(0.3)
    strand = wave(fan * 9.0 + y * f["hair_side"]).add_(wave(fan.mul_(23.0).add_(y).add_(y))).mul_(0.5)
    ringlets = wave(wave(y * 5).mul_(0.35).add_(x * 6.1)).mul_(wave(wave(x * 4.7).mul_(0.35).add_(y * 5.3)))
    strand.add_(ringlets.mul_(1.4).sub_(strand).mul_(f["hair_curl"]))
    lit = (
        q.mul_(f["light_x"] * 0.5)
        .add_(y * (f["light_y"] * 0.6))
        .add_(0.48)
        .clamp_min_(0)
        .mul_(f["light"])
        .add_(f["ambient"])
    )
    band = blob((x - 0.16 * f["light_x"]).mul_(2.2), (y + (0.46 + 0.5 * f["hair_top"])).mul_(5.0))
    sheen = band.mul_(f["hair_shine"]).add_(lit).mul_(strand.mul_(0.13).add_(1))
    front = c.cover(opening)
    c.paint(c.cover(shape), f["hair"] * (sheen * (front * 0.4 + 0.6)))
    c.fields |= {"hair": shape, "opening": opening, "sheen": sheen}


def body(c: Canvas, f: Faces) -> None:
    """Clothes under the hair, and the neck over it, in the shadow of the chin."""
    x, y = c["x"], c["y"]
    reach = x.abs().div_(f["shoulders"])
    shoulder = (reach * reach).mul_(0.20).add_(0.10).mul_(reach).add_(f["drop"]).sub_(y)
    lit = (x * (f["light_x"] * 0.30)).add_(0.55).mul_(f["light"]).add_(f["ambient"])
    print_ = wave(x * f["cloth_x"] + y * f["cloth_y"]).mul_(4).clamp_(-1, 1).mul_(f["cloth_print"])
    lit.mul_(wave(x * 1.9 + y * 0.9).mul_(0.05).add_(print_).add_(1))
    nx = (x - 0.09 * f["turn"]).abs_()
    over = c.cover(c["hair"]).mul_(
        soft((nx - f["neck_half"]).mul_(9).add_(0.5))
    )  # long hair lies on the shoulders
    c.paint(c.cover(shoulder).mul_(1 - over), f["cloth"] * lit)
    flare = (y - 0.58).clamp_min_(0)
    column = nx - f["neck_half"] - flare.mul_(flare).mul_(2.0)
    collar = (nx * (0.30 + 0.6 * f["neckline"])).add_(y).sub_(f["drop"] + 0.03 + 0.22 * f["neckline"])
    neck = torch.maximum(both(column, collar, 0.05), 0.3 - y)
    glow = (
        (x * (f["light_x"] * 0.9))
        .add_(0.55)
        .sub_(nx.mul_(nx))
        .clamp_min_(0)
        .mul_(f["light"])
        .add_(f["ambient"])
    )
    shadow = soft((x * (0.25 * f["light_x"])).add_(c["outline"]).mul_(-4.5).add_(1))
    c.paint(c.cover(neck), f["skin"] * glow.mul_(1 - shadow.mul_(0.46)))


def skin(c: Canvas, f: Faces) -> None:
    """The face and the ears, lit as an ellipsoid; leaves the features' coordinates ``u`` and ``v``, and ``light``."""
    x, y, nx, edge = c["x"], c["y"], c["nx"], c["outline"]
    ny = y / f["chin"]
    nz = (nx * nx).add_(ny * ny).neg_().add_(1.15).clamp_min_(0).sqrt_()
    light = (nx * (f["light_x"] * 0.85)).add_(ny * (f["light_y"] * 0.75)).add_(nz * 0.66).add_(0.33)
    light.clamp_min_(0).mul_(f["light"] * 0.74).add_(f["ambient"])
    light.mul_(1 - soft(edge * 12 + 1).mul_(ny.mul_(1.5).clamp_(0, 1).mul_(0.08).add_(0.08)))
    # ears: part of the skin's outline, hollow inside; the far one slides behind the head
    ear_x = x.abs().sub_(f["face_width"] + f["ear_out"]).add_(x.sign().mul_(0.10 * f["turn"]))
    ear_y = y - (0.06 + 0.2 * f["nod"])
    ear = disc(ear_x * 1.9, ear_y, f["ear_size"] * 1.15)
    hollow = blob(ear_x / (f["ear_size"] * 0.45), ear_y / (f["ear_size"] * 0.9)).mul_(edge > 0)
    light.mul_(1 - hollow.mul_(0.34))
    light.add_(blob((x - 0.12 * f["light_x"]).mul_(4.5), (y + 0.36).mul_(6)).mul_(0.12 * f["light"]))
    cover = c.cover(torch.minimum(edge, ear))
    c.paint(cover, (f["flush"] * light).add_(f["flesh"]).mul_(light))
    u, v = x - nz * (f["face_width"] * f["turn"]), y - nz.mul_(0.45 * f["chin"] * f["nod"])
    c.fields |= {"u": u, "v": v, "light": light, "skin": cover}


def earrings(c: Canvas, f: Faces) -> None:
    """A ring under each ear."""
    x, y = c["x"], c["y"] - (0.06 + 0.2 * f["nod"] + f["ear_size"] * 1.25)
    ring = disc(x.abs().sub_(f["face_width"] + f["ear_out"]).add_(x.sign().mul_(0.10 * f["turn"])), y, 0.026)
    c.paint(
        c.cover(ring).mul_(1 - c.cover(c["hair"])),
        colour(0.93, 0.80, 0.42) * (f["ambient"] + 0.5 * f["light"]),
    )


def fringe(c: Canvas, f: Faces) -> None:
    """The hair in front of the skin, with its shadow on the forehead."""
    near = (c["opening"] * -14).add_(0.5).clamp_(0, 1).mul_((c["hair"] * -20).add_(0.5).clamp_(0, 1))
    on_skin = c["skin"] > 0
    c.darken(near.mul_(0.22).mul_(on_skin))
    front = c.cover(both(c["hair"], c["opening"], 0.04))
    c.paint(front.mul_(on_skin), f["hair"] * c["sheen"])


@lru_cache(maxsize=8)
def _noise(size: int) -> Tensor:
    """Fixed noise [3, side, side] of about unit variance, larger than an image: each image reads it at its own place."""
    side = size + NOISE_PLACES - 1
    u = Streams.of(0, "synthfaces", "noise", items=torch.arange(3)).uniform("tile", 3, side, side)
    return (u.sum(1) - 1.5) * 2


def some(
    c: Canvas,
    f: Faces,
    who: str,
    paint_on: Callable[[Canvas, Faces], None],
    x: Span,
    y: Span,
    fields: tuple[str, ...],
) -> None:
    """Paint what only some of the people have."""
    rows = f[who].squeeze(1).nonzero().squeeze(1)
    if len(rows):
        those = f.of_rows(rows)
        part = c.window(those, x, y, fields, rows)
        paint_on(part, those)
        c.paste(part)


def paint(f: Faces, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of the photographs ``f``."""
    c = Canvas.blank(f, size)
    background(c, f)
    outline(c, f)
    hair(c, f)
    low = c.window(f, (-4.0, 4.0), (0.3, 4.0), ("x", "y", "hair", "outline"))
    body(low, f)
    c.paste(low)
    side, skull = f["face_width"] + f["ear_size"] * 0.65 + 0.11, f["skull"] + 0.02
    head = c.window(
        f, (-side, side), (-skull, f["chin"] + 0.06), ("x", "y", "nx", "outline", "hair", "opening", "sheen")
    )
    skin(head, f)
    # on the turned face, a feature at u appears between u and u + turn
    turn, nod = f["face_width"] * f["turn"] * 1.1, f["chin"] * 0.5 * f["nod"]
    left, right, up, down = turn.clamp_max(0), turn.clamp_min(0), nod.clamp_max(0), nod.clamp_min(0)
    middle = head.window(f, (-0.45 + left, 0.45 + right), (-0.17 + up, 0.64 + down), ("u", "v", "light"))
    relief(middle, f)
    head.paste(middle)
    some(head, f, "bearded", beard, (-0.56, 0.56), (-0.20, 0.80), ("u", "v", "light", "outline"))
    lips = head.window(f, (-0.22 + left, 0.22 + right), (0.22 + up, 0.62 + down), ("u", "v", "light"))
    mouth(lips, f)
    head.paste(lips)
    gaze = head.window(f, (-0.4 + left, 0.4 + right), (-0.30 + up, 0.13 + down), ("u", "v", "light"))
    eyes(gaze, f)
    head.paste(gaze)
    some(head, f, "glassed", glasses, (-0.54, 0.54), (-0.25, 0.28), ("u", "v", "light"))
    some(head, f, "earringed", earrings, (-0.7, 0.7), (0.1, 0.4), ("x", "y", "hair"))
    fringe(head, f)
    c.paste(head)
    windows = _noise(size).to(c.colours.device).unfold(1, size, 1).unfold(2, size, 1)
    left, top = ((f[name] * NOISE_PLACES).long().squeeze(1) for name in ("noise_x", "noise_y"))
    noise = windows[:, top, left].flatten(2)
    out = (
        c.colours.mul_(f["sun"])
        .add_(noise.mul_(f["noise"]))
        .mul_(255)
        .add_(0.5)
        .clamp_(0, 255)
        .to(torch.uint8)
    )
    return out.view(3, -1, size, size).transpose(0, 1).contiguous()


def render(
    identity: Tensor, index: Tensor, *, size: int, seed: int, source: str = "same", area: int = 50000
) -> Tensor:
    f = faces(identity, index, seed, source)
    chunk = max(1, area // size**2)
    return torch.cat([paint(f.of_rows(slice(s, s + chunk)), size) for s in range(0, len(identity), chunk)])
