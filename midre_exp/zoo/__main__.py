"""``midre-exp zoo [list]``, ``midre-exp zoo attack NAME``: trained targets, defended and not, that come with
this program or lie in a folder of yours. ``list`` verifies every file and says what it is; ``attack``
attacks a target with the prior beside it and prints its attack accuracy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import CheckpointError, UserError
from midre_exp.plan.explain import explain
from midre_exp.plan.spelling import attack_name
from midre_exp.store.progress import log_to_stderr
from midre_exp.zoo.export import verified
from midre_exp.zoo.files import SHIPPED, SUFFIX, ZOO, read_card
from midre_exp.zoo.page import listing, reached


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words or ["list"])
    log_to_stderr()
    try:
        if options.command == "list":
            return _list(options.folder or _folder())
        return _attack(options)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, [])}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="midre-exp zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list", help="verify every file of a zoo and say what it is")
    listed.add_argument(
        "folder", nargs="?", type=Path, help="default: zoo, or the one that comes with this program"
    )
    one = commands.add_parser("attack", help="attack a target with the prior and the evaluator beside it")
    one.add_argument("name", help="of a target as list shows it, or any path of a file")
    one.add_argument("--attack", default="ppa", help="a choice of conf/attack whose prior lies there (ppa)")
    one.add_argument("--identities", type=int, metavar="N", help="attack the first N classes (50)")
    one.add_argument("--scale", default="evidence", help="whose budget the attack has (evidence)")
    one.add_argument("--seed", type=int, default=0, help="of the attack (0)")
    return parser


def _folder() -> Path:
    return Path(ZOO) if Path(ZOO).is_dir() else SHIPPED


def _list(folder: Path) -> int:
    cards = {path.stem: card for path, card in verified(folder)}
    if not cards:
        raise CheckpointError(f"{folder} holds no files of a zoo; give the folder of some")
    for line in listing(cards):
        print(line)
    print(f"{len(cards)} files in {folder}, all as {folder / 'zoo.json'} lists them")
    return 0


def _attack(options: argparse.Namespace) -> int:
    from midre_exp.sharing.zoo_attack import attack_target  # torch

    name = options.name
    if "/" not in name and not Path(name).exists():
        name = f"{ZOO}/{name}"
    found = attack_target(
        name, options.attack, identities=options.identities, scale=options.scale, seed=options.seed
    )
    low, high = found.interval()
    print(
        f"{attack_name(options.attack)} on {Path(name).name.removesuffix(SUFFIX)}: attack accuracy "
        f"{found.accuracy:.1f} % [{low:.0f}, {high:.0f}] of {len(found.labels.unique())} identities, "
        f"{len(found.labels)} reconstructions, {found.queries:,} queries, {found.seconds:.0f} s"
    )
    if known := reached(read_card(name), options.attack):
        print(f"recorded: {known}, of all that its run attacked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
