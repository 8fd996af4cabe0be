"""``python -m midre_exp.cost.worker``: counts the stages that it is told on its input, in order, each into
the file it is told. Started by ``midre_exp.cost.remembered``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from midre_exp.cost.programs import count_stage
from midre_exp.cost.remembered import write_count
from midre_exp.cost.sizes import Sizes


def main() -> None:
    """Read, count, write."""
    torch.set_num_threads(1)
    for asked in json.load(sys.stdin):
        write_count(Path(asked["file"]), _count(asked))


def _count(asked: dict[str, Any]) -> dict[str, Any]:
    """The count, or why there is none: a program may ask its tensors for what they do not have."""
    try:
        return count_stage(asked["stage"], asked["settings"], Sizes(**asked["sizes"])).as_json()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


if __name__ == "__main__":
    main()
