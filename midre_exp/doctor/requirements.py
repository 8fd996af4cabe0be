"""How much GPU memory, main memory and disk a run may need: rough estimates from measured and published
numbers, for the doctor alone.

Nothing here decides anything: a run that meets too little memory says so itself, and attacks then go on in
smaller parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

GB = 10**9


class Network(NamedTuple):
    """Megabytes that training keeps per image for the backward pass (float32, measured on our networks), at a
    side of ``pixels``, and millions of parameters.
    """

    megabytes: float
    pixels: int
    parameters: float


NETWORKS = {
    "vgg16": Network(10.4, 64, 16.8),
    "ir152": Network(29.4, 64, 62.6),
    "facenet64": Network(19.6, 64, 35.4),
    "facenet112": Network(60.1, 112, 44.1),
    "resnet18": Network(22.2, 224, 11.7),
    "resnet50": Network(85.9, 224, 25.6),
    "resnet101": Network(126.9, 224, 44.5),
    "resnet152": Network(177.4, 224, 60.2),
    "densenet121": Network(130.4, 224, 8.0),
    "densenet169": Network(157.3, 224, 14.1),
    "resnest101": Network(188.1, 224, 48.3),
    "maxvit": Network(307.2, 224, 30.9),
    "inception_v3": Network(98.3, 299, 27.2),
    "inception_resnet_v1": Network(51.4, 224, 24.0),
    "vggface_resnet50": Network(81.7, 224, 25.6),
}
_WEIGHTS = 4  # copies of the weights while training: themselves, gradients, two moments
_LIBRARY = 1.5 * GB  # CUDA context and workspaces

#: Side of the generator's pictures: GB for an attack on one at a time. PPA's authors, ResNet-18 target, V100
#: (README of their repository).
STYLEGAN2 = {1024: 3.2, 512: 2.7, 256: 2.1}

#: Images in a complete download as it is used here, where the data is not on this machine to be counted.
COUNTS = {
    ("CelebA", "private"): 30_027,
    ("CelebA", "public"): 30_000,
    ("FaceScrub", "private"): 37_900,
    ("VGGFace2", "private"): 3_141_890,
    ("Stanford Dogs", "private"): 20_580,
    ("FFHQ", "public"): 70_000,
    ("AFHQ-Dogs", "public"): 4_739,
}
_NETWORKS_ON_DISK = 3 * GB  # weights and checkpoints of all stages of one run


def training_memory(node: Mapping[str, Any], pixels: int) -> float | None:
    """Bytes to train the classifier of a target or evaluator node at ``pixels``: what is kept per image grows
    with the area. None for a network that nobody has measured, or that is not trained at all.
    """
    known = NETWORKS.get(str(node["name"]))
    if known is None or node.get("checkpoint") is not None:
        return None
    width = float(node["model"].get("width", 1))
    images = int(node["recipe"]["batch_size"]) * known.megabytes * 1e6 * (pixels / known.pixels) ** 2 * width
    return images + _WEIGHTS * 4 * known.parameters * 1e6 * width**2 + _LIBRARY


def attack_memory(attack: Mapping[str, Any]) -> float | None:
    """Bytes for the smallest part of an attack through StyleGAN2, one picture. None for others, whose
    target's training takes more.
    """
    prior = attack["prior"]
    if prior["name"] != "stylegan2":
        return None
    sides = [side for side in sorted(STYLEGAN2) if side >= int(prior["image_size"])]
    return STYLEGAN2[sides[0] if sides else max(STYLEGAN2)] * GB


def image_bytes(images: int, size: int) -> int:
    """Bytes of decoded images of ``size`` x ``size`` pixels."""
    return images * 3 * size**2


def result_bytes(attack: Mapping[str, Any], resolution: int) -> float:
    """Disk for networks, checkpoints and reconstructions of one run, in bytes; the last twice: a running
    attack keeps its parts as well.
    """
    return _NETWORKS_ON_DISK + 2 * _pictures(attack, resolution)


def host_memory(attack: Mapping[str, Any], resolution: int) -> float:
    """Bytes of main memory for the end of an attack: its reconstructions twice, in parts and as a whole, or
    as a whole and as a file.
    """
    return _LIBRARY + 2 * _pictures(attack, resolution)


def _pictures(attack: Mapping[str, Any], resolution: int) -> int:
    """Bytes of everything an attack keeps to be judged."""
    size = next(
        (step["size"] for step in reversed(attack.get("picture") or []) if "size" in step), resolution
    )
    kept = 1 + len(attack["stages"]) if attack.get("keep_stages") else 1
    return kept * image_bytes(int(attack["identities"]) * int(attack["restarts"]), int(size))
