"""From the answers of a user study to a row for each of its two runs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.config import digest
from midre_exp.store.files import read_json

SIDES = ("left", "right")
COLUMNS = ["study", "participant", "question", "answer", "milliseconds"]
_LEVEL = 0.95

Key = dict[str, Any]  # study, seed, part, runs by a and b, questions: as the key file has them


def read_keys(paths: Sequence[Path]) -> dict[str, Key]:
    """The keys of one or more studies of the same two runs, by study. Raises DataError for other files,
    ConfigError for other runs.
    """
    keys: dict[str, Key] = {}
    for path in paths:
        content = read_json(path)
        if not isinstance(content, dict) or not {"study", "runs", "questions"} <= content.keys():
            raise DataError(f"{path} is no key of a study; give the file written beside the page")
        if not _is_whole(content):
            raise DataError(
                f"{path} is damaged (its questions are not those of study {content['study']}); make the "
                "study again"
            )
        keys[content["study"]] = content
    first, *others = keys.values()
    if any(key["runs"] != first["runs"] for key in others):
        raise ConfigError(
            "the keys belong to studies of different runs, or name them in another order; score them one by "
            "one"
        )
    return keys


def _is_whole(key: Mapping[str, Any]) -> bool:
    """Whether a key's questions are those its study is named after."""
    try:
        runs = [key["runs"][name]["key"] for name in ("a", "b")]
        return bool(key["study"] == digest([*runs, key["part"], key["seed"], key["questions"]]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def read_answers(paths: Sequence[Path], keys: Mapping[str, Key]) -> pd.DataFrame:
    """All answers: participant, identity and the run that was chosen (``a`` or ``b``); an answer that is
    given twice counts once.

    ``keys`` by study. Raises DataError naming file and line for what is no answer to these studies, and for
    contradictions.
    """
    answers: dict[tuple[str, str, int], str] = {}
    for path in paths:
        for line, words in _lines(path):
            study, participant, question, side = _answer(words, keys, f"{path} line {line}")
            if answers.setdefault((study, participant, question), side) != side:
                raise DataError(
                    f"{path} line {line}: {participant} has answered question {question} differently before; "
                    "keep one file"
                )
    if not answers:
        raise DataError("the files hold no answers; download them when the study is done")
    chosen = []
    for (study, participant, position), side in answers.items():
        question = keys[study]["questions"][position - 1]
        other = "b" if question["left"] == "a" else "a"
        chosen.append((participant, question["identity"], question["left"] if side == "left" else other))
    return pd.DataFrame(chosen, columns=["participant", "identity", "run"])


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of an answer file with their line numbers, without its head and empty ones."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({error}); give a file that a study page has written"
        ) from error
    if not rows or rows[0] != COLUMNS:
        raise DataError(
            f"{path} does not begin with {','.join(COLUMNS)}; give a file that a study page has written"
        )
    return ((line, words) for line, words in enumerate(rows[1:], start=2) if words)


def _answer(words: Sequence[str], keys: Mapping[str, Key], where: str) -> tuple[str, str, int, str]:
    """Study, participant, number of the question and the side that was chosen."""
    study, participant, question, side, *_ = [*words, "", "", "", ""]
    if study not in keys:
        raise DataError(
            f"{where} belongs to study {study}, not to {', '.join(keys)}; give that study's --key too"
        )
    count = len(keys[study]["questions"])
    if side not in SIDES or not question.isdigit() or not 1 <= int(question) <= count:
        raise DataError(
            f"{where} reads {','.join(words)[:80]!r}, expected a question from 1 to {count}, left or right"
        )
    return study, participant, int(question), side


def score(answers: pd.DataFrame, runs: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each run: selections, share in percent with its exact binomial (Clopper-Pearson) interval,
    identities for which it had most.

    The interval takes answers for independent, which those of one participant are not quite.
    """
    from scipy.stats import binomtest  # half a second, needed only here

    votes = answers.groupby("identity")["run"].agg(
        lambda chosen: (chosen == "a").sum() - (chosen == "b").sum()
    )
    table = []
    for name, sign in (("a", 1), ("b", -1)):
        selected, total = int((answers["run"] == name).sum()), len(answers)
        interval = binomtest(selected, total).proportion_ci(_LEVEL, method="exact")
        table.append(
            {
                **{column: runs[name][column] for column in ("setup", "attack", "defense", "seed")},
                "selections": selected,
                "of": total,
                "share": 100 * selected / total,
                "share_low": 100 * interval.low,
                "share_high": 100 * interval.high,
                "majorities": int((sign * votes > 0).sum()),
                "ties": int((votes == 0).sum()),
                "identities": len(votes),
                "participants": answers["participant"].nunique(),
            }
        )
    return pd.DataFrame(table)
