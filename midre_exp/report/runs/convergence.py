"""Whether targets were trained long enough to be compared: by what they fit of the images they were shown,
and by whether a longer training would have given other numbers.

The rule is the same for every arm. A training is long enough when half as many epochs again change neither
accuracy nor attack accuracy by more than the interval of the shorter one: the table ``convergence`` measures
it and keeps the verdicts beside itself, where other tables and the claims find them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midre_exp.errors import ConfigError
from midre_exp.plan.config import digest
from midre_exp.records import Record
from midre_exp.records.comparable import comparable_config, private_images

#: Percent of what it was shown that a target must fit to count as trained.
FITS = 95.0
#: So many times the epochs show whether more would change anything.
LONGER = 1.5
#: Stands at a defense in claims.
MARK = "‡"

CONVERGED, NOT_CONVERGED, NOT_TESTED = "converged", "not converged", "not tested"
UNDERFITTED = (
    f"Its targets fit less than {FITS:g} % of what they were shown in training (train acc), so a part of "
    "what it costs and of what it protects is that training had not ended"
)
MIXED = (
    f"Its targets fit less than {FITS:g} % of what they were shown in training (train acc): mixtures, of "
    "which some show as much of one identity as of another"
)
UNCONVERGED = (
    "Its training was too short by the rule of the table convergence: half as many epochs again move its "
    "accuracy or its attack accuracy out of their intervals"
)
UNTESTED = "Whether its training was long enough was not tested (table convergence)"
NOT_MEASURED = "Convergence of the trainings was not measured (table convergence)."


def training_of(config: Mapping[str, Any]) -> str:
    """A digest of what a config says of the training of its target, but for the seed."""
    whole = comparable_config(config)
    kept = {name: whole.get(name) for name in ("target", "defense", "resolution")}
    return digest({**kept, "private": private_images(config)})


def verdicts(folder: Path) -> dict[str, str]:
    """The verdicts kept in a results folder by ``training_of``; empty where convergence was not measured.
    Raises ConfigError for a file that is none of ours.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("convergence*.json")):
        try:
            for row in json.loads(path.read_text())["trainings"]:
                found[str(row["training"])] = str(row["verdict"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} holds no verdicts on trainings; delete it, or render it anew with "
                "midre-exp report convergence"
            ) from error
    return found


def fit_of(records: Iterable[Record]) -> float | None:
    """Percent of what they were shown that the targets fit in their last epoch, in the mean; None for
    published ones.
    """
    values = [record["metrics"].get("train_acc") for record in records]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def stops_early(record: Record) -> bool:
    """Whether its target stopped before the end on purpose: a point of the frontier, which is no arm."""
    return "early_stopping" in record["defense"]["parts"]


def is_mixed(record: Record) -> bool:
    """Whether its target was shown mixtures of images, of which nobody could be right in all."""
    return any(
        str(part.get("_target_")).rpartition(".")[2] == "CutMix"
        for part in record["defense"]["parts"].values()
    )


def underfits(records: Sequence[Record]) -> bool:
    """Whether the targets of one defense fit too little of what they were shown, other than on purpose."""
    return fits_little(records) and not any(map(stops_early, records)) and not any(map(is_mixed, records))


def fits_little(records: Sequence[Record]) -> bool:
    """Whether they fit less than ``FITS``, whatever the reason."""
    fit = fit_of(records)
    return fit is not None and fit < FITS


def doubts(records: Sequence[Record], known: Mapping[str, str]) -> list[str]:
    """What must be said of the trainings of one row, sentences; ``known``: the verdicts of its scale."""
    trained = [record for record in records if record["metrics"].get("train_acc") is not None]
    if not trained or any(map(stops_early, trained)):
        return []
    found = [UNDERFITTED] if underfits(trained) else [MIXED] if fits_little(trained) else []
    if known:
        given = {known.get(training_of(record["config"]), NOT_TESTED) for record in trained}
        found += [UNCONVERGED] if NOT_CONVERGED in given else [UNTESTED] if NOT_TESTED in given else []
    return found


def told_once(records: Sequence[Record], known: Mapping[str, str]) -> str:
    """What a caption says where no verdict is known: that there is none; nothing where targets were not
    trained.
    """
    trained = any(record["metrics"].get("train_acc") is not None for record in records)
    return NOT_MEASURED if trained and not known else ""
