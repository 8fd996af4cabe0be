"""What may lie before a synthetic face: sunglasses, a medical mask, a hand, a scarf, a hat.

Each function paints on a window of the images that have it: ``u``, ``v`` are the turned head's own
coordinates, ``x``, ``y`` the picture's, in head units; see ``features``.
"""

from __future__ import annotations

import torch

from midre_exp.data.synthetic.canvas import Canvas, Faces, blob, both, colour, ridge, soft, wave

#: Of each finger of a hand: its place across, where its tip begins, its radius.
_FINGERS = ((-0.155, 0.03, 0.050), (-0.052, -0.02, 0.054), (0.052, 0.0, 0.053), (0.150, 0.06, 0.047))


def sunglasses(c: Canvas, f: Faces) -> None:
    """Dark lenses in a frame, brighter towards the light."""
    s = f["glasses_size"] * (1.06 + 0.22 * f["occluder_size"])
    au = (c["u"] - 0.03 * f["turn"]).abs_()
    x, y = au - (f["eye_spacing"] + 0.012), (c["v"] - 0.020) * 1.22
    x2, y2 = x * x, y * y
    square = (x2 * x2).add_(y2 * y2).sqrt_()
    lens = torch.where(f["glasses_round"] > 0.5, x2.add_(y2), square).sqrt_().sub_(s)
    bar = torch.maximum((y + 0.03).abs_().sub_(0.014), au - (f["eye_spacing"] - s * 0.9))
    arm = torch.maximum((y + 0.045).abs_().sub_(0.014), (f["eye_spacing"] + s * 0.95) - au)
    arm = torch.maximum(arm, au - f["face_width"])
    sky = soft((y * -6).add_(x * (2 * f["light_x"])).add_(0.1)).mul_(0.20 * f["light"]).add_(0.05)
    c.paint(c.cover(lens).mul_(0.95), f["fabric"] * (0.35 * sky) + colour(0.8, 0.9, 1.0) * sky)
    rim = torch.minimum(torch.minimum(lens.abs_().sub_(0.014), bar), arm)
    c.paint(c.cover(rim), f["frame"] * (0.55 * c["light"] + 0.30))


def mask(c: Canvas, f: Faces) -> None:
    """A pleated mask from the bridge of the nose to under the chin, with loops to the ears."""
    u, v = c["u"], c["v"]
    au = u.abs()
    top = 0.36 * f["nose_length"] + 0.10 * f["occluder_place"]
    q = au / f["face_width"]
    q2 = q * q
    upper = (q2 * (0.15 * (1 - 0.6 * q))).add_(top).sub_(v)  # highest over the nose
    low = f["chin"] + 0.035
    side = (v - (top + 0.5 * (low - top))).mul_(0.9)
    sides = (side * side).mul_(0.35).add_(au).sub_(0.93 * f["face_width"])
    cloth = both(both(upper, v - low, 0.05), both(sides, c["outline"] - 0.035, 0.03), 0.05)
    # loops: from the corners of the mask to the ears
    for corner in (top + 0.13, low - 0.22):
        loop = torch.maximum((v - corner + (au - f["face_width"]) * 0.25).abs_().sub_(0.008), 0.8 - q)
        c.paint(c.cover(torch.maximum(loop, c["outline"])).mul_(0.8), colour(0.92, 0.92, 0.92) * c["light"])
    c.darken((cloth * -16).add_(1.6).clamp_(0, 1).mul_((cloth * 14).neg_().add_(1).clamp_(0, 1)).mul_(0.16))
    across = (v - top) / (low - top)
    pleats = ridge(wave(across * 2.6 + q2 * 0.16).sub_(0.9).mul_(5)).mul_((1.3 - q).clamp_(0, 1))
    bulge = blob(u * 3.2, (v - f["nose_length"] * 0.95) * 4).mul_(0.10)
    lit = (1 - pleats.mul_(0.16)).add_(bulge).sub_(q2 * 0.10).mul_(c["light"])
    tint = f["fabric"] * 0.25 + colour(0.62, 0.68, 0.72)
    c.paint(c.cover(cloth), tint.clamp_max(0.95) * lit)
    wire = torch.maximum((upper + 0.022).abs_().sub_(0.006), au - 0.10)
    c.darken(c.cover(wire).mul_(0.14))


def hand(c: Canvas, f: Faces) -> None:
    """Four fingers and a thumb that reach across the face from below, one side or above."""
    side = torch.where(f["occluder_side"] < 0, -1.0, 1.0)
    place = f["occluder_place"]
    # the fingers' own coordinates: p across them, q from the finger tips down to the wrist
    lean = 0.35 + 0.5 * place
    norm = (1 + lean * lean).sqrt()
    dx = (c["x"] * side) - (0.10 + 0.10 * f["occluder_size"])
    dy = c["y"] - (0.02 + 0.42 * place)
    p = ((dx + dy * lean) / norm).div_(1.05)
    q = ((dy - dx * lean) / norm).div_(1.05)
    shape = torch.full_like(p, 9.0)
    for at, tip, radius in _FINGERS:
        dp, dq = p - at, q - q.clamp(tip, 0.42)
        shape = torch.minimum(shape, (dp * dp).add_(dq * dq).sqrt_().sub_(radius))
    palm_q = q - q.clamp(0.40, 1.6)
    palm_p = p - p.clamp(-0.12, 0.12)
    palm = (palm_p * palm_p).add_(palm_q * palm_q).sqrt_().sub_(0.10)
    thumb_p, thumb_q = p - (0.27 - 0.35 * (q - 0.30)), q - q.clamp(0.24, 0.52)
    thumb = (thumb_p * thumb_p).add_(thumb_q * thumb_q).sqrt_().sub_(0.052)
    inside = torch.minimum(shape, torch.minimum(palm, thumb))
    # shaded as cylinders: dark between the fingers
    depth = (inside * -17).clamp_(0, 1)
    lit = depth.mul_(2 - depth).mul_(0.42).add_(0.58)
    lit = lit.mul_((p * (-0.6 * side * f["light_x"]) + 0.62).clamp_(0.2, 1.2) * f["light"] + f["ambient"])
    shadow = (inside * -9).add_(0.55).clamp_(0, 1).mul_(1 - c.cover(inside))
    c.darken(shadow.mul_(0.30).mul_((c["outline"] * -30).clamp_(0, 1)))
    c.paint(c.cover(inside), (f["flush"] * lit).add_(f["flesh"]).mul_(lit))


def scarf(c: Canvas, f: Faces) -> None:
    """A knitted scarf around the neck, up to the chin, the mouth or the nose."""
    x, y = c["x"], c["y"]
    top = f["chin"] - 0.06 - (f["chin"] - f["nose_length"] + 0.02) * f["occluder_place"]
    nx = x / (f["face_width"] * 1.12)
    n2 = nx * nx
    upper = top - y - n2.mul(0.09) + 0.02 * wave(x * 1.3 + f["occluder_side"])
    sides = x.abs() - f["face_width"] * 1.10 - (y - top).clamp_min(0) * 0.35
    cloth = both(both(upper, sides, 0.08), y - (f["chin"] + 0.42), 0.08)
    c.darken((cloth * -14).add_(0.6).clamp_(0, 1).mul_(0.3).mul_((c["outline"] * -30).clamp_(0, 1)))
    folds = wave((y + x * (0.35 * f["occluder_side"]) + n2 * 0.15) * 5.0).mul_(0.14)
    knit = wave(x * 14 + y * 5).mul_(wave(y * 16)).mul_(0.08)
    lit = (x * (0.5 * f["light_x"])).add_(0.62).mul_(f["light"]).add_(f["ambient"])
    lit.mul_(folds.add_(knit).add_(0.92)).mul_(soft(cloth * -10).mul_(0.25).add_(0.75))
    c.paint(c.cover(cloth), f["fabric"] * lit)


def hat(c: Canvas, f: Faces) -> None:
    """A knitted cap down to the forehead."""
    x, y = c["x"], c["y"]
    nx = (x - 0.03 * f["turn"]) / (f["face_width"] + 0.05)
    up = (y + 0.16) / (f["skull"] - 0.06)
    r2 = (nx * nx).add_(up * up)
    crown = r2.sqrt_().sub_(1).mul_(f["face_width"])
    brim = y + 0.26 - 0.06 * f["occluder_place"] - 0.12 * f["nod"] + (x * x) * 0.10
    cap = both(crown, brim, 0.03)
    band = torch.maximum(cap - 0.012, -0.15 - brim)
    c.darken((brim * -9).add_(0.8).clamp_(0, 1).mul_((c["outline"] * -30).clamp_(0, 1)).mul_(0.25))
    ribs = wave(nx * (7.0 + 2.0 * up)).mul_(0.10)
    lit = (nx * (0.55 * f["light_x"])).add_(up * (0.5 * f["light_y"])).add_(0.55).clamp_min_(0)
    lit = lit.mul_(f["light"]).add_(f["ambient"]).mul_(ribs.add_(0.94))
    lit.mul_(soft(crown * -8).mul_(0.35).add_(0.65))
    c.paint(c.cover(cap), f["fabric"] * lit)
    c.paint(c.cover(band).mul_(0.9), f["fabric"] * (lit * 0.82))
