"""Under which name of a stage an artifact lies in a store."""

from __future__ import annotations

import re

_ROUND = re.compile(r"\.round\d+$")


def stored_as(stage: str) -> str:
    """The name for a stage of a plan: of an earlier round of an attack (``attack.round1``) that of the
    attack, so that the run which ends with that round shares it.
    """
    return _ROUND.sub("", stage)
