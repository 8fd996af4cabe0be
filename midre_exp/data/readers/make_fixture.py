"""A tiny dataset in its official layout: `python -m midre_exp.data.readers.make_fixture facescrub OUT`; the
last line says how to read it.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from midre_exp.data.readers import fixtures
from midre_exp.errors import ConfigError, UserError

WRITERS: dict[str, Callable[..., fixtures.Overrides]] = {
    "celeba": fixtures.write_celeba,
    "celeba_hd": fixtures.write_celeba_hd,
    "facescrub": fixtures.write_facescrub,
    "vggface2": fixtures.write_vggface2,
    "stanford_dogs": fixtures.write_stanford_dogs,
    "ffhq": fixtures.write_ffhq,
    "afhq": fixtures.write_afhq,
    "lfw": fixtures.write_lfw,
}


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"make_fixture: {message}; see python -m midre_exp.data.readers.make_fixture --help"
        )


def write(arguments: Sequence[str]) -> fixtures.Overrides:
    """Write what the arguments ask for; the overrides that read it. Raises UserError."""
    parser = _Parser(prog="python -m midre_exp.data.readers.make_fixture", description=fixtures.__doc__)
    parser.add_argument("dataset", help=", ".join(WRITERS))
    parser.add_argument("out", type=Path, help="a folder that is new or empty")
    parser.add_argument("--identities", type=int, help="private identities")
    parser.add_argument(
        "--images", type=int, help="images of each identity; of the whole set for ffhq and afhq"
    )
    parser.add_argument(
        "--lists", action="store_true", default=None, help="celeba: also the attack literature's list files"
    )
    parser.add_argument("--layout", help="facescrub: blanks (default), underscores or flat; lfw: raw ...")
    parser.add_argument("--variant", help="ffhq: thumbnails (default) or images1024")
    parser.add_argument("--version", type=int, help="afhq: 1 (default) or 2")
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    name, out = given.pop("dataset"), given.pop("out")
    if name not in WRITERS:
        raise ConfigError(f"make_fixture: dataset {name} is unknown; use one of {', '.join(WRITERS)}")
    for option, value in given.items():
        if option not in inspect.signature(WRITERS[name]).parameters:
            raise ConfigError(f"make_fixture: {name} has no --{option}; leave it out")
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"make_fixture: --{option}={value} must be at least 1")
    return WRITERS[name](out.expanduser().absolute(), **given)


def main(arguments: Sequence[str]) -> int:
    """Run, print the overrides; 2 after a mistake, told in one sentence."""
    try:
        overrides = write(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(" ".join(shlex.quote(override) for override in overrides))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
