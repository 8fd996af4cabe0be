"""Files that come back from people: keys of studies and the answers that their pages have written."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.config import digest
from midre_exp.store.files import read_json
from midre_exp.study.same_person import is_question, same_study_digest

COLUMNS = ["study", "participant", "question", "answer", "milliseconds"]
#: What a page of each kind lets people say.
ANSWERS = {"closer": ("left", "right"), "same": ("same", "different")}

#: As a key file has them: study, seed, part, runs, questions, and ``ask`` (same; none: closer).
Key = dict[str, Any]


class Answer(NamedTuple):
    """What one participant said to one question."""

    study: str
    participant: str
    question: int  # from 1
    said: str


def asks(key: Mapping[str, Any]) -> str:
    """What a study asks: ``closer`` or ``same``."""
    return str(key.get("ask", "closer"))


def read_keys(paths: Sequence[Path]) -> dict[str, Key]:
    """The keys of one or more studies of the same runs, by study. Raises DataError for other files,
    ConfigError for other runs or questions of another kind.
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
    if any(asks(key) != asks(first) for key in others):
        raise ConfigError("the keys are of pages that ask different questions; score them one by one")
    if any(key["runs"] != first["runs"] for key in others):
        raise ConfigError(
            "the keys belong to studies of different runs, or name them in another order; score them one by "
            "one"
        )
    return keys


def _is_whole(key: Mapping[str, Any]) -> bool:
    """Whether a key's questions are those its study is named after."""
    try:
        if asks(key) == "same":
            found = same_study_digest(key["runs"], key["part"], key["seed"], key["questions"])
            return bool(key["study"] == found) and all(
                is_question(q, len(key["runs"])) for q in key["questions"]
            )
        runs = [key["runs"][name]["key"] for name in ("a", "b")]
        return bool(key["study"] == digest([*runs, key["part"], key["seed"], key["questions"]]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def read_answers(paths: Sequence[Path], keys: Mapping[str, Key]) -> list[Answer]:
    """All answers; one that is given twice counts once.

    ``keys`` by study. Raises DataError naming file and line for what is no answer to these studies, and for
    contradictions.
    """
    answers: dict[tuple[str, str, int], str] = {}
    for path in paths:
        for line, words in lines_of(path, COLUMNS, "a study page"):
            study, participant, question, said = _answer(words, keys, f"{path} line {line}")
            if answers.setdefault((study, participant, question), said) != said:
                raise DataError(
                    f"{path} line {line}: {participant} has answered question {question} differently before; "
                    "keep one file"
                )
    if not answers:
        raise DataError("the files hold no answers; download them when the study is done")
    return [Answer(*place, said) for place, said in answers.items()]


def lines_of(path: Path, columns: Sequence[str], writer: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers, without its head, which begins with ``columns``, and
    empty ones.
    """
    rows = rows_of(path, writer)
    if not rows or rows[0] != list(columns):
        raise DataError(
            f"{path} does not begin with {','.join(columns)}; give a file that {writer} has written"
        )
    return ((line, words) for line, words in enumerate(rows[1:], start=2) if words)


def rows_of(path: Path, writer: str) -> list[list[str]]:
    """All rows of a CSV file. DataError for one that cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as CSV ({error}); give a file that {writer} has written"
        ) from error


def _answer(words: Sequence[str], keys: Mapping[str, Key], where: str) -> tuple[str, str, int, str]:
    """Study, participant, number of the question and what was said."""
    study, participant, question, said, *_ = [*words, "", "", "", ""]
    if study not in keys:
        raise DataError(
            f"{where} belongs to study {study}, not to {', '.join(keys)}; give that study's --key too"
        )
    count, known = len(keys[study]["questions"]), ANSWERS[asks(keys[study])]
    if said not in known or not _is_number(question) or not 1 <= int(question) <= count:
        raise DataError(
            f"{where} reads {','.join(words)[:80]!r}, expected a question from 1 to {count}, "
            f"{' or '.join(known)}"
        )
    return study, participant, int(question), said


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
