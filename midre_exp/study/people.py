"""From several people's answers to "is this the same person?" to a row for each run, the controls' rates,
their agreement and what a record keeps of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from midre_exp.metrics import kappa
from midre_exp.study.answers import Answer, Key
from midre_exp.study.score import exact_interval
from midre_exp.study.verdict import Share, confusion, is_fit, share, why_unfit

#: Words for the controls, in the order of the table.
CONTROLS = {
    "same": "further photographs of the person",
    "other": "photographs of somebody else",
    "crossed": "reconstructions of somebody else",
}
_NAMES = ("setup", "attack", "defense", "seed")


@dataclass(frozen=True)
class Agreement:
    """How far raters agree on the reconstructions that all of them rated."""

    raters: int
    pictures: int
    kappa: float | None  # None: not defined

    def __str__(self) -> str:
        """A sentence."""
        if self.raters < 2:
            return "One rater alone: nothing is known of agreement."
        name = "Cohen's" if self.raters == 2 else "Fleiss'"
        if self.pictures == 0:
            return f"No reconstruction was rated by all {self.raters} raters: nothing is known of agreement."
        value = (
            "is not defined (all gave one and the same answer)" if self.kappa is None else f"{self.kappa:.2f}"
        )
        return (
            f"Agreement of {self.raters} raters on the {self.pictures} reconstructions that all rated: "
            f"{name} kappa {value}."
        )


@dataclass(frozen=True)
class Findings:
    """What a study of absolute questions found."""

    table: pd.DataFrame
    agreement: Agreement
    warnings: list[str]
    blocks: dict[str, dict[str, Any]]  # by the key of its run, what a record keeps


def findings(answers: Sequence[Answer], keys: Mapping[str, Key]) -> Findings:
    """Count the answers of all raters.

    A reconstruction is a hit when more than half of its raters say that it is the same person; the interval
    is the exact binomial one over pictures, of which each person has one. Controls are counted by answers.
    """
    runs: list[dict[str, Any]] = next(iter(keys.values()))["runs"]
    votes = _votes(answers, keys)
    controls = {kind: share([*votes[votes.kind == kind].said]) for kind in CONTROLS}
    raters = {str(name): given for name, given in votes.groupby("participant")}
    unfit = {name: why for name, given in raters.items() if (why := _why_unfit(name, given))}
    fit = votes[~votes.participant.isin([*unfit])]
    warnings = [f"{why}; look at the answers again without this rater" for why in unfit.values()]
    rows, blocks = [], {}
    for place, run in enumerate(runs):
        own = votes[(votes.kind == "reconstruction") & (votes.run == place)]
        if own.empty:
            continue
        row, judged = _counted(own)
        by_fit = fit[(fit.kind == "reconstruction") & (fit.run == place)]
        passed = _counted(by_fit)[0]["said_same"] if unfit and not by_fit.empty else None
        names = {column: str(run[column]) for column in _NAMES}
        rows.append({**names, "shown": "reconstructions", **row, "by_fit_raters": passed})
        blocks[run["key"]] = {
            **row,
            "raters": len(raters),
            "unfit_raters": len(unfit),
            **({} if passed is None else {"said_same_by_fit_raters": passed}),
            **_as_plain(_agreement(own)),
            "controls": controls,
            "evaluator": confusion(judged.said.tolist(), judged.hit.tolist()),
            "part": next(iter(keys.values()))["part"],
            "studies": sorted(keys),
            "artifact": run["artifact"],
            "pictures_sha256": run["pictures"],
            "alarms": [f"study: {why}" for why in unfit.values()],
        }
    for kind, words in CONTROLS.items():
        rows.append(
            {
                **dict.fromkeys(_NAMES, ""),
                "shown": words,
                **_with_interval(votes[votes.kind == kind].said.tolist()),
            }
        )
    everything = votes[votes.kind == "reconstruction"]
    return Findings(pd.DataFrame(rows), _agreement(everything), warnings, blocks)


def _votes(answers: Sequence[Answer], keys: Mapping[str, Key]) -> pd.DataFrame:
    """A row for each answer, with what was asked."""
    rows = []
    for answer in answers:
        question = keys[answer.study]["questions"][answer.question - 1]
        rows.append(
            {
                "participant": answer.participant,
                "item": (answer.study, answer.question),
                "said": answer.said == "same",
                **{name: question[name] for name in ("kind", "identity", "run", "hit")},
            }
        )
    return pd.DataFrame(rows)


def _why_unfit(name: str, given: pd.DataFrame) -> str | None:
    same, other = (share(given[given.kind == kind].said.tolist()) for kind in ("same", "other"))
    return None if is_fit(same, other) else why_unfit(f"rater {name}", same, other)


def _counted(own: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame]:
    """The numbers of one run's reconstructions, and by identity whether people and evaluator accept it."""
    judged = own.groupby("identity").agg(said=("said", "mean"), hit=("hit", "first"))
    yes = 100 * float(judged.said.mean())
    judged = judged.assign(said=judged.said > 0.5)
    return {**_with_interval(judged.said.tolist()), "mean_yes": yes}, judged


def _with_interval(said: Sequence[bool]) -> dict[str, Any]:
    counted: Share = share(said)
    if not said:
        return {"said_same": None, "said_same_low": None, "said_same_high": None, "pictures": 0}
    low, high = exact_interval(sum(said), len(said))
    return {
        "said_same": counted["said_same"],
        "said_same_low": low,
        "said_same_high": high,
        "pictures": counted["pictures"],
    }


def _agreement(votes: pd.DataFrame) -> Agreement:
    names = sorted(votes.participant.unique())
    table = votes.pivot(index="item", columns="participant", values="said").reindex(columns=names).dropna()
    return Agreement(len(names), len(table), kappa(table.to_numpy().tolist()))


def _as_plain(agreement: Agreement) -> dict[str, Any]:
    found: dict[str, Any] = {"agreed_on": agreement.pictures}
    if agreement.kappa is not None:
        found["kappa"] = agreement.kappa
    return found
