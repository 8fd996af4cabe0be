"""Hydra reads every yaml anew for each config that it composes, which is nearly half of its work. Here each
is read once for many.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.config_loader import ConfigLoader


@contextmanager
def loaded_once(loader: ConfigLoader, known: dict[str, bytes]) -> Iterator[None]:
    """Within, the loader takes from ``known`` what was read before, and adds to it what it reads."""
    place: Any = loader  # of Hydra's own kind, which alone there is
    own = place.repository
    place.repository = _Repository(own, known)
    try:
        yield
    finally:
        place.repository = own


class _Repository:
    """A repository of configs of Hydra's that reads each file once."""

    def __init__(self, own: Any, known: dict[str, bytes]) -> None:
        self._own, self._known = own, known

    def __deepcopy__(self, memo: dict[int, Any]) -> _Repository:
        """As Hydra makes for every config, with the same files."""
        return _Repository(copy.deepcopy(self._own, memo), self._known)

    def load_config(self, config_path: str) -> Any:
        """A copy of its own: merging changes what is merged."""
        if config_path not in self._known:
            self._known[config_path] = pickle.dumps(self._own.load_config(config_path=config_path))
        return pickle.loads(self._known[config_path])

    def initialize_sources(self, config_search_path: Any) -> None:
        """Another search path, where the same names mean other files."""
        self._own.initialize_sources(config_search_path)
        self._known = {}

    def get_schema_source(self) -> Any:
        return self._own.get_schema_source()

    def group_exists(self, config_path: str) -> bool:
        return bool(self._own.group_exists(config_path=config_path))

    def config_exists(self, config_path: str) -> bool:
        return bool(self._own.config_exists(config_path=config_path))

    def get_group_options(self, group_name: str, results_filter: Any = None) -> list[str]:
        found: list[str] = self._own.get_group_options(group_name, results_filter)
        return found

    def get_sources(self) -> Any:
        return self._own.get_sources()
