"""The attacks of an audit, by what they take to know; no torch, so that --help waits for nothing."""

from __future__ import annotations

from dataclasses import dataclass

#: What --public says for faces that code renders.
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Rung:
    """An attack and what it takes to carry it out."""

    attack: str
    threat: str
    needs: str  # of the attacker, in words
    retrained: tuple[str, ...] | None = None  # defenses of a network trained anew, which it attacks instead


WHITE_BOX = "the weights of the network"
SCORES = "the network's probabilities for any picture (an API that returns them)"
LABELS = "the network's first answer to any picture, without a probability"
#: One of each kind of knowledge first, the quickest, all on one prior; then stronger ones with their own.
#: Of an undefended ResNet-18 at scale mini (results/mini, one seed) the first four took 26, 39, 81 and 36
#: seconds, their priors set aside, and were recognised in 68, 60, 76 and 94 %; MIRROR's uses PPA's prior.
RUNGS = (
    Rung("brepmi", "labels", LABELS),
    Rung("gmi", "white_box", WHITE_BOX),
    Rung("rlbmi", "scores", SCORES),
    Rung("plgmi", "white_box", WHITE_BOX),
    Rung("ppa", "white_box", WHITE_BOX),
    Rung("mirror_genetic", "scores", SCORES),
)
