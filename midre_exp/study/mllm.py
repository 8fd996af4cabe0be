"""Answers of multimodal models, as the public evaluation of model inversion reads and writes them (Ho et
al., arXiv 2505.03519; github.com/hosytuyen/MI-Eval-MLLM at 89010bc).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from midre_exp.errors import DataError
from midre_exp.study.answers import rows_of

Picture = tuple[int, int]  # class and restart
Category = Literal["yes", "no", "refuse"]
Subject = Literal["face", "object", "dog"]

_PICTURE = re.compile(r"ID=(\d{1,9})_T=(\d{1,9})", re.ASCII)
#: Words beside which a "no" is no answer, and those that do no harm where the text begins or ends with it.
_NEGATIONS, _HARMLESS = {"not", "nothing"}, {"now", "know", "known"}


def category(answer: str | None) -> Category:
    """What an answer says: ``yes`` where that word is in it, whatever else is, ``no`` where it is clear, else
    ``refuse``. Only yes counts for the attack.

    The program also has a rule for refusals by which a bare "no" is one; nothing is counted by it.
    """
    text = (answer or "").strip().lower()
    words = re.sub(r"[^\w\s]", " ", text).split()
    if "yes" in words:
        return "yes"
    if "no" in words and not _NEGATIONS & {*words}:
        at_an_end = re.match(r"no[\s,.!?]", text) or re.search(r"[\s,.!?]no[\s,.!?]*$", text)
        if at_an_end or not _HARMLESS & {*words}:
            return "no"
    return "refuse"


def subject_of(folder: str) -> Subject:
    """What the evaluation asks about pictures in a folder: the same individual, object class or breed."""
    name = folder.lower()
    if "cifa" in name:
        return "object"
    return "face" if "facescrub" in name or "celeb" in name else "dog"


def picture_name(label: int, restart: int) -> str:
    """The name of a reconstruction's file."""
    return f"ID={label}_T={restart}.png"


def picture_of(name: str) -> Picture | None:
    """Which reconstruction a file name is of; None for other names."""
    found = _PICTURE.search(name)
    return (int(found[1]), int(found[2])) if found else None


def judge_of(file: Path) -> str | None:
    """The model that has written a file of answers; None for other files."""
    _, mark, name = file.stem.partition("_results_")
    return name if mark and name else None


def read_judge(path: Path, known: Iterable[Picture]) -> dict[Picture, Category]:
    """The answers in a file: two columns, file name and answer, or more with one called ``response``, as the
    program writes them; any names of columns stand in its first line.

    Raises DataError naming the line for a picture that is not ``known`` and for contradictions.
    """
    head, *rows = rows_of(path, "the evaluation") or [[]]
    column = head.index("response") if "response" in head else 1
    if len(head) < 2 or picture_of(head[0]):
        raise DataError(
            f"{path} does not begin with the names of its columns, such as filename,response,label; give a "
            "file that the evaluation has written"
        )
    pictures, answers = set(known), dict[Picture, Category]()
    for line, words in enumerate(rows, start=2):
        if not words:
            continue
        name = picture_of(words[0])
        if name not in pictures or name is None or len(words) <= column:
            raise DataError(
                f"{path} line {line} reads {','.join(words)[:80]!r}, which is no answer about a picture of "
                "this export; give the folder with which this model was asked"
            )
        said = category(words[column])
        if answers.setdefault(name, said) != said:
            raise DataError(
                f"{path} line {line}: {picture_name(*name)} was answered differently before; keep one"
            )
    if not answers:
        raise DataError(f"{path} holds no answers; remove it, or ask this model again")
    return answers
