"""Which number of ours a published one is like, where our own differs on purpose from what official programs
print: one whose name ends in ``_official``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from midre_exp.records import Record
from midre_exp.records.schema import at

NOT_MEASURED = "not measured"


class Like(NamedTuple):
    """What a published number is like instead of our own."""

    names: tuple[str, ...]  # metrics of a record, of which the first that is there counts
    why: str  # how the official program comes by it, a sentence


#: Attacks whose official programs train and choose targets as KedMI does.
_OF_64_PX = ("gmi", "kedmi", "lomma_gmi", "lomma_kedmi", "plgmi", "rlbmi", "brepmi")
_OF_PPA = ("ppa", "ppa_dogs", "ppa_official")
_BEST_EPOCH = Like(
    ("accuracy_best_epoch_official",),
    "the accuracy of the epoch that is best on the test images, which the programs of the 64 px attacks keep "
    "and print; ours is that of the last epoch, which is the one attacked, so attack accuracy is of it "
    "throughout",
)
_BEST_STAGE = Like(
    ("att_acc1_best_stage_rebuilt_official", "att_acc1_best_stage_official"),
    "IF-GMI's program prints the stage that the evaluator likes best, which no attacker could choose; ours "
    "is the last stage",
)
_REBUILT = Like(
    ("att_acc1_rebuilt_official",),
    "PPA's program rebuilds the evaluator without the input transform that it was trained with; ours keeps "
    "it",
)


def like_published(config: Mapping[str, Any], metric: str) -> Like | None:
    """What a published ``acc`` or ``att_acc1`` is like of a run with this resolved config; None where it is
    like our own.
    """
    attack = at(config, "attack.name")
    if metric == "acc":
        chosen = at(config, "target.recipe.select") == "best_test" or at(config, "target.checkpoint")
        return _BEST_EPOCH if attack in _OF_64_PX and not chosen else None
    if metric == "att_acc1":
        if attack == "ifgmi":
            return _BEST_STAGE
        if attack in _OF_PPA and at(config, "evaluator.model.transform_input"):
            return _REBUILT
    return None


def official_value(records: Sequence[Record], metric: str) -> float | None:
    """The mean over records of one defense, its seeds, of what a published ``metric`` is like; None where one
    of them lacks it.
    """
    values = [_of_one(record, metric) for record in records]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def _of_one(record: Record, metric: str) -> float | None:
    like = like_published(record["config"], metric)
    names = (metric,) if like is None else like.names
    return next((record["metrics"][name] for name in names if name in record["metrics"]), None)


def is_told(configs: Iterable[Mapping[str, Any]], records: Iterable[Record], scale: str) -> bool:
    """Whether official numbers are shown: one of a record is there, or all of them are wanted, as at the
    paper's own scale.
    """
    likes = [like for config in configs for m in ("acc", "att_acc1") if (like := like_published(config, m))]
    names = {name for like in likes for name in like.names}
    return bool(likes) and (scale == "paper" or any(names & record["metrics"].keys() for record in records))


def explained(configs: Iterable[Mapping[str, Any]], headings: Mapping[str, str]) -> list[str]:
    """A sentence for each way in which a number of these runs differs from the official one, with the setups
    that it concerns; ``headings``: what to call the official numbers, by metric.
    """
    concerned: dict[tuple[str, Like], list[str]] = {}
    for config in configs:
        for metric, heading in headings.items():
            if (like := like_published(config, metric)) is not None:
                concerned.setdefault((heading, like), []).append(str(at(config, "setup.id")))
    return [
        f"{heading} ({', '.join(dict.fromkeys(setups))}; {' or '.join(like.names)}): {like.why}. The "
        "paper's number is like it."
        for (heading, like), setups in concerned.items()
    ]
