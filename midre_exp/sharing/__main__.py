"""``midre-exp results export|import|check|every-eval-ever``: records of runs as one file for others, those of
others beside one's own, records against their schema, and records in the format of Every Eval Ever.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from midre_exp.errors import StoreError, UserError
from midre_exp.plan.publication import SWITCH
from midre_exp.sharing.bundle import export, gathered, import_, remark_on_people
from midre_exp.sharing.every_eval_ever import convert
from midre_exp.store.artifact import readable
from midre_exp.store.progress import log_to_stderr
from midre_exp.store.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 2 for a mistake, and for a bundle that is refused."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args([word for word in words if word != SWITCH])
    options.consent = SWITCH in words  # wherever it stands, as on every command line of this program
    log_to_stderr()
    try:
        done: int = options.carry_out(options)
        return done
    except (UserError, OSError) as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="midre-exp results", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    where = "results folders or records (default: results)"
    out = commands.add_parser("export", help="write records to one file", description=export.__doc__)
    out.add_argument("bundle", type=Path, help="FILE.tar, which must not exist")
    out.add_argument("places", nargs="*", help=f"{where}; {SWITCH}: what shows real people too")
    out.add_argument("--name", help="how tables of others call it (default: the name of the file)")
    out.add_argument("--weights", action="store_true", help="with the targets, from --store")
    out.add_argument("--latents", action="store_true", help="with the latents of reconstructions")
    out.add_argument("--store", action="append", help="where these lie (default: artifacts)")
    out.set_defaults(carry_out=_export)
    into = commands.add_parser("import", help="take records over", description=import_.__doc__)
    into.add_argument("bundle", type=Path, help="what export wrote")
    into.add_argument("--results", type=Path, default=Path("results"), help="where to (default: results)")
    into.add_argument("--keep", choices=("ours", "theirs"), help="whose results stay where they differ")
    into.set_defaults(carry_out=_import)
    check = commands.add_parser("check", help="read every record", description="Read every record.")
    check.add_argument("places", nargs="*", help=where)
    check.set_defaults(carry_out=_check)
    other = commands.add_parser(
        "every-eval-ever", help="convert records to that format", description=convert.__doc__
    )
    other.add_argument("folder", type=Path, help="a new folder")
    other.add_argument("places", nargs="*", help=where)
    other.add_argument("--organization", required=True, help="who made these results, in words")
    other.set_defaults(carry_out=_convert)
    return parser


def _places(options: argparse.Namespace) -> list[Path]:
    return [Path(word) for word in options.places] or [Path("results")]


def _export(options: argparse.Namespace) -> int:
    runs = gathered(_places(options))
    store = Store(options.store or ["artifacts"])
    digest = export(
        options.bundle,
        runs,
        name=options.name or options.bundle.stem,
        store=store,
        weights=options.weights,
        latents=options.latents,
        consent=options.consent,
    )
    if remark := remark_on_people(runs, consent=options.consent):
        print(remark)
    size = readable(options.bundle.stat().st_size)
    print(f"{len(runs)} records written to {options.bundle} ({size}, SHA-256 {digest})")
    return 0


def _import(options: argparse.Namespace) -> int:
    taken = import_(options.bundle, options.results, keep=options.keep)
    for one in taken:
        print(f"{one.outcome}: {one.path}")
    new = sum(one.outcome == "imported" for one in taken)
    print(f"{new} imported, {len(taken) - new} here before")
    return 0


def _check(options: argparse.Namespace) -> int:
    runs = gathered(_places(options))
    print(f"{len(runs)} records, each as its schema says")
    return 0


def _convert(options: argparse.Namespace) -> int:
    runs = gathered(_places(options))
    if options.folder.exists():
        raise StoreError(f"{options.folder} exists already; give another name, or remove it first")
    paths = convert([run.record for run in runs], options.folder, organization=options.organization)
    print(f"{len(paths)} files written below {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
