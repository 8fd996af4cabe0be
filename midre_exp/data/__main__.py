"""``python -m midre_exp.data COMMAND ...``: the commands about data sets, which are also those of ``midre-exp
data``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from midre_exp.data.commands import COMMANDS
from midre_exp.plan.config import use_own_packages


def main(arguments: Sequence[str]) -> int:
    """The exit code of the command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(
            "\n".join(f"midre-exp data {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items())
        )
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"data {name} is no command; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    code: int = import_module(COMMANDS[name][0]).main(rest)
    return code


if __name__ == "__main__":
    use_own_packages()
    sys.exit(main(sys.argv[1:]))
