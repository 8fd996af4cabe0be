"""From the answers of a study of two runs, which of them is closer, to a row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from midre_exp.study.answers import Answer, Key


def chosen_runs(answers: Sequence[Answer], keys: Mapping[str, Key]) -> pd.DataFrame:
    """Of each answer participant, identity and the run that was chosen (``a`` or ``b``)."""
    chosen = []
    for answer in answers:
        question = keys[answer.study]["questions"][answer.question - 1]
        other = "b" if question["left"] == "a" else "a"
        run = question["left"] if answer.said == "left" else other
        chosen.append((answer.participant, question["identity"], run))
    return pd.DataFrame(chosen, columns=["participant", "identity", "run"])


def score(answers: pd.DataFrame, runs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each run: selections, share in percent with its exact binomial (Clopper-Pearson) interval,
    identities for which it had most.

    The interval takes answers for independent, which those of one participant are not quite.
    """
    votes = answers.groupby("identity")["run"].agg(
        lambda chosen: (chosen == "a").sum() - (chosen == "b").sum()
    )
    table = []
    for name, sign in (("a", 1), ("b", -1)):
        selected, total = int((answers["run"] == name).sum()), len(answers)
        low, high = exact_interval(selected, total)
        table.append(
            {
                **{column: runs[name][column] for column in ("setup", "attack", "defense", "seed")},
                "selections": selected,
                "of": total,
                "share": 100 * selected / total,
                "share_low": low,
                "share_high": high,
                "majorities": int((sign * votes > 0).sum()),
                "ties": int((votes == 0).sum()),
                "identities": len(votes),
                "participants": answers["participant"].nunique(),
            }
        )
    return pd.DataFrame(table)


def exact_interval(count: int, total: int) -> tuple[float, float]:
    """The exact binomial (Clopper-Pearson) 95 % interval of a share, in percent."""
    from scipy.stats import binomtest  # half a second, needed only here

    interval = binomtest(count, total).proportion_ci(0.95, method="exact")
    return 100 * float(interval.low), 100 * float(interval.high)
