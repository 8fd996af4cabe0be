"""What whole runs cost on one kind of device, for tables of setups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from midre_exp.cost.accelerators import REFERENCE
from midre_exp.cost.forecast import Asked, Forecast, Measured, described, forecasts, this_device
from midre_exp.cost.sizes import sizes_of
from midre_exp.plan.config import Settings, digest
from midre_exp.stages import behind
from midre_exp.stages.base import Remember

#: Hours from which a run is worth a second thought.
MANY_HOURS = 100.0
#: The scales of full networks and budgets.
FULL_SCALES = ("paper", "synth")
#: Pixels from which a StyleGAN2 is taken as published: training one takes several GPUs for days.
_LARGE = 512


@dataclass(frozen=True)
class RunCost:
    """The forecast of every stage of a run on ``device``; stages that nobody can tell are ``missing``."""

    device: str
    stages: dict[str, Forecast]

    @property
    def missing(self) -> list[str]:
        """Stages without a forecast."""
        return [name for name, one in self.stages.items() if one.seconds is None]

    @property
    def hours(self) -> float | None:
        """Of all stages, None where one is missing."""
        seconds = [one.seconds for one in self.stages.values()]
        return None if None in seconds else sum(one for one in seconds if one is not None) / 3600

    @property
    def memory(self) -> float | None:
        """Bytes at the peak of the hungriest stage."""
        return max((one.memory for one in self.stages.values() if one.memory is not None), default=None)

    @property
    def basis(self) -> str:
        """measured, scaled or counted: the weakest of its stages."""
        found = {one.basis for one in self.stages.values()}
        return next((word for word in ("counted", "scaled", "measured") if word in found), "")


def run_costs(
    every: Sequence[Settings],
    remember: Remember,
    *,
    measured: Sequence[Measured] = (),
    device: str | None = None,
    limit: float | None = 0,
    say: Callable[[str], None] = lambda _: None,
) -> list[RunCost]:
    """The cost of each run from empty, on ``device`` (None: the one it would use). Where that is a CPU and
    the run is not for one, on a GPU of reference. A large StyleGAN2 counts as published.
    """
    asked: list[Asked] = []
    places: list[tuple[int, str]] = []
    for number, settings in enumerate(every):
        taken, sizes = with_published(settings), sizes_of(settings, remember)
        for stage, what in described(taken).items():
            kind, own = behind(stage, taken)
            asked.append(Asked(kind, what, own, sizes if own is taken else sizes_of(own, remember)))
            places.append((number, stage))
    devices = [device or device_of(settings) for settings in every]
    found: list[dict[str, Forecast]] = [{} for _ in every]
    for name in dict.fromkeys(devices):
        here = [i for i, (number, _) in enumerate(places) if devices[number] == name]
        told = forecasts([asked[i] for i in here], measured, device=name, limit=limit, say=say)
        for i, one in zip(here, told, strict=True):
            number, stage = places[i]
            found[number][stage] = one
    return [RunCost(name, stages) for name, stages in zip(devices, found, strict=True)]


def device_of(settings: Settings) -> str:
    """The device of this machine; of a run of full size, where that is a CPU, the GPU of reference."""
    own = this_device(settings)
    return REFERENCE.name if own.endswith("threads") and settings["scale"] in FULL_SCALES else own


def with_published(settings: Settings) -> Settings:
    """The settings with published weights for a large StyleGAN2 that names none."""
    attack: dict[str, Any] = dict(settings["attack"])
    prior = attack["prior"]
    if prior["name"] != "stylegan2" or prior.get("pretrained") is not None or prior["image_size"] < _LARGE:
        return settings
    return {**settings, "attack": {**attack, "prior": {**prior, "pretrained": "published.pkl"}}}


def once() -> Remember:
    """What is looked at once, by what it is the answer to."""
    known: dict[str, Any] = {}

    def remember(key: object, look: Callable[[], Any]) -> Any:
        name = digest(key)
        if name not in known:
            known[name] = look()
        return known[name]

    return remember


def remedy(settings: Settings, cost: RunCost) -> str:
    """What makes a dear run cheaper, the dearest stage first."""
    hours = {name: (one.seconds or 0.0) / 3600 for name, one in cost.stages.items()}
    words = {
        "pretraining": "target.weights=imagenet or FILE takes ready weights",
        "evaluator_pretraining": "evaluator.weights=imagenet or FILE takes ready weights",
        "target": "target.checkpoint=FILE takes a ready classifier",
        "evaluator": "evaluator.checkpoint=FILE takes a ready judge",
        "prior": "attack.prior.pretrained takes published weights",
        "attack": "attack.shard=1/16 and so on share the attack among jobs",
    }
    dear = [name for name in sorted(hours, key=lambda name: -hours[name]) if hours[name] > MANY_HOURS / 10]
    found = [f"{name} {hours[name]:.0f} h: {words[name]}" for name in dear if name in words]
    if (settings.get("numerics") or {}).get("precision") != "bf16":
        found.append("numerics=bf16 computes in bfloat16")
    return "; ".join(found)
