"""The features of a synthetic face: nose, cheeks and marks, eyes and brows, mouth, beard, glasses.

Each function paints on a window whose fields hold the turned head's own coordinates: ``u`` to the right, ``v`` down, 0 between the eyes,
and ``light``, what falls there.
"""

from __future__ import annotations

import torch

from midre_exp.data.face_canvas import Canvas, Faces, blob, both, colour, disc, ridge, soft, wave


def relief(c: Canvas, f: Faces) -> None:
    """The nose in its light, eye sockets, red cheeks, folds of age, freckles, a mole."""
    u, v = c["u"], c["v"]
    au = u.abs()
    ex = au - f["eye_spacing"]
    below = v - f["nose_length"]
    down = ((v + 0.07) / (f["nose_length"] + 0.07)).clamp_(0, 1)
    across = (u - down * (0.10 * f["turn"])) / (
        down * down * (f["nose_width"] - f["nose_bridge"]) + f["nose_bridge"] * 1.2
    )
    slope = (
        (across * across)
        .neg_()
        .add_(1.6)
        .clamp_min_(0)
        .mul_(across)
        .mul_(down)
        .mul_(soft((below - 0.045) * -14))
    )
    gloss = blob(across * 1.7, (below + f["nose_length"] * 0.14) * 13)
    cheeks = blob((ex - 0.03) * 5.5, (v - 0.17) * 6.0).add_(blob(u * 9, below * 10).mul_(0.5))
    lit = slope.mul_(f["nose_light"]).add_(c["light"]).div_(c["light"])
    lit.mul_(1 - 0.22 * blob((ex + 0.015) * 6.2, (v + 0.025) * 8.0))
    lit.mul_(1 - 0.36 * blob(across * 0.8, (below - 0.030) * 17))
    lit.mul_(1 - 0.18 * blob(u * 7, (v - f["mouth_y"] - f["lip_lower"] - 0.055) * 20))
    fold = (
        ridge((au - (f["nose_width"] + 0.012) - 0.36 * below) * 34)
        * soft(below * 18 + 0.2)
        * soft((f["mouth_y"] + 0.02 - v) * 18)
    )
    bag = ridge((ex * ex).mul_(3.0).add_(v - (0.078 + 0.5 * f["eye_height"])).mul_(45)) * soft(
        (0.085 - ex.abs()) * 20
    )
    lit.mul_(1 - fold.mul_(f["folds"]) - bag.mul_(f["bags"]))
    spots = wave(u * 9.3 + v * 1.7) * wave(v * 11.1 - u * 2.3) * wave(u * 4.1 - v * 5.3 + 0.2)
    lit.mul_(1 - soft((spots - 0.22) * 5).mul_(blob(u * 2.6, (v - 0.17) * 5.5)).mul_(f["freckled"]))
    lit.mul_(1 - c.cover(disc(u - f["mole_x"], v - f["mole_y"], 0.019)).mul_(f["moled"]))
    c.colours.mul_(1 - f["rosy"] * cheeks).mul_(lit).add_(gloss.mul_(0.12 * f["light"]))
    # wings and nostrils
    au = (u - f["turn"] * 0.075).abs_()
    w = f["nose_width"]
    wing = disc(au - w * 0.78, (below + 0.012) * 0.9, w * 0.34)
    c.darken(ridge(wing * 50).mul_(soft((au - w * 0.72) * 60)).mul_(0.26))
    c.darken(c.cover(disc((au - w * 0.46) / (w * 0.27), (below - 0.016) * 74, 1.0).mul_(0.016)).mul_(0.50))


def mouth(c: Canvas, f: Faces) -> None:
    """Lips, and teeth behind them when open."""
    light = c["light"]
    q = c["u"] / (f["mouth_width"] * (1 + 0.14 * f["smile"]))
    q2 = q * q
    bow = (1 - q2).clamp_min_(0)
    ends = q.abs().sub_(1).mul_(f["mouth_width"])
    y = c["v"] - f["mouth_y"] - (0.45 - q2).mul_(f["smile"] * 0.052)
    gap = bow * f["gap"]
    upper = (
        (1 - 0.28 * blob(q * 4, torch.zeros_like(q)))
        .mul_(f["lip_upper"])
        .mul_(bow)
        .add_(gap * 0.3)
        .add_(y)
        .neg_()
    )
    lower = y - (bow * (0.55 * f["lip_lower"]) + (0.45 * f["lip_lower"])) * bow - gap * 0.9
    lips = both(torch.maximum(upper, lower), ends, 0.01)
    tone = (
        0.86 + 0.16 * soft(y * 22) + 0.16 * blob(q * 2.0, (y - 0.55 * f["lip_lower"] - 0.7 * f["gap"]) * 45)
    )
    c.paint(c.cover(lips), f["lips"] * (light * tone))
    inside = torch.maximum(torch.maximum(-y - gap * 0.3, y - gap * 0.8), ends + 0.01)
    c.paint(c.cover(inside).mul_(f["parted"]), colour(0.24, 0.07, 0.08) * light)
    teeth = torch.maximum(inside + 0.006, y - gap * 0.34)
    c.paint(c.cover(teeth).mul_(f["parted"]), colour(0.95, 0.93, 0.88) * (0.2 + 0.66 * light))
    c.darken(c.cover(torch.maximum(y.abs() - 0.007, ends - 0.008)).mul_(0.5 - 0.5 * f["parted"]))


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
    white = (0.20 + 0.62 * light) * (1 - 0.34 * soft((upper + 0.024) * 42)) * (1 - 0.15 * q * q)
    ball = colour(0.97, 0.96, 0.95) * white
    ix, iy = x - side * (f["gaze_x"] * 0.018), y - (f["gaze_y"] * 0.008 - 0.006)
    r = disc(ix, iy, 0.0)
    glow = (
        (0.30 + 0.6 * light)
        * (0.8 + 0.5 * soft(iy * 20 + 0.3))
        * (1 - 0.55 * soft((r / f["iris_size"] - 0.62) * 3))
    )
    ball.add_((f["iris"] * glow - ball).mul_(c.cover(r - f["iris_size"])))
    ball.mul_(1 - 0.93 * c.cover(r - f["iris_size"] * 0.45))
    ball.add_((0.97 - ball).mul_(0.9 * c.cover(disc(ix - side * (0.015 * f["light_x"]), iy + 0.017, 0.0115))))
    c.paint(c.cover(torch.maximum(upper, lower)), ball)
    lash = torch.maximum(upper.abs() - f["lash"] * (0.75 + 0.45 * q), ends - 0.010)
    lid = torch.maximum((upper - 0.024 - 0.012 * f["lid"]).abs_() - 0.005, ends)
    rim = torch.maximum(lower.abs() - 0.005, ends + 0.002)
    c.darken(c.cover(lid).mul_(0.10 + 0.25 * f["lid"]).add_(c.cover(rim).mul_(0.25)))
    p = (x / f["brow_length"]).clamp_(-1.5, 1.5)
    p2 = p * p
    line = (v + x * (f["brow_slope"] * 0.8)).add_(f["brow_y"]).sub_(x * x * f["brow_arch"])
    brow = torch.maximum(
        line.abs_() - f["brow_half"] * (1 - 0.5 * p.clamp(-0.4, 1)) * (1 - p2 * p2),
        x.abs() - f["brow_length"],
    )
    brow = c.cover(brow).mul_(wave(x * 24 + v * 9).mul_(0.08).add_(0.86))
    tone = (brow * 0.65 + 0.35).mul_(light)
    c.paint(torch.maximum(c.cover(lash).mul_(0.88), brow), f["brow"] * tone)


def glasses(c: Canvas, f: Faces) -> None:
    """Rims, bridge and temples, with a faint reflection."""
    s = f["glasses_size"]
    au = (c["u"] - f["turn"] * 0.03).abs_()
    x, y = au - (f["eye_spacing"] + 0.012), (c["v"] - 0.015) * 1.18
    x2, y2 = x * x, y * y
    square = (x2 * x2).add_(y2 * y2).sqrt_()
    lens = torch.where(f["glasses_round"] > 0.5, x2.add_(y2), square).sqrt_().sub_(s)
    bar = torch.maximum((y + 0.02).abs_() - 0.012, au - (f["eye_spacing"] - s * 0.92))
    arm = torch.maximum(
        torch.maximum((y + 0.045).abs_() - 0.011, (f["eye_spacing"] + s * 0.95) - au), au - f["face_width"]
    )
    c.paint(c.cover(lens).mul_(0.06 + 0.10 * soft((x + y) * 9)), colour(1.0, 1.0, 1.0))
    rim = torch.minimum(torch.minimum(lens.abs() - 0.0135, bar), arm)
    c.paint(c.cover(rim), f["frame"] * (0.45 + 0.55 * c["light"]))


def beard(c: Canvas, f: Faces) -> None:
    """Stubble, moustache, goatee or full beard."""
    u, v = c["u"], c["v"]
    au = u.abs()
    p, r = u / f["mouth_width"], v - f["mouth_y"]
    p2, p = p * p, p.abs_()
    cheek = (
        soft((au / f["face_width"] - 0.42) * 1.9).mul_(-0.32).sub_(r).sub_(0.09)
    )  # the upper border climbs to the ears
    hole = (p2 * 1.1).add_(r * r * 420).sqrt_().neg_().add_(1).mul_(0.05)
    full = both(
        both(cheek, hole, 0.03), c["outline"] - 0.045 * f["beard_length"] * (v * 2).clamp_(0, 1), 0.02
    )
    down = r - 0.15
    chin = (p2 * 1.56).add_(down * down * 51).sqrt_().sub_(1).mul_(0.12)
    chin = both(both(chin, hole, 0.03), c["outline"] - 0.015, 0.02)
    lip = (r - 2.2 * u * u).add_(f["lip_upper"] + 0.040).abs_().sub_(0.038 * (1.15 - p * 0.87).clamp_min_(0))
    lip = both(lip, au - f["mouth_width"] * 1.12, 0.02)
    tuft = (full * (c.sharp * -0.45)).add_(0.5).clamp_(0, 1).mul_(f["beard_full"])
    cover = torch.maximum(
        torch.maximum(tuft, c.cover(chin).mul_(f["beard_chin"])), c.cover(lip).mul_(f["beard_lip"])
    )
    grain = (
        wave(u * 17 + v * (f["hair_side"] * 5)).mul_(0.03).add_(wave(u * 41 - v * 13).mul_(0.04)).add_(0.85)
    )
    c.paint(cover, f["hair"] * grain.mul_(c["light"]))
