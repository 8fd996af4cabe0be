"""The features of a synthetic face: nose, cheeks and marks, mouth, eyes and brows, and what only some have:
beard, glasses, earrings.

Each function paints on a window. Its fields ``u`` (right) and ``v`` (down) are the turned head's own
coordinates, 0 between the eyes; ``light`` is what falls there and ``outline`` the distance from the head's
edge.
"""

from __future__ import annotations

import math

import torch

from midre_exp.data.synthetic.canvas import Canvas, Faces, blob, both, colour, disc, ridge, soft, wave


def relief(c: Canvas, f: Faces) -> None:
    """The nose in its light, eye sockets, red cheeks, folds of age, freckles, a mole."""
    u, v, length, width = c["u"], c["v"], f["nose_length"], f["nose_width"]
    au, below = u.abs(), v - length
    ex = au - f["eye_spacing"]
    down = ((v + 0.07) / (length + 0.07)).clamp_(0, 1)
    half = (down * down).mul_(width - f["nose_bridge"]).add_(f["nose_bridge"] * 1.2)
    across = (u - down * (0.10 * f["turn"])).div_(half)  # the nose stands out, so it moves with the turn
    slope = (across * across).neg_().add_(1.6).clamp_min_(0).mul_(across).mul_(down)
    slope.mul_(soft((0.045 - below).mul_(14)))
    lit = slope.mul_(f["nose_light"]).add_(c["light"]).div_(c["light"])
    shade = blob((ex + 0.015).mul_(6.2), (v + 0.025).mul_(8.0)).mul_(0.22)  # eye sockets
    shade.add_(blob(across * 0.8, (below - 0.030).mul_(17)).mul_(0.36))  # under the nose
    shade.add_(
        blob(u * 7, (v - (f["mouth_y"] + f["lip_lower"] + 0.055)).mul_(20)).mul_(0.18)
    )  # under the lip
    fold = ridge((au - below * 0.36).sub_(width + 0.012).mul_(34)).mul_(f["folds"])
    shade.add_(fold.mul_(soft(below * 18 + 0.2)).mul_(soft((f["mouth_y"] + 0.02 - v).mul_(18))))
    bag = ridge((ex * ex).mul_(3.0).add_(v).sub_(0.5 * f["eye_height"] + 0.078).mul_(45)).mul_(f["bags"])
    shade.add_(bag.mul_(soft((0.085 - ex.abs()).mul_(20))))
    spots = wave(u * 9.3 + v * 1.7).mul_(wave(v * 11.1 - u * 2.3)).mul_(wave(u * 4.1 - v * 5.3))
    spots = soft(spots.sub_(0.22).mul_(5)).mul_(blob(u * 2.6, (v - 0.17).mul_(5.5)))
    shade.add_(spots.mul_(f["freckled"]))
    shade.add_(c.cover(disc(u - f["mole_x"], v - f["mole_y"], 0.019)).mul_(f["moled"]))
    lit.mul_(shade.clamp_max_(0.8).neg_().add_(1))
    cheeks = blob((ex - 0.03).mul_(5.5), (v - 0.17).mul_(6.0)).add_(blob(u * 9, below * 10).mul_(0.5))
    gloss = blob(across * 1.7, (below + length * 0.14).mul_(13)).mul_(0.12 * f["light"])
    c.colours.mul_((f["rosy"] * cheeks).neg_().add_(1)).mul_(lit).add_(gloss)
    au = (u - 0.075 * f["turn"]).abs_()
    wing = disc(au - width * 0.78, (below + 0.012) * 0.9, width * 0.34)
    wing = ridge(wing.mul_(50)).mul_(soft((au - width * 0.72).mul_(60))).mul_(0.26)
    nostril = disc((au - width * 0.46).div_(width * 0.27), (below - 0.016).mul_(74), 1.0)
    c.darken(c.cover(nostril.mul_(0.016)).mul_(0.50).add_(wing))


def mouth(c: Canvas, f: Faces) -> None:
    """Lips, and teeth behind them when open."""
    light, gap = c["light"], f["gap"]
    q = c["u"] / (f["mouth_width"] * (1 + 0.14 * f["smile"]))
    q2 = q * q
    bow = (1 - q2).clamp_min_(0)
    ends = q.abs().sub_(1).mul_(f["mouth_width"])
    y = c["v"] - f["mouth_y"] - (0.45 - q2).mul_(f["smile"] * 0.052)
    dip = 1 - 0.28 * ridge(q * 4)
    upper = (dip.mul_(f["lip_upper"]).add_(0.3 * gap)).mul_(bow).add_(y).neg_()
    lower = y - (bow * (0.55 * f["lip_lower"]) + (0.45 * f["lip_lower"] + 0.9 * gap)) * bow
    lips = both(torch.maximum(upper, lower), ends, 0.01)
    gloss = blob(q * 2.0, (y - (0.55 * f["lip_lower"] + 0.7 * gap)) * 45)
    c.paint(c.cover(lips), f["lips"] * (0.86 + 0.16 * soft(y * 22) + 0.16 * gloss).mul_(light))
    gap = bow * gap
    inside = torch.maximum(torch.maximum(-y - gap * 0.3, y - gap * 0.8), ends + 0.01)
    c.paint(c.cover(inside).mul_(f["parted"]), colour(0.24, 0.07, 0.08) * light)
    teeth = torch.maximum(inside + 0.006, y - gap * 0.34)
    c.paint(c.cover(teeth).mul_(f["parted"]), colour(0.95, 0.93, 0.88) * (0.66 * light + 0.2))
    line = torch.maximum(y.abs().sub_(0.007), ends - 0.008)
    c.darken(c.cover(line).mul_(0.5 - 0.5 * f["parted"]))


def eyes(c: Canvas, f: Faces) -> None:
    """Whites, iris, pupil, highlight, lids, lashes, brows."""
    u, v, light = c["u"], c["v"], c["light"]
    side = u.sign()
    x = u.abs() - f["eye_spacing"]
    y = v + x * f["eye_tilt"]
    q = x / f["eye_width"]
    arc = (1 - q * q).mul_(f["eye_open_height"])
    ends = q.abs().sub_(1).mul_(f["eye_width"])
    upper = -y - arc * (1.08 - 0.12 * q)
    lower = y - arc * (0.68 + 0.09 * q)
    white = (0.62 * light + 0.20) * (1 - 0.34 * soft((upper + 0.024) * 42)) * (1 - 0.15 * q * q)
    ball = colour(0.97, 0.96, 0.95) * white
    ix, iy = x - side * (0.018 * f["gaze_x"]), y - (0.008 * f["gaze_y"] - 0.006)
    r = disc(ix, iy, 0.0)
    glow = (0.6 * light + 0.30).mul_(0.5 * soft(iy * 20 + 0.3) + 0.8)
    glow.mul_(1 - 0.55 * soft((r / f["iris_size"] - 0.62) * 3))
    ball.add_((f["iris"] * glow).sub_(ball).mul_(c.cover(r - f["iris_size"])))
    ball.mul_(1 - 0.93 * c.cover(r - f["iris_size"] * 0.45))
    glint = c.cover(disc(ix - side * (0.015 * f["light_x"]), iy + 0.017, 0.0115)).mul_(0.9)
    ball.add_((0.97 - ball).mul_(glint))
    c.paint(c.cover(torch.maximum(upper, lower)), ball)
    lid = torch.maximum((upper - (0.024 + 0.012 * f["lid"])).abs_().sub_(0.005), ends)
    rim = torch.maximum(lower.abs_().sub_(0.005), ends + 0.002)
    c.darken(c.cover(lid).mul_(0.10 + 0.25 * f["lid"]).add_(c.cover(rim).mul_(0.25)))
    lash = torch.maximum(upper.abs_() - f["lash"] * (0.75 + 0.45 * q), ends - 0.010)
    p = (x / f["brow_length"]).clamp_(-1.5, 1.5)
    p2 = p * p
    line = (v + x * f["brow_tilt"]).add_(f["brow_y"]).sub_(x * x * f["brow_arch"]).abs_()
    line.sub_((1 - 0.5 * p.clamp_(-0.4, 1)).mul_(1 - p2 * p2).mul_(f["brow_half"]))
    brow = c.cover(torch.maximum(line, x.abs() - f["brow_length"]))
    brow.mul_(wave(x * 24 + v * 9).mul_(0.08).add_(0.86))
    c.paint(torch.maximum(c.cover(lash).mul_(0.88), brow), f["brow"] * (0.65 * brow + 0.35).mul_(light))


def beard(c: Canvas, f: Faces, steepest: float = math.inf) -> None:
    """Stubble, moustache, goatee or full beard; ``steepest``: of its edges, per head unit."""
    u, v = c["u"], c["v"]
    au = u.abs()
    p, r = au / f["mouth_width"], v - f["mouth_y"]
    p2, down = p * p, r - 0.15
    lips = (p2 * 1.1).add_(r * r * 420).sqrt_().neg_().add_(1).mul_(0.05)
    cheek = soft((au / f["face_width"] - 0.42) * 1.9).mul_(-0.32).sub_(r).sub_(0.09)  # climbs to the ears
    reach = (v * 2).clamp_(0, 1).mul_(0.045 * f["beard_length"])
    full = both(both(cheek, lips, 0.03), c["outline"] - reach, 0.02)
    tuft = (full * (c.sharp * 0.45).clamp_max(steepest).neg_()).add_(0.5).clamp_(0, 1)
    goatee = (p2 * 1.56).add_(down * down * 51).sqrt_().sub_(1).mul_(0.12)
    goatee = both(both(goatee, lips, 0.03), c["outline"] - 0.015, 0.02)
    lip = (
        (r - u * u * 2.2)
        .add_(f["lip_upper"] + 0.040)
        .abs_()
        .sub_((1.15 - p * 0.87).clamp_min_(0).mul_(0.038))
    )
    lip = both(lip, au - f["mouth_width"] * 1.12, 0.02)
    parts = (
        tuft.mul_(f["beard_full"]),
        c.cover(goatee).mul_(f["beard_chin"]),
        c.cover(lip).mul_(f["beard_lip"]),
    )
    grain = (
        wave(u * 17 + v * (5 * f["hair_side"])).mul_(0.03).add_(wave(u * 41 - v * 13).mul_(0.04)).add_(0.85)
    )
    c.paint(torch.maximum(torch.maximum(parts[0], parts[1]), parts[2]), f["hair"] * grain.mul_(c["light"]))


def glasses(c: Canvas, f: Faces) -> None:
    """Rims, bridge and temples, with a faint reflection."""
    s = f["glasses_size"]
    au = (c["u"] - 0.03 * f["turn"]).abs_()
    x, y = au - (f["eye_spacing"] + 0.012), (c["v"] - 0.015) * 1.18
    x2, y2 = x * x, y * y
    square = (x2 * x2).add_(y2 * y2).sqrt_()
    lens = torch.where(f["glasses_round"] > 0.5, x2.add_(y2), square).sqrt_().sub_(s)
    bar = torch.maximum((y + 0.02).abs_().sub_(0.012), au - (f["eye_spacing"] - s * 0.92))
    arm = torch.maximum((y + 0.045).abs_().sub_(0.011), (f["eye_spacing"] + s * 0.95) - au)
    arm = torch.maximum(arm, au - f["face_width"])
    c.paint(c.cover(lens).mul_(0.10 * soft((x + y) * 9) + 0.06), colour(1.0, 1.0, 1.0))
    rim = torch.minimum(torch.minimum(lens.abs_().sub_(0.0135), bar), arm)
    c.paint(c.cover(rim), f["frame"] * (0.55 * c["light"] + 0.45))


def earrings(c: Canvas, f: Faces) -> None:
    """A ring under each ear, where neither the hair nor the face hides it; the head's ``x``, ``y`` serve as
    coordinates.
    """
    x, y = c["x"], c["y"] - (0.06 + 0.2 * f["nod"] + f["ear_size"] * 1.25)
    ring = disc(x.abs().sub_(f["face_width"] + f["ear_out"]).add_(x.sign().mul_(0.10 * f["turn"])), y, 0.026)
    cover = c.cover(ring).mul_(1 - c.cover(c["hair"])).mul_(c["outline"] > -0.01)
    c.paint(cover, colour(0.93, 0.80, 0.42) * (f["ambient"] + 0.5 * f["light"]))
