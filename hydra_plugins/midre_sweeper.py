"""The entry by which Hydra finds our sweeper: Hydra takes plugins from this namespace package alone. The work
is in midre_exp/sweep/sweeper.py.
"""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class PlannedSweeper(Sweeper):
    """Plans the whole sweep, subtracts finished runs, freezes the rest, then launches. ``jobs``: a file that
    lists them one by one.
    """

    def __init__(self, jobs: str | None = None):
        self.jobs = jobs

    def setup(self, **context: Any) -> None:
        """Keep Hydra's context and the config, and make the launcher the config names."""
        self.hydra_context, self.config = context["hydra_context"], context["config"]
        self.launcher = Plugins.instance().instantiate_launcher(**context)

    def sweep(self, arguments: list[str]) -> Any:
        """Carry out a multirun. Imported only then, because Hydra loads every plugin at every start."""
        from midre_exp.sweep.sweeper import sweep

        return sweep(self, arguments)
