"""``midre-exp cite OVERRIDES``: the BibTeX of everything that the runs of these overrides rest on: methods,
networks, data, measures, and this project. Nothing is run. ``midre-exp report TABLE --cite`` does the same
for a table or figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.compose import expand
from midre_exp.plan.config import use_own_configs
from midre_exp.plan.explain import explain
from midre_exp.references import Citation, bibliography, bibtex, cited_by, references, short


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="midre-exp cite", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="OVERRIDE", help="as of a run or sweep: attack=ppa")
    parser.add_argument("--all", action="store_true", help="every work that is known, whatever rests on it")
    parser.add_argument("--short", action="store_true", help="a line for each part instead of BibTeX")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    options = parser.parse_intermixed_args(arguments)
    try:
        use_own_configs(options.config_dir)
        if options.all and (options.words or options.short):
            raise ConfigError("--all takes no overrides and goes alone; leave them out")
        if options.all:
            print("\n\n".join(map(bibtex, references().works.values())))
            return 0
        if not options.words:
            raise ConfigError(
                "nothing is named; say what is to be cited, as in midre-exp cite attack=ppa defense=midre, "
                "or give --all"
            )
        cited = cited_by(expand(options.words))
        print(_lines(cited) if options.short else bibliography(cited), end="")
        return 0
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, options.words)}", file=sys.stderr)
        return 2


def _lines(cited: Sequence[Citation]) -> str:
    width = max(len(citation.part) for citation in cited)
    lines = []
    for citation in cited:
        works = [f"{short(work)} [{work.key}]" for work in citation.works]
        told = "; ".join(works) or citation.reason or "no reference is known"
        lines.append(f"{citation.part:{width}}  {told}\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
