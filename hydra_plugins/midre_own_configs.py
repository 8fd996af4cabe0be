"""The entry by which Hydra also reads the user's own config folder. Which folder that is:
midre_exp/plan/config.py.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from midre_exp.plan import machine_values, scale, vary
from midre_exp.plan.config import own_configs


class OwnConfigs(SearchPathPlugin):
    """Adds the folder behind the packaged configs, which win where both have a file."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra for whatever composes configs, in this process or in a job."""
        scale.register()  # conf/config.yaml looks up the values of a scale by it,
        machine_values.register()  # conf/numerics/auto.yaml those of the machine,
        vary.register()  # and seeds of their own follow the run's where vary says so
        folder = own_configs()
        if folder is not None:
            search_path.append("own", f"file://{folder}")
