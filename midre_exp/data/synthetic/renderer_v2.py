"""Paints synthetic faces of version 2: heads of more shapes, hair with volume, modelled noses and cheeks,
marks, and what may lie before a face. As pure as ``renderer``, from which it takes what did not change.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from midre_exp.data.synthetic import occluders
from midre_exp.data.synthetic.canvas import Canvas, Faces, blob, both, colour, disc, ridge, soft, wave
from midre_exp.data.synthetic.features import beard, earrings, eyes, glasses, mouth
from midre_exp.data.synthetic.renderer import background, body, develop, fringe, in_window, on_some, vault

#: Part of every artifact key: raise it whenever an image changes.
RENDERER_VERSION = 2


def head(c: Canvas, f: Faces) -> None:
    """Adds ``outline``, the head's signed distance, and ``nx``, its horizontal normal."""
    y = c["y"]
    low = y.clamp_min(0)
    nx = (c["x"] - low * (0.16 * f["turn"])).div_(f["face_width"])  # the chin moves with the turn
    t2 = low.div_(f["chin"])
    t2.mul_(t2)
    bone = y.sub(0.20).mul_(3.0)
    bone = bone.mul_(bone).neg_().add_(1).clamp_min_(0).mul_(f["cheek"])
    up = y.clamp_max(0).div_(f["skull"])
    up.mul_(up)
    w = nx / (bone.sub_(t2 * f["taper"]).sub_(up * f["temple"]).add_(1))
    r2 = vault(w.mul_(w), up).add_((t2 * f["jaw"]).add_(1 - f["jaw"]).mul_(t2))
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
    # locks and strands run from the crown and bend with the waves; curls are a bent checker
    bend = wave(y * 2.3 + f["hair_side"]).mul_(0.02 + 0.9 * f["hair_waves"])
    fan = bend.add_(x).div_((y * 0.8).add_(1.2).clamp_min_(0.3))
    lock = wave(fan * 5.3 + y * (0.7 * f["hair_side"]) + f["hair_phase"])
    strand = wave(fan * 13.0 + y * f["hair_side"]).add_(wave(fan * 27.0 + y * 2.2)).mul_(0.5)
    curl = wave(wave(y * 4).mul_(0.35).add_(x * 4.7)).mul_(wave(wave(x * 3.7).mul_(0.35).add_(y * 4.1)))
    shape.sub_(curl * f["hair_curls"]).sub_(lock * f["hair_wisps"])
    shape = torch.minimum(shape, disc(x - 0.05, y + (f["hair_tall"] + 0.06), f["hair_knot"]))
    # the opening: between an ellipse (curtains) and a square (a fringe), its upper edge tilted and jagged
    p = (x - f["hair_part"]).div_(f["hair_wide"])
    r = (x * f["hair_slant"]).sub_(y).add_(0.10 + 0.12 * f["nod"]).clamp_min_(0).div_(f["hair_high"])
    r.mul_(lock.mul(0.04).add_(wave(x * 6.7).mul_(f["hair_jag"])).add_(1))
    p.mul_(p)
    r.mul_(r)
    ellipse, square = p + r, p.mul_(p).add_(r.mul_(r)).sqrt_()
    opening = ellipse.add_(square.sub_(ellipse).mul_(f["hair_square"])).sqrt_().sub_(1).mul_(-f["hair_wide"])
    grain = strand.mul_(0.6).add_(lock.mul_(0.5))
    grain.add_(curl.mul_(1.6).sub_(grain).mul_(f["hair_curl"]))
    # a round volume in the light, dark at its rim and where it meets the face; gloss bends over the crown
    rim = soft(shape * -7).mul_(0.38).add_(0.62)
    root = (opening * -9).add_(0.15).clamp_(0, 1).mul_(0.20).add_(0.80)
    lit = (q * (0.55 * f["light_x"])).add_(y * (0.62 * f["light_y"])).add_(0.44).clamp_min_(0)
    ring = (q2 * 0.16).add_(y + f["hair_gloss_y"]).add_(grain * 0.03)
    ring = blob(q - 0.35 * f["light_x"], ring.mul_(7.5)).mul_(f["hair_shine"])
    sheen = lit.mul_(f["light"]).add_(f["ambient"]).mul_(rim).mul_(root).add_(ring)
    sheen.mul_(grain.mul_(0.20).add_(1))
    c.paint(c.cover(shape), f["hair"] * c.cover(opening).mul_(0.5).add_(0.5).mul_(sheen))
    c.fields |= {"hair": shape, "opening": opening, "sheen": sheen}


def skin(c: Canvas, f: Faces) -> None:
    """The face and the ears, lit as an ellipsoid; adds the features' coordinates ``u``, ``v``, the ``light``,
    and ``skin``.
    """
    x, y, nx, edge = c["x"], c["y"], c["nx"], c["outline"]
    ny = y / f["chin"]
    nz = (nx * nx).add_(ny * ny).neg_().add_(1.15).clamp_min_(0).sqrt_()
    light = (nx * (0.85 * f["light_x"])).add_(ny * (0.75 * f["light_y"])).add_(nz * 0.70).add_(0.26)
    light.clamp_min_(0).mul_(0.76 * f["light"]).add_((1 - 0.10 * ny) * f["ambient"])
    light.mul_(1 - soft(edge * 9 + 1).mul_(ny.mul_(1.5).clamp_(0, 1).mul_(0.12).add_(0.12)))
    # ears: part of the skin's outline, hollow inside; the far one slides behind the head
    ear_x = x.abs().sub_(f["face_width"] + f["ear_out"]).add_(x.sign().mul_(0.10 * f["turn"]))
    ear_y = y - (0.06 + 0.2 * f["nod"])
    ear = disc(ear_x * 1.9, ear_y, f["ear_size"] * 1.15)
    hollow = blob(ear_x.div_(f["ear_size"] * 0.45), ear_y.div_(f["ear_size"] * 0.9)).mul_(edge > 0)
    light.mul_(1 - hollow.mul_(0.34))
    light.add_(blob((x - 0.14 * f["light_x"]).mul_(3.6), (y + 0.34).mul_(5)).mul_(0.10 * f["light"]))
    cover = c.cover(torch.minimum(edge, ear))
    c.paint(cover, (f["flush"] * light).add_(f["flesh"]).mul_(light))  # redder where it is dim
    u, v = x - nz * (f["face_width"] * f["turn"]), y - nz.mul_(0.45 * f["chin"] * f["nod"])
    c.fields |= {"u": u, "v": v, "light": light, "skin": cover}


def relief(c: Canvas, f: Faces) -> None:
    """The nose in its light, eye sockets, cheeks, and the folds of age and expression."""
    u, v, length, width = c["u"], c["v"], f["nose_length"], f["nose_width"]
    au, below = u.abs(), v - length
    ex = au - f["eye_spacing"]
    down = ((v + 0.07) / (length + 0.07)).clamp_(0, 1)
    half = (down * down).mul_(width - f["nose_bridge"]).add_(f["nose_bridge"] * 1.2)
    across = (u - down * (0.10 * f["turn"])).div_(half)  # the nose stands out, so it moves with the turn
    a2 = across * across
    slope = a2.neg().add_(1.6).clamp_min_(0).mul_(across).mul_(down)
    above = soft((0.045 - below).mul_(14))
    slope.mul_(above)
    lit = slope.mul_(f["nose_light"]).add_(c["light"]).div_(c["light"])
    flank = (a2 - 1.1).abs_().neg_().add_(0.9).clamp_min_(0).mul_(above).mul_(down)
    shade = flank.mul_(0.14)
    shade.add_(blob((ex + 0.020).mul_(5.6), (v + 0.035).mul_(7.0)).mul_(0.24))  # eye sockets
    shade.add_(blob(across * 0.8, (below - 0.030).mul_(17)).mul_(0.36))  # under the nose
    lip_y = f["mouth_y"] + f["lip_lower"]
    shade.add_(blob(u * 6.5, (v - (lip_y + 0.055)).mul_(20)).mul_(0.22))  # under the lip
    shade.add_(blob((ex - 0.045).mul_(6.0), (v - 0.36).mul_(4.5)).mul_(f["hollowed"]))  # under the cheekbones
    fold = ridge((au - below * 0.36).sub_(width + 0.012).mul_(34)).mul_(f["folds"])
    shade.add_(fold.mul_(soft(below * 18 + 0.2)).mul_(soft((f["mouth_y"] + 0.02 - v).mul_(18))))
    bag = ridge((ex * ex).mul_(3.0).add_(v).sub_(0.5 * f["eye_height"] + 0.078).mul_(45)).mul_(f["bags"])
    shade.add_(bag.mul_(soft((0.085 - ex.abs()).mul_(20))))
    frown = ridge((au - 0.035).mul_(70)).mul_(blob(u * 9, (v + 0.10).mul_(14)))
    shade.add_(frown.mul_(f["frowning"]))
    lit.mul_(shade.clamp_max_(0.8).neg_().add_(1))
    cheeks = blob((ex - 0.03).mul_(5.5), (v - 0.17).mul_(6.0)).add_(blob(u * 9, below * 10).mul_(0.5))
    tip = (below + length * 0.14).mul_(11 - 3 * f["nose_tip"])
    gloss = blob(across * 1.5, tip).mul_(0.10 + 0.06 * f["nose_tip"])
    gloss.add_(ridge(across * 2.2).mul_(down.sub_(0.1).clamp_min_(0)).mul_(above).mul_(0.06))
    gloss.add_(blob((ex - 0.055).mul_(6.5), (v - 0.105).mul_(9.5)).mul_(0.09))
    c.colours.mul_((f["rosy"] * cheeks).neg_().add_(1)).mul_(lit).add_(f["skin"] * gloss.mul_(f["light"]))
    au = (u - 0.075 * f["turn"]).abs_()
    wing = disc(au - width * 0.78, (below + 0.012) * 0.9, width * 0.34)
    wing = ridge(wing.mul_(50)).mul_(soft((au - width * 0.72).mul_(60))).mul_(0.26)
    nostril = disc((au - width * 0.46).div_(width * 0.27), (below - 0.016).mul_(74), 1.0)
    c.darken(c.cover(nostril.mul_(0.016)).mul_(0.50).add_(wing))


def forehead(c: Canvas, f: Faces) -> None:
    """The furrows of age."""
    u, v = c["u"], c["v"]
    furrow = wave((u * u).mul_(1.2).add_(v).mul_(13.0)).mul_(3).sub_(2).clamp_min_(0)
    c.darken(furrow.mul_(blob(u * 3.0, (v + 0.32).mul_(7.5))).mul_(f["furrows"]))


def chin(c: Canvas, f: Faces) -> None:
    """Its light, and a cleft in some."""
    u, y = c["u"], c["v"] - (f["chin"] - 0.10)
    c.colours.add_(f["skin"] * blob(u * 6, y * 9).mul_(0.07 * f["light"]))
    c.darken(ridge(u * 48).mul_(blob(u * 12, (y - 0.01).mul_(11))).mul_(f["clefted"]))


def freckles(c: Canvas, f: Faces) -> None:
    """Over nose and cheeks."""
    u, v = c["u"], c["v"]
    spots = wave(u * 9.3 + v * 1.7).mul_(wave(v * 11.1 - u * 2.3)).mul_(wave(u * 4.1 - v * 5.3))
    c.darken(soft(spots.sub_(0.22).mul_(5)).mul_(blob(u * 2.4, (v - 0.17).mul_(4.5))).mul_(f["freckled"]))


def moles(c: Canvas, f: Faces) -> None:
    """Up to two."""
    u, v = c["u"], c["v"]
    shade = c.cover(disc(u - f["mole_x"], v - f["mole_y"], 0.030)).mul_(f["moled"])
    c.darken(torch.maximum(shade, c.cover(disc(u - f["mole2_x"], v - f["mole2_y"], 0.030)).mul_(f["moled2"])))


def birthmark(c: Canvas, f: Faces) -> None:
    """A red stain with a ragged edge."""
    x, y = c["u"] - f["birthmark_x"], (c["v"] - f["birthmark_y"]) * 1.25
    ragged = wave(x * 4.1 + y * 2.3).add_(wave(y * 5.7 - x * 3.1)).mul_(0.12)
    stain = blob(x.div_(f["birthmark_size"]), y.div_(f["birthmark_size"])).add_(ragged).sub_(0.25)
    stain = soft(stain.mul_(3.5)).mul_(f["birthmarked"])
    c.colours.mul_((colour(0.30, 0.60, 0.56) * stain).neg_().add_(1))


def scar(c: Canvas, f: Faces) -> None:
    """A bright line."""
    x, y = c["u"] - f["scar_x"], c["v"] - f["scar_y"]
    cut = (y * (0.8 * f["scar_slant"])).add_(x).abs_().sub_(0.009)
    cut = c.cover(torch.maximum(cut, y.abs_().sub_(0.085))).mul_(f["scarred"])
    c.paint(cut, (f["skin"] * 0.7 + colour(0.30, 0.20, 0.19)) * c["light"])


def _face(c: Canvas, f: Faces) -> None:
    """The skin, all features and what lies before them. The rectangles hold whatever is painted: a test
    compares with whole images.
    """
    skin(c, f)
    # on the turned head, what lies at u appears between u and u + turn
    turn, nod = f["face_width"] * f["turn"] * 1.1, f["chin"] * 0.5 * f["nod"]
    left, right, up, down = turn.clamp_max(0), turn.clamp_min(0), nod.clamp_max(0), nod.clamp_min(0)
    of_face = ("u", "v", "light")
    in_window(c, f, relief, (left - 0.48, right + 0.48), (up - 0.18, down + 0.72), *of_face)
    in_window(c, f, chin, (left - 0.20, right + 0.20), (up + 0.40, down + 0.78), *of_face)
    face = (-0.66, 0.66)
    on_some(c, f, "furrows", forehead, face, (-0.66, 0.10), *of_face)
    on_some(c, f, "freckled", freckles, face, (-0.30, 0.64), *of_face)
    on_some(c, f, "birthmarked", birthmark, face, (-0.72, 0.78), *of_face)
    on_some(c, f, "scarred", scar, face, (-0.42, 0.66), *of_face)
    on_some(c, f, "marked", moles, face, (-0.60, 0.76), *of_face)
    on_some(c, f, "bearded", partial(beard, steepest=15.0), (-0.60, 0.60), (-0.20, 0.84), *of_face, "outline")
    in_window(c, f, mouth, (left - 0.24, right + 0.24), (up + 0.20, down + 0.66), *of_face)
    in_window(c, f, eyes, (left - 0.42, right + 0.42), (up - 0.32, down + 0.14), *of_face)
    on_some(c, f, "mask", occluders.mask, (-0.62, 0.62), (-0.10, 0.90), *of_face, "outline")
    on_some(c, f, "glassed", glasses, (-0.56, 0.56), (-0.27, 0.30), *of_face)
    on_some(c, f, "sunglasses", occluders.sunglasses, (-0.58, 0.58), (-0.30, 0.34), *of_face)
    on_some(c, f, "earringed", earrings, (-0.72, 0.72), (0.08, 0.42), "x", "y", "hair", "outline")
    fringe(c, f)


def paint(f: Faces, size: int) -> Tensor:
    """uint8 [n, 3, size, size] of the photographs ``f``; takes about 150 bytes per pixel while it works."""
    c = Canvas.blank(f, size)
    background(c, f)
    head(c, f)
    hair(c, f)
    in_window(c, f, body, (-4.0, 4.0), (0.3, 4.0), "x", "y", "hair", "outline")
    side, skull = f["face_width"] + f["ear_size"] * 0.65 + 0.14, f["skull"] + 0.02
    fields = ("x", "y", "nx", "outline", "hair", "opening", "sheen")
    in_window(c, f, _face, (-side, side), (-skull, f["chin"] + 0.08), *fields)
    on_some(c, f, "hat", occluders.hat, (-0.70, 0.70), (-0.90, 0.0), "x", "y", "outline")
    on_some(c, f, "scarf", occluders.scarf, (-4.0, 4.0), (0.0, 4.0), "x", "y", "outline")
    on_some(c, f, "hand", occluders.hand, (-4.0, 4.0), (-4.0, 4.0), "x", "y", "outline")
    return develop(c, f)
