"""What people, and multimodal models, say of reconstructions.

``python -m midre_exp.study make RECORD_A RECORD_B --out study.html`` writes a page that asks, for each
identity, which of two reconstructions is closer to a photograph, and a key file that tells which was whose.
``... make --ask same RECORD [RECORD ...]`` asks of each reconstruction whether it is the same person as on
photographs, with controls. ``... score ANSWERS.csv ... --key KEY.json`` counts what several people said;
``--record`` keeps it in the records. ``... export RECORD ... --out DIR`` writes the pictures for multimodal
models, ``... import DIR RECORD ...`` takes their answers.

The paper's supplement reports a study of the first kind (CelebA, first 150 identities, a choice between two
candidates); how its pictures were chosen and how many participants answered is unknown. Pages and exports
show private photographs, of real people only with ``publish.people=true`` behind the records: give them only
to people who may see them. They are read as your own config says (``data.root=PATH`` and the like); a record
is data and names no code that would be run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.config import use_own_configs
from midre_exp.plan.explain import explain
from midre_exp.records import add_verdict, read_record
from midre_exp.records.text import csv_of
from midre_exp.store.files import write_atomic
from midre_exp.store.progress import log_to_stderr
from midre_exp.study.answers import asks, read_answers, read_keys
from midre_exp.study.collection import ExportChoice, export
from midre_exp.study.imported import import_answers
from midre_exp.study.mllm import Subject
from midre_exp.study.people import findings
from midre_exp.study.questionnaire import Choice, make_study
from midre_exp.study.same_person import SameChoice, make_same_study
from midre_exp.study.score import chosen_runs, score


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 after a mistake."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    try:
        {"make": _make, "score": _score, "export": _export, "import": _import}[options.command](options)
        return 0
    except (UserError, HydraException, OmegaConfBaseException) as error:
        overrides = _records_and_overrides(getattr(options, "words", []))[1]
        print(f"midre_exp: {explain(error, overrides)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m midre_exp.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write a page and its key")
    _add_pictures(make)
    make.add_argument(
        "--ask",
        choices=["closer", "same"],
        default="closer",
        help="which of two runs is closer, or whether it is the same person, of any number of runs",
    )
    make.add_argument("--out", type=Path, default=Path("study.html"), help="the page (default: study.html)")
    make.add_argument("--key", type=Path, help="the key file (default: beside the page, ending .key.json)")
    make.add_argument(
        "--identities",
        type=int,
        default=Choice.identities,
        help="at most so many, the first ones (default: 150, as the paper)",
    )
    count = commands.add_parser("score", help="count the answers of people")
    count.add_argument("answers", nargs="+", type=Path, help="CSV files that participants downloaded")
    count.add_argument("--key", nargs="+", type=Path, required=True, help="key files of the studies")
    count.add_argument("--out", type=Path, help="also write the table as CSV")
    count.add_argument(
        "--record",
        nargs="+",
        type=Path,
        default=[],
        help="record files of the runs: keep there what was found (pages that ask for the same person)",
    )
    given = commands.add_parser("export", help="write the pictures for multimodal models")
    _add_pictures(given)
    given.add_argument("--out", type=Path, required=True, help="an empty folder")
    given.add_argument("--identities", type=int, default=ExportChoice.identities, help="at most so many")
    given.add_argument("--restarts", type=int, help="reconstructions of each (default: all that count)")
    given.add_argument(
        "--subject",
        choices=get_args(Subject),
        help="what is asked about (default: dogs of data sets of dogs)",
    )
    taken = commands.add_parser("import", help="take the answers of multimodal models into the records")
    taken.add_argument("folder", type=Path, help="that of the export, with the files of answers in it")
    taken.add_argument("records", nargs="+", type=Path, metavar="RECORD", help="record files of its runs")
    taken.add_argument("--judge", nargs="+", default=[], help="of these models alone, as files are named")
    taken.add_argument(
        "--prompt", type=Path, help="a text file with the prompt: the record keeps its SHA-256"
    )
    taken.add_argument("--out", type=Path, help="also write the table as CSV")
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    """What decides which pictures there are and which of them are shown."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RECORD ... [OVERRIDE ...]",
        help="record files (.json) of runs on the same private data, then the Hydra overrides of these runs "
        "that concern their private images, such as data.root=PATH",
    )
    parser.add_argument("--seed", type=int, default=Choice.seed, help="of all that is drawn (default: 0)")
    parser.add_argument(
        "--part",
        choices=["train", "test"],
        help="photographs (default: train where the closer one is asked for, as the paper, else test)",
    )
    parser.add_argument("--photographs", type=int, help="beside each picture (default: 4; not of closer)")
    parser.add_argument("--controls", type=int, help="of each kind (default: 10, exports 100; not of closer)")
    parser.add_argument("--store", help="artifact store (default: paths.store of your config)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")


def _records_and_overrides(words: Sequence[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Record files come first."""
    count = next((n for n, word in enumerate(words) if not word.endswith(".json")), len(words))
    return tuple(map(Path, words[:count])), tuple(words[count:])


def _shown(options: argparse.Namespace) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """The records, and what the options say of the pictures."""
    for name in ("identities", "photographs", "restarts", "controls"):
        value = getattr(options, name, None)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}={value} must be at least 1")
    records, overrides = _records_and_overrides(options.words)
    if not records:
        raise ConfigError(
            f"{options.words[0]} is no record; give the .json files of runs first, then overrides"
        )
    use_own_configs(options.config_dir)
    names = ("identities", "seed", "store", "part", "photographs", "controls")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return records, {**given, "overrides": overrides}


def _make(options: argparse.Namespace) -> None:
    records, shown = _shown(options)
    key = options.key or options.out.with_suffix(".key.json")
    if options.ask == "same":
        questions = make_same_study(records, options.out, key, SameChoice(**shown))
    elif absolute := [name for name in ("photographs", "controls") if name in shown]:
        raise ConfigError(f"--{absolute[0]} belongs to pages that ask for the same person; give --ask same")
    else:
        questions = make_study(records, options.out, key, Choice(**shown))
    print(f"{questions} questions in {options.out}, which names no run; keep {key} away from whoever answers")


def _score(options: argparse.Namespace) -> None:
    keys = read_keys(options.key)
    answers, first = read_answers(options.answers, keys), next(iter(keys.values()))
    if asks(first) == "same":
        found = findings(answers, keys)
        table, sentences = found.table, [str(found.agreement), *(f"Warning: {w}." for w in found.warnings)]
        blocks = _blocks_of(options.record, found.blocks)
    elif options.record:
        raise ConfigError(
            "which of two runs is closer says nothing of one; --record is for pages with --ask same"
        )
    else:
        table, sentences, blocks = score(chosen_runs(answers, keys), first["runs"]), [], {}
    _print(table, options.out)
    print("\n".join(sentences))
    for path, block in blocks.items():
        add_verdict(path, "study", block)
        print(f"written into {path}")


def _blocks_of(
    records: Sequence[Path], blocks: Mapping[str, Mapping[str, Any]]
) -> dict[Path, Mapping[str, Any]]:
    """What is kept in each record. ConfigError for a record that nobody was asked about."""
    found = {}
    for path in records:
        record = read_record(path)
        block = blocks.get(record["key"])
        if block is None or block["artifact"] != record["artifacts"]["attack"]:
            raise ConfigError(
                f"{path} is of none of the runs that were asked about; give the records of the page"
            )
        found[path] = block
    return found


def _export(options: argparse.Namespace) -> None:
    records, shown = _shown(options)
    choice = ExportChoice(**shown, restarts=options.restarts, subject=options.subject)
    count = export(records, options.out, choice)
    print(
        f"{count} pictures to ask about in {options.out}; put the files of answers where the evaluation does"
    )


def _import(options: argparse.Namespace) -> None:
    rows = import_answers(options.folder, options.records, judges=options.judge, prompt=options.prompt)
    _print(pd.DataFrame(rows), options.out)
    print("\n".join(f"written into {path}" for path in options.records))


def _print(table: pd.DataFrame, out: Path | None) -> None:
    shown = table.astype(object).where(table.notna(), None)
    print(shown.to_markdown(index=False, tablefmt="simple", floatfmt=".1f", missingval=""))
    if out is not None:
        write_atomic(out, csv_of(table))
        print(f"written: {out}")


if __name__ == "__main__":
    sys.exit(main())
