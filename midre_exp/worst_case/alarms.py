"""Signs that a defense hides gradients and not identities, after Athalye et al. 2018, Carlini et al. 2019 and
the flags of AutoAttack (Croce and Hein 2020), for inversion. An alarm never changes a number: it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from midre_exp.worst_case.aggregate import Lead

#: Points of attack accuracy by which one attack must be ahead of another, besides its paired interval.
TOLERANCE = 2.0
#: AutoAttack's: how far repeated answers of unit length may differ, and 0, 1 and sums from what they are.
REPEATED, ROUNDED = 1e-4, 1e-5
#: From how many percent of reconstructions that the target is sure of, and below how many that a judge of
#: unknown people accepts, an attack fools the target.
SURE, ACCEPTED = 50.0, 5.0
#: The share of identities that an attack on the pixels alone must reach.
PIXELS = 0.95


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a suite found out; None: not asked."""

    black_box: Lead | None = None  # the best of scores or labels alone, over the best with gradients
    fewer_steps: Lead | None = None  # the best of the smaller budgets, over the largest
    random_start: Lead | None = None  # random starts, over searched ones
    plain: Lead | None = None  # the plain attacker, over the informed one
    other_loss: Lead | None = None  # another identity loss, over the attack's own
    zero_gradient_share: float | None = None  # of images with a gradient of nothing, or of no number
    repeat_max_difference: float | None = None  # of repeated answers, scaled to length 1
    probabilities: bool | None = None  # whether logits look like probabilities
    #: Percent of the reconstructions that convince the target most of all (0.9), of those attacks that an
    #: open-set judge has seen, and percent of them that he accepts.
    sure: float | None = None
    accepted: float | None = None
    pixels_share: float | None = None  # of identities that an attack on the pixels alone reaches


#: What each alarm says, in the order in which they are told. ``{}``: who is compared.
SENTENCES: Mapping[str, str] = {
    "black_box_beats_white_box": "an attack without gradients does better than every one with them{}: "
    "gradients mislead",
    "more_steps_are_worse": "more steps make the attack worse{}: its gradients drift, or more of them "
    "overfit the target",
    "random_start_wins": "random starts do better than searched ones{}: what the search goes by misleads",
    "informed_is_worse": "the attacker who knows the defense does worse than the one who does not{}: the "
    "informed form is not the right one, or its gradients mislead",
    "zero_gradient": "gradients of images are exactly zero or no numbers{}: the target saturates",
    "randomised": "the target answers the same images differently{}: attack its mean",
    "probabilities_for_logits": "the target gives probabilities where logits are asked: losses saturate",
    "loss_was_the_problem": "another identity loss does better than the attack's own{}: the loss was the "
    "problem, not the defense",
    "confidence_without_judge": "the target is sure of most reconstructions, and a judge who knows nobody "
    "accepts hardly any{}: the target is fooled, nobody is reconstructed",
    "unbounded_fails": "changing single pixels without bound does not convince the target{}: its "
    "gradients are broken",
}


def is_clear(lead: Lead | None) -> bool:
    """Whether a lead is more than the tolerance and than chance."""
    return lead is not None and lead.value > TOLERANCE and (lead.low is None or lead.low > 0)


def raised(evidence: Evidence) -> list[str]:
    """The names of the alarms that the evidence raises, in the order of ``SENTENCES``."""
    fires = {
        "black_box_beats_white_box": is_clear(evidence.black_box),
        "more_steps_are_worse": is_clear(evidence.fewer_steps),
        "random_start_wins": is_clear(evidence.random_start),
        "informed_is_worse": is_clear(evidence.plain),
        "zero_gradient": (evidence.zero_gradient_share or 0.0) > 0,
        "randomised": (evidence.repeat_max_difference or 0.0) > REPEATED,
        "probabilities_for_logits": bool(evidence.probabilities),
        "loss_was_the_problem": is_clear(evidence.other_loss),
        "confidence_without_judge": (evidence.sure or 0.0) > SURE
        and evidence.accepted is not None
        and evidence.accepted < ACCEPTED,
        "unbounded_fails": evidence.pixels_share is not None and evidence.pixels_share <= PIXELS,
    }
    return [name for name in SENTENCES if fires[name]]
