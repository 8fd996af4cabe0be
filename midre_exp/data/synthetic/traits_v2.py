"""What a synthetic face of version 2 looks like. A person is told by the geometry of the face, the brows,
part of the skin's tone and marks; what real people change from one photograph to the next is drawn anew for
each.

Traits come in groups. Each group has a random stream of its own, of the person or of the photograph
(``per_photo``), so that moving one group from person to photograph, or giving it somebody else's
(``borrowed``), leaves all others as they are. Lengths are as in ``traits``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from midre_exp.data.synthetic.canvas import Faces, colour
from midre_exp.data.synthetic.traits import (
    FRAMES,
    HAIRSTYLES,
    IRISES,
    SKINS,
    Ranges,
    along,
    beard,
    circumstances,
    draw,
    expressions,
    hairstyle,
    hsv,
)
from midre_exp.seeding import ItemRNG

#: What a person is made of, unless it changes with the photograph; each trait is uniform in its range and
#: independent of the others.
PERSON: dict[str, Ranges] = {
    "build": {"age": (0.0, 1.0), "femininity": (0.0, 1.0)},
    "outline": {
        "face_width": (0.360, 0.515), "skull": (0.53, 0.64), "chin": (0.53, 0.74), "jaw": (0.0, 0.95),
        "taper": (0.0, 0.32), "cheek": (-0.07, 0.08), "temple": (0.0, 0.16), "cleft": (-1.2, 1.0),
        "hollow": (-0.5, 1.0), "neck": (0.60, 0.80), "shoulders": (0.80, 1.05),
    },
    "eyes": {
        "eye_spacing": (0.148, 0.250), "eye_width": (0.074, 0.126), "eye_height": (0.034, 0.080),
        "eye_tilt": (-0.26, 0.32), "iris_tone": (0.0, 1.0), "iris_size": (0.036, 0.054), "lid": (0.0, 1.0),
        "lashes": (0.0, 1.0),
    },
    "brows": {
        "brow_height": (0.105, 0.200), "brow_thickness": (0.010, 0.056), "brow_slope": (-0.34, 0.42),
        "brow_arch": (0.0, 3.2), "brow_length": (0.080, 0.150), "brow_tone": (0.0, 1.0),
    },
    "nose": {
        "nose_length": (0.150, 0.305), "nose_width": (0.042, 0.128), "nose_bridge": (0.018, 0.046),
        "nose_tip": (0.0, 1.0),
    },
    "mouth": {
        "mouth_place": (0.32, 0.51), "mouth_width": (0.090, 0.205), "lip_upper": (0.010, 0.050),
        "lip_lower": (0.014, 0.068), "lip_tone": (0.0, 1.0),
    },
    "ears": {"ear_size": (0.060, 0.140), "ear_out": (-0.025, 0.035)},
    "skin": {"skin_tone": (0.0, 1.0), "skin_hue": (-1.0, 1.0), "blush": (0.0, 1.0)},
    "marks": {
        "freckles": (0.0, 1.0), "mole": (0.0, 1.0), "mole_x": (-0.26, 0.26), "mole_y": (0.08, 0.50),
        "mole2": (0.0, 1.0), "mole2_x": (-0.26, 0.26), "mole2_y": (-0.36, 0.36), "birthmark": (0.0, 1.0),
        "birthmark_x": (-0.28, 0.28), "birthmark_y": (-0.34, 0.42), "birthmark_size": (0.07, 0.16),
        "scar": (0.0, 1.0), "scar_x": (-0.25, 0.25), "scar_y": (-0.10, 0.36), "scar_slant": (-1.0, 1.0),
    },
    "hair": {
        "hair_kind": (0.0, 1.0), "hair_tone": (0.0, 1.0), "hair_dye": (0.0, 1.0), "hair_hue": (0.0, 1.0),
        "hair_gloss": (0.0, 1.0), "hair_side": (-1.0, 1.0), "beard_kind": (0.0, 1.0),
        "beard_length": (0.0, 1.0),
    },
    "glasses": {
        "glasses_kind": (0.0, 1.0), "glasses_round": (0.0, 1.0), "glasses_size": (0.100, 0.140),
        "glasses_tone": (0.0, 1.0),
    },
    "clothes": {
        "cloth_hue": (0.0, 1.0), "cloth_saturation": (0.05, 0.70), "cloth_value": (0.10, 0.90),
        "cloth_kind": (0.0, 1.0), "neckline": (0.0, 1.0), "earring": (0.0, 1.0), "lipstick": (-1.0, 1.0),
        "lipstick_hue": (0.0, 1.0),
    },
}  # fmt: skip

#: One photograph.
PHOTOGRAPH: dict[str, Ranges] = {
    "pose": {
        "yaw": (-0.28, 0.28), "pitch": (-0.13, 0.13), "roll": (-0.09, 0.09), "x": (-0.035, 0.035),
        "y": (-0.045, 0.020), "scale": (1.20, 1.34),
    },
    "expression": {
        "smile": (-0.45, 1.0), "mouth_open": (-1.1, 1.0), "brow_raise": (-0.8, 0.8), "frown": (-1.0, 1.0),
        "eye_open": (0.50, 1.12), "gaze_x": (-1.0, 1.0), "gaze_y": (-1.0, 1.0),
    },
    "light": {
        "light_x": (-0.9, 0.9), "light_y": (-0.9, 0.2), "light": (0.42, 0.70), "ambient": (0.46, 0.61),
        "warmth": (-0.5, 0.6), "tan": (-0.03, 0.03),
    },
    "camera": {
        "exposure": (0.94, 1.06), "blur": (0.0, 0.016), "noise": (0.003, 0.020), "noise_x": (0.0, 1.0),
        "noise_y": (0.0, 1.0),
    },
    "ground": {
        "ground_hue": (0.0, 1.0), "ground_hue2": (0.0, 0.25), "ground_saturation": (0.03, 0.34),
        "ground_value": (0.20, 0.90), "ground_value2": (-0.45, 0.45), "ground_slant": (-1.0, 1.0),
        "ground_period": (0.12, 0.9), "ground_phase": (0.0, 1.0), "ground_edge": (0.5, 2.4),
        "ground_spots": (-0.6, 0.9), "ground_x": (-0.9, 0.9), "ground_y": (-0.9, 0.5),
    },
    "occluder": {
        "occluder": (0.0, 1.0), "occluder_kind": (0.0, 1.0), "occluder_side": (-1.0, 1.0),
        "occluder_place": (0.0, 1.0), "occluder_size": (0.0, 1.0), "occluder_hue": (0.0, 1.0),
        "occluder_saturation": (0.0, 0.75), "occluder_value": (0.10, 0.95),
    },
}  # fmt: skip

#: What ``source="other"`` photographs differently: wider poses, outdoor grounds, harder and warmer light.
OTHER: dict[str, Ranges] = {
    "pose": {"yaw": (-0.60, 0.60), "pitch": (-0.30, 0.30), "roll": (-0.24, 0.24), "x": (-0.10, 0.10),
             "scale": (1.00, 1.40)},
    "light": {"light": (0.45, 0.92), "ambient": (0.30, 0.58), "warmth": (-0.4, 1.9)},
    "camera": {"blur": (0.0, 0.012)},
    "ground": {"ground_hue": (0.18, 0.66), "ground_saturation": (0.20, 0.55), "ground_value": (0.35, 0.98),
               "ground_spots": (0.2, 1.0), "ground_edge": (1.0, 4.0)},
}  # fmt: skip

#: What may lie before a face, with its share of all occluders.
OCCLUDERS = {"sunglasses": 0.30, "mask": 0.30, "hand": 0.20, "scarf": 0.10, "hat": 0.10}

#: From black to white; as many dark ones as in a street.
HAIRS = ("14110f", "20150f", "2f1f15", "4a2f1e", "6b452a", "7d4327", "9e7545", "cfa765", "ead6a8", "9b9792",
         "e2ded8")  # fmt: skip


def _drawn(
    identity: Tensor,
    index: Tensor,
    seed: int,
    source: str,
    per_photo: Collection[str],
    borrowed: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], ItemRNG]:
    """Every trait [n, 1] in its range, and the stream of the hair's details."""
    streams = ItemRNG(seed, "synthfaces", "2", source, items=(identity, index))
    f: dict[str, Tensor] = {}
    hair = streams
    for group, ranges in PERSON.items():
        of = streams
        if group not in per_photo:
            of = ItemRNG(seed, "synthfaces", "2", "identity", items=borrowed.get(group, identity))
        f |= draw(of, group, ranges)
        hair = of if group == "hair" else hair
    for group, ranges in PHOTOGRAPH.items():
        f |= draw(streams, group, ranges | OTHER.get(group, {}) if source == "other" else ranges)
    return f, hair


def _looks(f: dict[str, Tensor], hair: ItemRNG) -> None:
    """Adds what follows for the painter from the traits of people."""
    dark = (f["skin_tone"] + f["tan"]).clamp(0, 0.999)
    f["skin"] = (along(SKINS, dark) + colour(0.016, -0.004, -0.034) * f["skin_hue"]).clamp(0, 1)
    f["flesh"], f["flush"] = f["skin"] * colour(1.0, 0.93, 0.88), f["skin"] * colour(0.0, 0.06, 0.10)
    natural = along(HAIRS, f["hair_tone"] * f["hair_tone"].sqrt())
    f["hair"] = torch.where(f["hair_dye"] > 0.97, hsv(f["hair_hue"], 0.50, 0.62), natural)
    f["brow"] = along(HAIRS[:8], f["brow_tone"]) * (0.80 - 0.20 * dark)
    f["iris"] = along(IRISES, f["iris_tone"])
    f["lips"] = f["skin"] * (colour(0.98, 0.80, 0.78) - colour(0.22, 0.32, 0.26) * f["lip_tone"])
    made_up = 0.8 * ((f["femininity"] - 0.5) * 4).clamp(0, 1) * f["lipstick"].clamp_min(0)
    f["lips"] = f["lips"] + made_up * (
        colour(0.62, 0.10, 0.20) + colour(0.14, 0.14, 0.08) * f["lipstick_hue"] - f["lips"]
    )
    f["rosy"] = colour(-0.03, 0.22, 0.17) * (0.05 + 0.90 * f["blush"] * f["blush"])
    f["frame"] = along(FRAMES, f["glasses_tone"])
    # who wears what is nearly free of sex, or hair would tell half of who it is
    hairstyle(f, (0.76 * f["hair_kind"] + 0.24 * (f["femininity"] > 0.5)) * len(HAIRSTYLES), hair)
    f["hair_phase"], f["hair_wisps"] = 3 * f["hair_side"], 0.006 + 0.018 * f["hair_wave"]
    f["hair_gloss_y"] = 0.44 + 0.5 * f["hair_top"]
    beard(f)
    f["beard_full"] = f["beard_full"].where(f["beard_full"] > 0.5, 0.6 * f["beard_full"])  # fainter stubble
    f["glassed"] = 1.0 * (f["glasses_kind"] > 0.80)
    f["earringed"] = 1.0 * (f["earring"] * f["femininity"] > 0.5)
    f["moled"], f["moled2"] = 0.75 * (f["mole"] > 0.60), 0.75 * (f["mole2"] > 0.60)
    f["freckled"] = 0.45 * ((f["freckles"] - 0.65) * 20).clamp(0, 1)
    f["birthmarked"], f["scarred"] = 0.60 * (f["birthmark"] > 0.70), 0.6 * (f["scar"] > 0.80)
    f["marked"] = f["moled"] + f["moled2"]
    f["clefted"], f["hollowed"] = 0.34 * f["cleft"].clamp_min(0), 0.26 * f["hollow"].clamp_min(0)
    f["old"] = ((f["age"] - 0.4) * 1.7).clamp(0, 1)
    f["bags"] = 0.16 * (0.3 + f["old"])
    f["lash"] = 0.009 + 0.011 * f["lashes"] * f["femininity"]
    f["brow_half"] = f["brow_thickness"] * (1 - 0.20 * f["femininity"])
    f["mouth_y"] = f["nose_length"] + (f["chin"] - f["nose_length"]) * f["mouth_place"]
    f["neck_half"], f["drop"] = f["neck"] * f["face_width"], f["chin"] + 0.11 + 0.05 * f["shoulders"]


def _occluders(f: dict[str, Tensor], share: float) -> None:
    """Adds which occluder lies before each face, 1 or 0 by name, and its colour."""
    before, start = f["occluder"] < share, 0.0
    for name, part in OCCLUDERS.items():
        f[name] = 1.0 * (before & (f["occluder_kind"] >= start) & (f["occluder_kind"] < start + part))
        start += part
    f["glassed"] = f["glassed"] * (1 - f["sunglasses"])
    f["fabric"] = hsv(f["occluder_hue"], f["occluder_saturation"], f["occluder_value"])
    # under a hat hair lies flat
    f["hair_tall"] = f["hair_tall"] - f["hat"] * (f["hair_tall"] - f["skull"] - 0.02)
    f["hair_knot"] = torch.where(f["hat"] > 0, -1.0, f["hair_knot"])


def faces(
    identity: Tensor,
    index: Tensor,
    *,
    seed: int,
    source: str,
    per_photo: Collection[str],
    occluders: float,
    borrowed: Mapping[str, Tensor] | None = None,
) -> Faces:
    """Photograph ``index`` [n] of ``identity`` [n]. The groups of PERSON that are not ``per_photo`` depend on
    (seed, identity) alone; a ``borrowed`` one is that of another identity [n]. The share ``occluders`` of
    photographs has something before the face.
    """
    f, hair = _drawn(identity, index, seed, source, per_photo, borrowed or {})
    _looks(f, hair)
    _occluders(f, occluders)
    circumstances(f)
    expressions(f)
    f["furrows"] = 0.16 * f["old"] * (0.5 + 0.5 * f["brow_raise"].clamp_min(0))
    f["frowning"] = 0.30 * f["frown"].clamp_min(0)
    f["brow_tilt"] = f["brow_tilt"] - 0.30 * f["frowning"]
    return Faces.of(f)
