"""How methods and networks are called wherever a reader sees them: in tables, figures, pages, captions and
Weights & Biases. Records, configs and CSV files hold the words of ``conf``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

#: Attacks, by their choice in ``conf/attack``.
ATTACKS: Mapping[str, str] = {
    "gmi": "GMI",
    "kedmi": "KedMI",
    "lomma_gmi": "LOMMA+GMI",
    "lomma_kedmi": "LOMMA+KedMI",
    "plgmi": "PLG-MI",
    "ppa": "PPA",
    "ppa_official": "PPA (official)",
    "ppa_dogs": "PPA (dogs)",
    "mirror": "MIRROR",
    "mirror_genetic": "MIRROR (genetic)",
    "ifgmi": "IF-GMI",
    "diffmi": "Diff-MI",
    "rlbmi": "RLB-MI",
    "brepmi": "BREP-MI",
    "smile": "SMILE",
    "lokt": "LOKT",
    "ppdg_ppa": "PPDG-MI (PPA)",
    "ppdg_plgmi": "PPDG-MI (PLG-MI)",
    "ppdg_kedmi": "PPDG-MI (KedMI)",
    "worst_low": "worst case (low resolution)",
    "worst_high": "worst case (high resolution)",
}

#: Networks, by their choice in ``conf/target`` and ``conf/evaluator``, or as the paper writes them.
NETWORKS: Mapping[str, str] = {
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (18, 50, 101, 152)},
    **{f"densenet{depth}": f"DenseNet-{depth}" for depth in (121, 169)},
    "resnest101": "ResNeSt-101",
    "vggface_resnet50": "VGGFace ResNet-50",
    "vgg16": "VGG16",
    "ir152": "IR152",
    "facenet64": "FaceNet64",
    "facenet112": "FaceNet112",
    "maxvit": "MaxViT",
    "inceptionv1": "Inception-v1",
    "inception_v3": "Inception-v3",
    "inception_resnet_v1": "Inception-ResNet-v1",
}

#: Defenses that are not called as their class, or as the key by which the paper's rows find ours.
DEFENSES: Mapping[str, str] = {
    "RandomCropping": "Random crop",
    "GaussianBlur": "Gaussian blur",
    "RandomPixels": "Random pixels",
    "EarlyStopping": "Early stopping",
    "WeightDecay": "Weight decay",
    "AdversarialTraining": "Adversarial training",
    "ConfidenceAdaptation": "Confidence adaptation",
    "LabelsOnly": "Labels only",
    "TopK": "Top",
}


def attack_name(attack: str) -> str:
    """The one spelling of an attack, however a config or the paper writes it; as it is where not ours."""
    return _BY_LETTERS.get(_letters(attack), attack)


def network_name(network: str) -> str:
    """The one spelling of a network, however a config or the paper writes it; as it is where not ours."""
    return _BY_LETTERS.get(_letters(network), network)


def defense_part_name(name: str) -> str:
    """The one spelling of a part of a ``DefenseName``; one that is not ours as it is."""
    return DEFENSES.get(name, name)


def with_names(text: str) -> str:
    """A sentence in which attacks and networks named as in ``conf`` have their one spelling."""
    return _CHOICES.sub(lambda found: ATTACKS.get(found[0]) or NETWORKS[found[0]], text)


#: How the words of a column are shown.
SPELLED: Mapping[str, Callable[[str], str]] = {"attack": attack_name, "target": network_name}


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


_BY_LETTERS = {_letters(name): shown for name, shown in (*ATTACKS.items(), *NETWORKS.items())}

_CHOICES = re.compile(rf"(?<![\w=./-])(?:{'|'.join((*ATTACKS, *NETWORKS))})(?![\w=/-])")
