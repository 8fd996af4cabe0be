"""The entry by which Hydra finds our launchers: Hydra takes plugins from this namespace package alone. The
work is in midre_exp/sweep: workers.py, and submitit.py, which needs an extra and is imported only when jobs
are launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from omegaconf import OmegaConf


class LocalGpusLauncher(JoblibLauncher):  # type: ignore[misc]
    """One worker for each GPU of this machine; how many those are, the sweeper finds out."""


class SlurmLauncher(Launcher):
    """Runs as jobs of SLURM."""

    def __init__(self, **options: Any):
        self.options = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in options.items()
        }

    def setup(self, **context: Any) -> None:
        """Keep what the jobs need: Hydra's context, the task and the config."""
        self.context = context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; raises ConfigError without the extra."""
        try:
            from midre_exp.sweep.submitit import launch
        except ModuleNotFoundError as error:
            from midre_exp.errors import ConfigError

            if error.name is None or not error.name.startswith(("submitit", "hydra_plugins")):
                raise
            raise ConfigError(
                "hydra/launcher=slurm needs hydra-submitit-launcher; install it with pip install '.[cluster]'"
            ) from error
        return launch("slurm", self.options, self.context, job_overrides, initial_job_idx)
