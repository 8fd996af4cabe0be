"""A user study of two runs: whose reconstructions look more like the private identities?

``python -m midre_exp.study make RECORD_A RECORD_B --out study.html`` writes a page that asks, for each
identity, which of two reconstructions is closer to a photograph, and a key file that tells which was whose.
``python -m midre_exp.study score ANSWERS.csv ... --key KEY.json`` counts. The paper's supplement reports such
a study (CelebA, first 150 identities, a choice between two candidates); how its pictures were chosen and how
many participants answered is unknown. The page shows private photographs, of real people only with
``publish.people=true`` behind the records: give it only to people who may see them. They are read as your own
config says (``data.root=PATH`` and the like); a record is data and names no code that would be run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.data.base import Part
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.config import use_own_configs
from midre_exp.plan.explain import explain
from midre_exp.records.text import csv_of
from midre_exp.store.files import write_atomic
from midre_exp.store.progress import log_to_stderr
from midre_exp.study.questionnaire import Choice, make_study
from midre_exp.study.score import read_answers, read_keys, score


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 after a mistake."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    try:
        {"make": _make, "score": _score}[options.command](options)
        return 0
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"midre_exp: {explain(error, getattr(options, 'overrides', []))}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m midre_exp.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write the page and its key")
    make.add_argument(
        "records",
        nargs=2,
        type=Path,
        metavar="RECORD",
        help="record files of two runs on the same private data",
    )
    make.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="Hydra overrides of the runs that concern their private images, such as data.root=PATH",
    )
    make.add_argument("--out", type=Path, default=Path("study.html"), help="the page (default: study.html)")
    make.add_argument("--key", type=Path, help="the key file (default: beside the page, ending .key.json)")
    make.add_argument(
        "--identities",
        type=int,
        default=Choice.identities,
        help="at most so many, the first ones (default: 150, as the paper)",
    )
    make.add_argument("--seed", type=int, default=Choice.seed, help="of the order and the sides (default: 0)")
    make.add_argument(
        "--part",
        choices=[part for part in get_args(Part) if part != "public"],
        default=Choice.part,
        help="photographs (default: train)",
    )
    make.add_argument("--store", help="artifact store (default: paths.store of your config)")
    make.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    count = commands.add_parser("score", help="count the answers")
    count.add_argument("answers", nargs="+", type=Path, help="CSV files that participants downloaded")
    count.add_argument("--key", nargs="+", type=Path, required=True, help="key files of the studies")
    count.add_argument("--out", type=Path, help="also write the table as CSV")
    return parser


def _make(options: argparse.Namespace) -> None:
    if options.identities < 1:
        raise ConfigError(f"--identities={options.identities} must be at least 1")
    key = options.key or options.out.with_suffix(".key.json")
    use_own_configs(options.config_dir)
    choice = Choice(
        identities=options.identities,
        seed=options.seed,
        part=options.part,
        store=options.store,
        overrides=tuple(options.overrides),
    )
    questions = make_study(tuple(options.records), options.out, key, choice)
    print(f"{questions} questions in {options.out}, which names no run; keep {key} away from whoever answers")


def _score(options: argparse.Namespace) -> None:
    keys = read_keys(options.key)
    table = score(read_answers(options.answers, keys), next(iter(keys.values()))["runs"])
    print(table.to_markdown(index=False, tablefmt="simple", floatfmt=".1f"))
    if options.out is not None:
        write_atomic(options.out, csv_of(table))
        print(f"written: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
