"""The entry by which Hydra finds our sweeper: Hydra takes plugins from this namespace package alone. The work
is in midre_exp/sweep/sweeper.py.
"""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class PlannedSweeper(BasicSweeper):
    """Plans the whole sweep, subtracts finished runs, freezes the rest, then launches. ``jobs``: a file that
    lists them one by one.
    """

    def __init__(self, jobs: str | None = None, **options: Any):
        super().__init__(**options)
        self.jobs = jobs

    def sweep(self, arguments: list[str]) -> Any:
        """Carry out a multirun. The import waits until then, because Hydra loads every plugin at every start."""
        from midre_exp.sweep.sweeper import sweep

        return sweep(self, arguments)
