"""How reconstructions come before the evaluator (``metrics.pictures``): as the official program of an attack
hands them on, which the attack's yaml says (``attack.judged``), or as the 8-bit images that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from midre_exp.numerics import PRIOR_CALLS
from midre_exp.plan.config import Settings
from midre_exp.plan.rounds import rounds_of
from midre_exp.stages.base import Job

if TYPE_CHECKING:  # torch
    from torch import Tensor

    from midre_exp.metrics.evaluation import Floats
    from midre_exp.priors.base import Prior

#: Pictures that are rendered at once, and their pixels, until memory is short: a generator of 1024 px takes
#: about 2 GB for each.
_RENDERED, _PIXELS = 256, 8 * 1024**2

#: Of an attack that says nothing.
_UNSAID: Mapping[str, Any] = {"pictures": "eight_bit", "image_to_evaluator": None}


class Judging(NamedTuple):
    """What the evaluator and the networks of metrics are shown of an attack."""

    floats: bool  # floats, not clamped; else the kept images of 8 bits
    steps: list[Mapping[str, Any]]  # nodes of what lies between a picture and the evaluator
    rendered: bool  # the floats are rendered again from latents; else the attack kept them


def judging(settings: Settings) -> Judging:
    """As the settings have it."""
    node, attack = settings["metrics"], settings["attack"]
    own = {**_UNSAID, **(attack.get("judged") or {})}
    if node.get("pictures", "eight_bit") == "eight_bit":
        return Judging(False, node["image_to_evaluator"], False)
    steps = node["image_to_evaluator"] if own["image_to_evaluator"] is None else own["image_to_evaluator"]
    floats = own["pictures"] == "floats"
    return Judging(floats, steps, floats and not keeps_floats(attack))


def measured(settings: Settings) -> dict[str, Any]:
    """The nodes of what is measured, by name: of the run, and of its attack alone (``judged.measure``)."""
    own = (settings["attack"].get("judged") or {}).get("measure") or {}
    return {**settings["metrics"]["measure"], **own}


def keeps_floats(attack: Mapping[str, Any]) -> bool:
    """Whether an attack keeps its pictures as floats: as it is told, and in a round whose generators are not
    kept, where its official program judges floats.
    """
    own = (attack.get("judged") or _UNSAID)["pictures"] == "floats"
    return bool(attack.get("keep_floats")) or (own and rounds_of(attack) > 1)


def ready(job: Job, prior: Prior) -> Prior:
    """A prior that draws pictures for a judge, on the run's device and under its numerics."""
    job.numerics.accelerate(prior, PRIOR_CALLS)
    prior.to(job.runtime.device).freeze()
    return prior


def rendered_at_once(settings: Settings) -> int:
    """How many pictures a prior draws at once."""
    made = int(settings["attack"]["prior"].get("image_size", settings["resolution"]))
    return max(1, min(_RENDERED, _PIXELS // made**2))


def floats_of(job: Job, reconstructions: Mapping[str, Tensor], prior: Prior | None) -> Floats:
    """The reconstructions in floats, as the attack kept them or, with its ``prior`` (``ready``), rendered
    again.
    """
    import torch  # planning loads this module

    from midre_exp.metrics.evaluation import Floats

    device, attack = job.runtime.device, job.parts.attack
    if prior is None:
        return Floats(lambda part: reconstructions["floats"][part].to(device), _RENDERED)

    @torch.no_grad()
    def rendered(part: slice) -> Tensor:
        latents, labels = (reconstructions[name][part].to(device) for name in ("latents", "labels"))
        pictures: Tensor = attack.pictures(attack.generated(prior, latents, labels)).float()
        return pictures

    return Floats(rendered, rendered_at_once(job.settings))
