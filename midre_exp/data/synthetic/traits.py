"""What a synthetic face looks like: the numbers that make an identity and a photograph of it (nuisance).

Ranges, palettes and what follows from them per image; how they become pixels is ``renderer``. Lengths
are in head units: the origin lies between the eyes, x to the right, y down, and 1 is half the image at scale
1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.data.synthetic.canvas import Faces, colour
from midre_exp.seeding import ItemRNG

Ranges = dict[str, tuple[float, float]]

#: One identity: every trait is drawn uniformly in its range, independently of the others.
IDENTITY: Ranges = {
    "face_width": (0.395, 0.49), "skull": (0.55, 0.62), "chin": (0.57, 0.69), "jaw": (0.0, 0.9),
    "taper": (0.0, 0.24), "neck": (0.58, 0.76), "shoulders": (0.80, 1.05), "age": (0.0, 1.0),
    "femininity": (0.0, 1.0), "skin_tone": (0.0, 1.0), "skin_hue": (-1.0, 1.0), "blush": (0.0, 1.0),
    "eye_spacing": (0.175, 0.228), "eye_width": (0.088, 0.116), "eye_height": (0.046, 0.070),
    "eye_tilt": (-0.16, 0.24), "iris_tone": (0.0, 1.0), "iris_size": (0.040, 0.051), "lid": (0.0, 1.0),
    "lashes": (0.0, 1.0), "brow_height": (0.135, 0.180), "brow_thickness": (0.013, 0.034),
    "brow_slope": (-0.20, 0.28), "brow_arch": (0.0, 2.8), "brow_length": (0.095, 0.130),
    "nose_length": (0.19, 0.27), "nose_width": (0.058, 0.100), "nose_bridge": (0.022, 0.042),
    "mouth_place": (0.36, 0.47), "mouth_width": (0.115, 0.180), "lip_upper": (0.016, 0.038),
    "lip_lower": (0.022, 0.052), "lip_tone": (0.0, 1.0), "ear_size": (0.075, 0.115), "ear_out": (-0.02, 0.03),
    "earring": (0.0, 1.0), "hair_kind": (0.0, 1.0), "hair_tone": (0.0, 1.0), "hair_dye": (0.0, 1.0),
    "hair_hue": (0.0, 1.0), "hair_gloss": (0.0, 1.0), "hair_side": (-1.0, 1.0), "beard_kind": (0.0, 1.0),
    "beard_length": (0.0, 1.0), "glasses_kind": (0.0, 1.0), "glasses_round": (0.0, 1.0),
    "glasses_size": (0.105, 0.135), "glasses_tone": (0.0, 1.0), "freckles": (0.0, 1.0), "mole": (0.0, 1.0),
    "mole_x": (-0.22, 0.22), "mole_y": (0.12, 0.46),
}  # fmt: skip

#: One photograph; angles in radians.
NUISANCE: Ranges = {
    "yaw": (-0.40, 0.40), "pitch": (-0.22, 0.22), "roll": (-0.13, 0.13), "x": (-0.06, 0.06),
    "y": (-0.10, 0.00),
    "scale": (0.98, 1.20), "smile": (-0.35, 1.0), "mouth_open": (-1.2, 1.0), "brow_raise": (-1.0, 1.0),
    "eye_open": (0.55, 1.10), "gaze_x": (-1.0, 1.0), "gaze_y": (-1.0, 1.0), "light_x": (-1.0, 1.0),
    "light_y": (-0.9, 0.1), "light": (0.30, 0.74), "ambient": (0.40, 0.66), "warmth": (-1.0, 1.0),
    "exposure": (0.88, 1.12), "blur": (0.0, 0.018), "noise": (0.003, 0.020), "noise_x": (0.0, 1.0),
    "noise_y": (0.0, 1.0), "ground_hue": (0.0, 1.0), "ground_hue2": (0.0, 0.25),
    "ground_saturation": (0.03, 0.36), "ground_value": (0.22, 0.88), "ground_value2": (-0.40, 0.40),
    "ground_slant": (-1.0, 1.0), "ground_period": (0.12, 0.9), "ground_phase": (0.0, 1.0),
    "ground_edge": (0.5, 2.2), "ground_spots": (-0.6, 0.8), "ground_x": (-0.9, 0.9), "ground_y": (-0.9, 0.5),
    "cloth_hue": (0.0, 1.0), "cloth_saturation": (0.05, 0.70), "cloth_value": (0.12, 0.92),
    "cloth_kind": (0.0, 1.0), "neckline": (0.0, 1.0),
}  # fmt: skip

#: What ``source="other"`` photographs differently: wider poses, outdoor grounds, harder and warmer light.
OTHER: Ranges = {
    "yaw": (-0.60, 0.60), "pitch": (-0.30, 0.30), "roll": (-0.24, 0.24), "x": (-0.10, 0.10),
    "scale": (0.90, 1.22), "light": (0.45, 0.92), "ambient": (0.32, 0.60), "warmth": (-0.4, 1.8),
    "blur": (0.0, 0.012), "ground_hue": (0.18, 0.66), "ground_saturation": (0.20, 0.55),
    "ground_value": (0.35, 0.98), "ground_spots": (0.2, 1.0), "ground_edge": (1.0, 4.0),
}  # fmt: skip

#: The sources of photographs, by name.
SOURCES: dict[str, Ranges] = {"same": NUISANCE, "other": NUISANCE | OTHER}

HAIR = (
    "volume",
    "top",
    "length",
    "flare",
    "wave",
    "curl",
    "line",
    "opening",
    "square",
    "tilt",
    "strands",
    "bun",
)
#: Hairstyles from the usually male to the usually female: the least and the most of each column of HAIR.
HAIRSTYLES = (
    # balding
    ((0.01, 0.00, -0.02, 0.00, 0.0, 0.0, 0.90, 0.90, 0.3, 0.0, 0.0, 0),
     (0.03, 0.01, 0.06, 0.00, 0.0, 0.3, 1.10, 0.96, 0.8, 0.0, 0.2, 0)),
    # buzz cut
    ((0.00, 0.01, -0.08, 0.00, 0.0, 0.0, 0.40, 0.90, 0.5, 0.0, 0.0, 0),
     (0.01, 0.03, 0.04, 0.00, 0.0, 0.2, 0.50, 0.97, 1.0, 0.0, 0.1, 0)),
    # short, brushed to one side
    ((0.01, 0.05, -0.06, 0.00, 0.0, 0.0, 0.34, 0.88, 0.4, 0.1, 0.2, 0),
     (0.04, 0.13, 0.06, 0.00, 0.0, 0.2, 0.46, 0.96, 1.0, 0.5, 0.7, 0)),
    # quiff
    ((0.00, 0.14, -0.10, 0.00, 0.0, 0.0, 0.40, 0.88, 0.6, -0.1, 0.2, 0),
     (0.02, 0.20, 0.04, 0.00, 0.0, 0.4, 0.50, 0.96, 1.0, 0.2, 0.6, 0)),
    # short with a fringe
    ((0.03, 0.05, 0.00, 0.00, 0.0, 0.0, 0.18, 0.84, 0.8, -0.2, 0.5, 0),
     (0.07, 0.10, 0.16, 0.00, 0.0, 0.2, 0.26, 0.94, 1.0, 0.2, 1.0, 0)),
    # curls, short to afro
    ((0.05, 0.10, 0.02, 0.00, 0.0, 0.7, 0.34, 0.86, 0.4, 0.0, 0.3, 0),
     (0.22, 0.22, 0.24, 0.10, 0.0, 1.0, 0.44, 0.96, 0.9, 0.0, 0.6, 0)),
    # bun
    ((0.01, 0.04, -0.02, 0.00, 0.0, 0.0, 0.38, 0.86, 0.0, -0.2, 0.0, 1),
     (0.03, 0.08, 0.08, 0.00, 0.0, 0.1, 0.46, 0.94, 0.4, 0.2, 0.2, 1)),
    # bob
    ((0.06, 0.06, 0.38, 0.05, 0.0, 0.0, 0.34, 0.78, 0.0, -0.4, 0.1, 0),
     (0.11, 0.10, 0.55, 0.20, 0.1, 0.2, 0.44, 0.90, 0.5, 0.4, 0.4, 0)),
    # bob with a fringe
    ((0.06, 0.06, 0.36, 0.00, 0.0, 0.0, 0.18, 0.78, 0.9, 0.0, 0.3, 0),
     (0.11, 0.10, 0.60, 0.15, 0.1, 0.1, 0.24, 0.90, 1.0, 0.0, 0.7, 0)),
    # long and straight
    ((0.04, 0.05, 0.85, 0.00, 0.0, 0.0, 0.36, 0.78, 0.0, -0.4, 0.0, 0),
     (0.09, 0.09, 1.30, 0.12, 0.1, 0.1, 0.46, 0.92, 0.4, 0.4, 0.3, 0)),
    # long and wavy
    ((0.08, 0.07, 0.80, 0.10, 0.5, 0.2, 0.34, 0.78, 0.0, -0.4, 0.1, 0),
     (0.14, 0.12, 1.30, 0.30, 1.0, 0.5, 0.46, 0.92, 0.5, 0.4, 0.4, 0)),
)  # fmt: skip

SKINS = ("f2d1bd", "e8bd9c", "dba882", "b5805c", "87593d", "5c3b29")
HAIRS = ("171414", "2a1a12", "4a2f1e", "6b452a", "86482c", "a35a2c", "9e7545", "dbb36b", "f0deb3")
IRISES = ("29170d", "54301a", "755c29", "477040", "3d78a3", "8094a3")
FRAMES = ("0d0d0f", "3d2112", "8c1a1f", "29386b", "b89957", "bfc4cc")


def along(stops: tuple[str, ...], place: Tensor) -> Tensor:
    """The colour [3, n, 1] at ``place`` [n, 1] in [0, 1) along evenly spaced stops (hexadecimal RGB)."""
    table = torch.tensor([list(bytes.fromhex(stop)) for stop in stops]) * (1 / 255)
    at = place * (len(stops) - 1)
    left = at.long().clamp(max=len(stops) - 2)
    share = (at - left)[..., None]
    return (table[left] * (1 - share) + table[left + 1] * share).permute(2, 0, 1)


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """The colour [3, n, 1] of hue (period 1), saturation and value, each [n, 1]."""
    turn = hue + colour(0.0, 2 / 3, 1 / 3)
    wheel = (((turn - turn.floor()) * 6 - 3).abs() - 1).clamp(0, 1)
    return (1 - (1 - wheel) * saturation) * value


def draw(streams: ItemRNG, name: str, ranges: Ranges) -> dict[str, Tensor]:
    """Each named value [n, 1] uniform in its range."""
    low, high = torch.tensor(list(ranges.values())).unbind(1)
    values = low + (high - low) * streams.uniform(name, len(ranges))
    return dict(zip(ranges, values.t().contiguous()[:, :, None], strict=True))


def hairstyle(f: dict[str, Tensor], rank: Tensor, streams: ItemRNG) -> None:
    """Adds the hair of the style ``rank`` [n, 1] (from 0 to the length of HAIRSTYLES), its details drawn."""
    least, most = torch.tensor(HAIRSTYLES)[rank.long().clamp(max=len(HAIRSTYLES) - 1).squeeze(1)].unbind(1)
    style = least + (most - least) * streams.uniform("hair", len(HAIR))
    f |= zip((f"hair_{name}" for name in HAIR), style.t().contiguous()[:, :, None], strict=True)
    f["hair_half"], f["hair_tall"] = f["face_width"] + f["hair_volume"], f["skull"] + f["hair_top"]
    f["hair_waves"], f["hair_curls"] = 0.035 * f["hair_wave"], 0.024 * f["hair_curl"]
    f["hair_knot"] = 1.165 * f["hair_bun"] - 1  # the radius of a bun; below zero: none
    f["hair_wide"], f["hair_high"] = f["face_width"] * f["hair_opening"], 0.10 + f["hair_line"]
    f["hair_slant"], f["hair_jag"] = 0.6 * f["hair_tilt"] * f["hair_side"], 0.050 * f["hair_strands"]


def beard(f: dict[str, Tensor]) -> None:
    """Adds where a beard grows, from its kind; up to: none .34, stubble .5, moustache .62, goatee .78,
    full.
    """
    kind = f["beard_kind"] * (f["femininity"] < 0.5)
    f["bearded"] = 1.0 * (kind > 0.34)
    f["beard_full"] = 0.94 * (kind > 0.78) + 0.34 * ((kind > 0.34) & (kind <= 0.5))
    f["beard_chin"], f["beard_lip"] = 0.94 * ((kind > 0.62) & (kind <= 0.78)), 0.92 * (kind > 0.5)


def _identities(streams: ItemRNG) -> dict[str, Tensor]:
    """One identity per stream."""
    f = draw(streams, "identity", IDENTITY)
    dark, grey = f["skin_tone"], ((f["age"] - 0.82) * 7).clamp(0, 1)
    f["skin"] = (along(SKINS, dark) + colour(0.012, -0.004, -0.030) * f["skin_hue"]).clamp(0, 1)
    f["flesh"], f["flush"] = f["skin"] * colour(1.0, 0.94, 0.90), f["skin"] * colour(0.0, 0.05, 0.08)
    hair = along(HAIRS, f["hair_tone"] * (1 - 0.5 * dark * dark))
    hair = hair + grey * (0.70 - hair)
    f["hair"] = torch.where(f["hair_dye"] > 0.96, hsv(f["hair_hue"], 0.55, 0.75), hair)
    f["brow"] = f["hair"] * 0.72 * (1 - 0.25 * dark)
    f["iris"] = along(IRISES, f["iris_tone"] * (1 - 0.5 * dark))
    natural, made_up = (
        f["skin"] * colour(0.86, 0.62, 0.62),
        ((f["femininity"] - 0.55) * 4).clamp(0, 1) * f["lip_tone"],
    )
    f["lips"] = natural + 0.75 * made_up * (colour(0.74, 0.20, 0.26) - natural)
    f["rosy"] = colour(-0.02, 0.16, 0.12) * (0.15 + 0.75 * f["blush"] * f["blush"])
    f["frame"] = along(FRAMES, f["glasses_tone"])
    # the styles in the middle of the table are open to all
    rank = (0.58 * f["hair_kind"] + 0.42 * (f["femininity"] > 0.5)) * len(HAIRSTYLES)
    hairstyle(f, rank, streams)
    beard(f)
    f["glassed"], f["moled"] = 1.0 * (f["glasses_kind"] > 0.80), 0.6 * (f["mole"] > 0.72)
    f["earringed"] = 1.0 * (f["earring"] * f["femininity"] > 0.5)
    f["freckled"] = 0.38 * ((f["freckles"] - 0.80) * 20).clamp(0, 1)
    f["old"] = ((f["age"] - 0.4) * 1.7).clamp(0, 1)
    f["bags"] = 0.14 * (0.3 + f["old"])
    f["lash"] = 0.010 + 0.012 * f["lashes"] * f["femininity"]
    f["brow_half"] = f["brow_thickness"] * (1 - 0.28 * f["femininity"])
    f["mouth_y"] = f["nose_length"] + (f["chin"] - f["nose_length"]) * f["mouth_place"]
    f["neck_half"], f["drop"] = f["neck"] * f["face_width"], 0.72 + 0.05 * f["shoulders"]
    return f


def _photographs(streams: ItemRNG, source: str) -> dict[str, Tensor]:
    """One photograph's circumstances per stream."""
    return circumstances(draw(streams, "photograph", SOURCES[source]))


def circumstances(f: dict[str, Tensor]) -> dict[str, Tensor]:
    """What follows for the painter from the pose, light, ground and clothes of photographs, added to them."""
    # rational in the tangent of the half angle: no trigonometry, see canvas
    roll, yaw, pitch = 0.5 * f["roll"], 0.5 * f["yaw"], 0.5 * f["pitch"]
    f["cos"], f["sin"] = (1 - roll * roll) / (1 + roll * roll), 2 * roll / (1 + roll * roll)
    f["turn"], f["nod"] = 2 * yaw / (1 + yaw * yaw), 2 * pitch / (1 + pitch * pitch)
    f["zero"], f["scaled_cos"], f["scaled_sin"] = 0 * f["x"], f["scale"] * f["cos"], f["scale"] * f["sin"]
    f["light"], f["ambient"] = f["light"] * f["exposure"], f["ambient"] * f["exposure"]
    f["sun"] = 1 + colour(0.05, 0.0, -0.06) * f["warmth"]
    f["ground"] = hsv(f["ground_hue"], f["ground_saturation"], f["ground_value"])
    value = (f["ground_value"] + f["ground_value2"]).clamp(0.08, 1)
    f["ground2"] = hsv(f["ground_hue"] + f["ground_hue2"], f["ground_saturation"], value)
    f["ground_run"] = f["ground_slant"] * f["ground_period"]
    f["ground_rise"] = (1 - f["ground_slant"].abs()) * f["ground_period"]
    f["ground_lights"] = f["ground_spots"].clamp_min(0)
    kind = f["cloth_kind"]  # stripes run down or across on some, the rest is plain
    f["cloth"] = hsv(f["cloth_hue"], f["cloth_saturation"], f["cloth_value"])
    f["cloth_x"], f["cloth_y"] = 6.0 * (kind < 0.5), 6.0 * (kind >= 0.5)
    f["cloth_print"] = 0.22 * ((kind - 0.5).abs() < 0.15)
    return f


def faces(identity: Tensor, index: Tensor, *, seed: int, source: str) -> Faces:
    """Photograph ``index`` [n] of ``identity`` [n]; an identity's looks depend on (seed, identity) alone."""
    f = _identities(ItemRNG(seed, "synthfaces", "identity", items=identity))
    f |= _photographs(ItemRNG(seed, "synthfaces", source, items=(identity, index)), source)
    return Faces.of(expressions(f))


def expressions(f: dict[str, Tensor]) -> dict[str, Tensor]:
    """What follows from an identity's looks in a photograph, added to both."""
    smile = f["smile"].clamp_min(0)
    f["folds"] = 0.20 * (f["old"] + 0.25 * smile)
    f["gap"] = 0.055 * f["mouth_open"].clamp_min(0) * (0.5 + f["lip_lower"] * 10)
    f["parted"] = (f["gap"] * 60).clamp(0, 1)
    f["eye_open_height"] = f["eye_height"] * f["eye_open"] * (1 - 0.18 * smile)
    f["brow_tilt"] = 0.8 * f["brow_slope"]
    f["brow_y"] = f["brow_height"] + 0.022 * f["brow_raise"]
    f["nose_light"] = 0.31 * f["light_x"] * f["light"]
    f["hair_part"] = 0.33 * f["face_width"] * f["turn"] + 0.16 * f["hair_side"] * f["hair_tilt"].abs()
    f["hair_shine"] = (0.15 + 0.55 * f["hair_gloss"]) * f["light"]
    return f
