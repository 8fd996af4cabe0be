"""Composing configs outside a Hydra run: which jobs a list of overrides means, and the resolved settings of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult

from midre_exp.composing import Composer
from midre_exp.config import CONF_DIR, plain


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep in the order Hydra would launch them: the product of all swept overrides. A later override of a key wins."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


class _ReadOnce(CachingConfigRepository):
    """Config files, each read and parsed once. Hydra copies its repository for every job; this one stays the same, and its content is
    copied instead, because overrides are written into it.
    """

    def __deepcopy__(self, memo: object) -> _ReadOnce:
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        return deepcopy(super().load_config(config_path))


def packaged_composer() -> Composer:
    """What composes many jobs quickly. Call inside ``packaged_configs``, whose files must not change meanwhile."""
    loader: Any = GlobalHydra.instance().config_loader()
    loader.repository = _ReadOnce(loader.repository)
    return Composer(
        lambda overrides: compose("config", overrides=overrides),
        lambda name: bool(loader.get_group_options(name)),
    )


@contextmanager
def packaged_configs() -> Iterator[None]:
    """Let ``compose`` read the packaged configs, whatever Hydra did in this process before."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        yield


def settings_of(job: Sequence[str]) -> dict[str, Any]:
    """The resolved config of one job, as plain containers. Call inside ``packaged_configs``."""
    settings: dict[str, Any] = plain(compose("config", overrides=list(job)))
    return settings
