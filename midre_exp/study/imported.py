"""What multimodal models said of an export, brought into the records of its runs: one more judge for each
model, with its yes to controls, its refusals and the evaluator's hits beside it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from midre_exp.errors import ConfigError, DataError
from midre_exp.metrics import identity_interval, kappa
from midre_exp.plan.validate import is_id
from midre_exp.records import add_verdict, read_record
from midre_exp.store.files import sha256
from midre_exp.study.collection import pictures_in, read_export
from midre_exp.study.mllm import Category, Picture, judge_of, picture_of, read_judge
from midre_exp.study.verdict import Share, confusion, is_fit, percent, share, why_unfit


def import_answers(
    out: Path, records: Sequence[Path], *, judges: Sequence[str] = (), prompt: Path | None = None
) -> list[dict[str, Any]]:
    """Read every file ``<prefix>_results_<model>.csv`` beside the pictures of these runs, write it into their
    records and return a row for each. ``judges``: of these models alone.

    Raises ConfigError for a run that is not of the export, DataError for files that are no answers to it.
    """
    told = read_export(out)
    runs = {run["key"]: run for run in told["runs"]}
    asked = None if prompt is None else _prompt(prompt)
    rows, writes = [], []
    for path in records:
        record = read_record(path)
        run = runs.get(record["key"])
        if run is None or run["artifact"] != record["artifacts"]["attack"]:
            raise ConfigError(f"{path} is of none of the runs in {out}; give the records that were exported")
        found = _files(out / run["folder"], judges)
        if not found:
            raise DataError(
                f"{out / run['folder']} holds no answers"
                + (f" of {', '.join(judges)}" if judges else "")
                + "; they are files that end in _results_<model>.csv, as the evaluation writes them there"
            )
        blocks = dict(record.get("mllm", {}))
        for name, file in found.items():
            blocks[name] = _verdict(out, told, run, name, file) | {"prompt_sha256": asked}
        for name, block in blocks.items():
            block["kappa_with"] = _agreements(name, block, blocks)
        writes.append((path, blocks))
        rows += [_row(run, name, blocks[name]) for name in found]
    for path, blocks in writes:
        add_verdict(path, "mllm", blocks)
    return rows


def _prompt(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(
            f"{path}, the prompt, cannot be read ({error.strerror}); give the text file"
        ) from error


def _files(folder: Path, judges: Sequence[str]) -> dict[str, Path]:
    """The file of each model in a folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.csv")):
        name = judge_of(path)
        if name is None or (judges and name not in judges):
            continue
        if not is_id(name):
            raise DataError(f"{path} is of a model whose name cannot stand in a table; rename the file")
        if name in found:
            raise DataError(f"{found[name]} and {path} are of one model; keep one")
        found[name] = path
    return found


def _verdict(
    out: Path, told: Mapping[str, Any], run: Mapping[str, Any], name: str, file: Path
) -> dict[str, Any]:
    """What a record keeps of one model's answers about one run."""
    hits = {picture: hit for text, hit in run["hits"].items() if (picture := picture_of(text))}
    answers = read_judge(file, hits)
    pictures = sorted(answers)
    said = [answers[picture] == "yes" for picture in pictures]
    labels = torch.tensor([label for label, _ in pictures])
    low, high = identity_interval(torch.tensor(said, dtype=torch.float64), labels)
    folders = {**told["controls"], "crossed": run["crossed"]}
    controls = {kind: _control(out, folder, name) for kind, folder in folders.items()}
    same, other = controls["same"], controls["other"]
    return {
        "said_same": percent(sum(said), len(said)),
        "said_same_low": 100 * low,
        "said_same_high": 100 * high,
        "pictures": len(pictures),
        "refused": sum(answers[picture] == "refuse" for picture in pictures),
        "unanswered": len(hits) - len(pictures),
        "controls": {kind: found for kind, found in controls.items() if found is not None},
        "evaluator": confusion(said, [hits[picture] for picture in pictures]),
        "date": datetime.date.fromtimestamp(file.stat().st_mtime).isoformat(),
        "part": told["part"],
        "export": told["export"],
        "artifact": run["artifact"],
        "pictures_sha256": run["pictures"],
        "answers": _as_text(answers),
        "alarms": [] if is_fit(same, other) else [f"mllm: {why_unfit(name, same, other)}"],
    }


def _control(out: Path, folder: str, name: str) -> Share | None:
    """A model's yes to one kind of controls; None where it was not asked."""
    file = _files(out / folder, [name]).get(name)
    if file is None:
        return None
    return share([said == "yes" for said in read_judge(file, pictures_in(out / folder)).values()])


def _as_text(answers: Mapping[Picture, Category]) -> dict[str, str]:
    """By class, ``restart:answer`` of each of its pictures."""
    found: dict[str, list[str]] = {}
    for (label, restart), said in sorted(answers.items()):
        found.setdefault(str(label), []).append(f"{restart}:{said}")
    return {label: " ".join(words) for label, words in found.items()}


def _agreements(name: str, block: Mapping[str, Any], blocks: Mapping[str, Any]) -> dict[str, float]:
    """Cohen's kappa with each other model on the pictures that both answered; refusals are no yes."""
    own, found = _yes(block), {}
    for other, theirs in blocks.items():
        if other != name and theirs.get("pictures_sha256") == block.get("pictures_sha256"):
            said = _yes(theirs)
            value = kappa([(own[picture], said[picture]) for picture in own.keys() & said.keys()])
            if value is not None:
                found[other] = value
    return found


def _yes(block: Mapping[str, Any]) -> dict[tuple[str, str], bool]:
    """By class and restart, as a record has them, whether the answer is yes."""
    words = [
        (label, word.partition(":")) for label, text in block["answers"].items() for word in text.split()
    ]
    return {(label, restart): said == "yes" for label, (restart, _, said) in words}


def _row(run: Mapping[str, Any], name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    names = {column: run[column] for column in ("setup", "attack", "defense", "seed")}
    counted = ("said_same", "said_same_low", "said_same_high", "pictures", "refused", "unanswered")
    rates = {f"yes_to_{kind}": found["said_same"] for kind, found in block["controls"].items()}
    beside = {word: block["evaluator"][word] for word in ("FPR", "false_hits")}
    return {"judge": name, **names, **{word: block[word] for word in counted}, **rates, **beside}
