"""Where the paper contradicts itself or its released code, by number: what a reader of a published value
should know.

``paper``: main text of the 37-setup TMLR submission; ``code``: the authors' release.
``results/published.csv`` and the tables' yaml files point here; nothing else keeps these texts.
"""

from __future__ import annotations

from collections.abc import Mapping

INCONSISTENCIES: Mapping[int, str] = {
    1: (
        "The undefended ResNet18 on FaceScrub is printed as 97.69 / 87.12 (Table 1) and as 94.22 / 88.67 "
        "(Table 4, Figs. 2 and 3): two models. Erasing 40 % gains 1.83 points of accuracy against the "
        "second and loses 1.64 against the first."
    ),
    2: (
        "The attack accuracy of Gaussian blur equals that of NoDef in Table 1, and its accuracy is close to "
        "it: the rows of Table 4 seem to come from two training recipes."
    ),
    3: "Δ is printed as 47.65; the printed accuracies give 47.56.",
    4: (
        "LOMMA+KedMI on VGG16 has another undefended model in Table 3 (85.74 / 72.96) than in Table 5 "
        "(86.90 / 81.80), and MIDRE has the same accuracy but another attack accuracy (41.82 and 43.07)."
    ),
    5: "MIDRE and BiDO have the same accuracy, 79.85: Δ then compares attack accuracies alone.",
    6: "The accuracy of FE is 96.13 at 10 % and at 30 % but 96.79 between them; one may be a copy.",
    7: "Sec. 3.3 says that RE has the higher accuracy than EE at 30 % and 40 % too; the table has the lower.",
    8: (
        "Sec. 3.3 says that RE and FE are attacked alike at every share; at 50 % FE is the safer one, at 10 "
        "% they differ by 5.5 points."
    ),
    9: "The caption of Fig. 2 reads like a pair before and after; 15.47 % and 39.93 % are drops in points.",
    10: "The target of this point is not named, and an earlier version quotes the same pair of differences.",
    11: "NLS raises the attack accuracy of PLG-MI: Δ is negative, within one deviation.",
    12: (
        "An earlier version has the same gap between RE and FE at 50 %, 7.08 points, in another setup; "
        "second-hand."
    ),
    13: "A listing gives FaceScrub / FFHQ at 64 px; the paper has no such setup.",
    14: (
        "Only results at 64 px carry deviations and no seeds are stated: differences of about a point at "
        "160 and 224 px cannot be tested."
    ),
    15: (
        "The paper writes a_e for a fixed share (Sec. 3) and for a range (Sec. 4.4); here a share is RE and "
        "a range MIDRE."
    ),
    16: (
        "The paper fills with the ImageNet mean pixel; the code writes these numbers after normalisation, a "
        "light grey."
    ),
    17: (
        "The paper redraws a square until it fits, which may favour small ones; the code places a square of "
        "the drawn area."
    ),
    18: (
        "In the code's history FE is painted before crop and flip, RE after normalisation: more than the "
        "place differs."
    ),
    19: (
        "The caption of Table 1 calls EE fewer epochs; the text leaves images out of every epoch, which is "
        "what is run here."
    ),
    20: "P2 and P3 name two things each, in Sec. 3.2 and in Sec. 3.3.",
    21: "11 architectures are claimed; Table 2 lists 12.",
    22: "9 attacks count LOMMA once; Table 3 uses both of its forms.",
    23: "6 data sets are 4 private and 2 public ones.",
    24: "A comparison with differential privacy is mentioned (Sec. 4.2) and shown nowhere.",
    25: "MI-RAD (RoLSS, SSF, TTS) is named as compared; the main text has no number of it.",
    26: "Inception-V1 is, by the implementation cited, Inception-ResNet-v1.",
    27: "Sec. 3.3 cites the VGG paper for ResNet18.",
    28: "RLBMI sees probabilities and BREPMI labels only; the introduction lists both as one kind.",
    29: (
        'Sec. 4.4 uses the ranges "to train MIDRE and during attack", not saying for which rows nor how; the '
        "released attack does not erase, nor does an attacker here."
    ),
    30: "MIRROR on Inception-V1 was at 116 px and is at 160 px in later versions.",
    31: (
        "Every other defense is said to be tuned to its best; the values are not printed. Here they are "
        "each method's own."
    ),
    32: "Commands of the code's readme name a config and a script that are called otherwise.",
    33: "The code's schedule of NLS rises to half of the factor and then jumps to all of it.",
    34: "The released code covers ResNet18 on FaceScrub only; other targets are in its history or nowhere.",
}
