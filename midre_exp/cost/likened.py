"""How long a stage may take by others of its network, prior or attack, where none of its own kind was
measured: per image and epoch, step or reconstruction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import median

from midre_exp.cost.sizes import Sizes
from midre_exp.plan.config import Settings, digest

#: Of which classifier a stage is the training, and where its recipe and its images are found.
_TRAININGS = {
    "target": ("target", "recipe", "train"),
    "evaluator": ("evaluator", "recipe", "train"),
    "pretraining": ("target", "pretraining", "pretraining_train"),
    "evaluator_pretraining": ("evaluator", "pretraining", "pretraining_train"),
}


def work_of(stage: str, settings: Settings, sizes: Sizes | None) -> tuple[str, float]:
    """What a stage is like (a name that stages of equal work rate share), and how much of it there is."""
    attack = settings["attack"]
    if stage in _TRAININGS and sizes is not None:
        role, recipe, images = _TRAININGS[stage]
        node = settings[role]
        node_recipe = node["pretraining"]["recipe"] if recipe == "pretraining" else node["recipe"]
        pixels = settings["resolution"] if role == "target" else node["resolution"]
        stopped = settings["defense"].get("early_stopping") or {} if stage == "target" else {}
        epochs = node_recipe["epochs"] * float(stopped.get("share", 1))
        return digest(["training", node["name"], node["model"].get("width"), pixels]), epochs * getattr(
            sizes, images
        )
    if stage == "prior":
        prior = attack["prior"]
        return digest([stage, prior.get("name"), prior.get("image_size")]), float(prior.get("steps") or 1)
    names = dict.fromkeys(("attack", "metrics", "verdicts", "tuned_prior"), attack["name"])
    count = attack["identities"] * (attack.get("restarts") or 1) if stage in names else 1
    kind = [stage, names.get(stage), settings["resolution"]]
    if stage == "attack":  # every copy is asked, and a defense that is known may want some
        known = sorted(settings["defense"]) if attack.get("informed") else []
        kind += [*known, (attack.get("expectation") or {}).get("copies", 1)]
    return digest(kind), float(count)


def likened(
    measured: Iterable[tuple[str, Settings, Sizes | None, float]],
) -> Callable[[str, Settings, Sizes | None], float | None]:
    """Seconds of a stage by ``measured`` ones (name, settings, sizes, seconds); None where nothing is like
    it.
    """
    rates: Mapping[str, list[float]] = defaultdict(list)
    for stage, settings, sizes, seconds in measured:
        try:
            kind, work = work_of(stage, settings, sizes)
        except (KeyError, TypeError):  # of an older layout
            continue
        if work > 0:
            rates[kind].append(seconds / work)

    def seconds_of(stage: str, settings: Settings, sizes: Sizes | None) -> float | None:
        kind, work = work_of(stage, settings, sizes)
        return median(rates[kind]) * work if kind in rates else None

    return seconds_of
