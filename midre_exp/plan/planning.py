"""Composing configs outside a Hydra run: which jobs a list of overrides means, and the resolved settings of
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import Composer
from midre_exp.plan.config import CONF_DIR, plain


def expand(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The jobs of a sweep in the order Hydra would launch them: the product of all swept overrides. A later
    override of a key wins.

    ``loader`` finds the choices of ``GROUP=glob(...)``, None: among the packaged configs. Raises ConfigError
    for a sweep without a list of values and for one that none fits, HydraException for text that is no
    override.
    """
    loader = _packaged_loader() if loader is None else loader
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    for override in parsed:
        if override.is_sweep_override():
            _check_sweep(override, loader)
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def _check_sweep(override: Override, loader: ConfigLoader) -> None:
    """Raise ConfigError unless a sweep can be told value by value."""
    key, given = override.get_key_element(), override.input_line
    if key.startswith("hydra"):
        raise ConfigError(f"{key} cannot be swept: all jobs of a sweep share one launcher")
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{given} names no values that could be tried one by one; list them as {key}=A,B or give range(START,STOP,STEP)"
        )
    try:
        first = next(override.sweep_string_iterator(), None)
    except (ValueError, HydraException) as error:  # a range whose step is zero
        raise ConfigError(f"{given} cannot be told value by value: {error}") from error
    if first is None:
        choices = loader.get_group_options(override.key_or_group)
        known = f"; choices of {override.key_or_group}: {', '.join(choices)}" if choices else ""
        raise ConfigError(f"{given} stands for no value at all{known or '; list some, as in seed=0,1,2'}")


@cache
def _packaged_loader() -> ConfigLoader:
    """What knows the packaged config groups, whatever Hydra did in this process before."""
    return ConfigLoaderImpl(create_config_search_path(str(CONF_DIR)))


class _ReadOnce(CachingConfigRepository):
    """Config files, each read and parsed once. Hydra copies its repository for every job; this one stays the
    same, and its content is copied instead, because overrides are written into it.
    """

    def __deepcopy__(self, memo: object) -> _ReadOnce:
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        return deepcopy(super().load_config(config_path))


def packaged_composer() -> Composer:
    """What composes many jobs quickly. Call inside ``packaged_configs``, whose files must not change
    meanwhile.
    """
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
