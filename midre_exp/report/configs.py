"""Where tables, figures and dashboard views are defined: the yaml files in ``conf`` beside this file, and in
the user's own config folder under other names.
"""

from __future__ import annotations

from pathlib import Path

from midre_exp.plan.config import config_files

REPORT_CONF = Path(__file__).parent / "conf"


def definitions(kind: str) -> dict[str, Path]:
    """The yaml of every ``table``, ``figure`` or ``dashboard`` view by name, sorted."""
    return config_files(kind, REPORT_CONF)
