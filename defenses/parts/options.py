"""What several defenses demand of their options."""

from __future__ import annotations

from collections.abc import Collection

from midre_exp.errors import ConfigError


def check_choice(key: str, value: object, accepted: Collection[str]) -> None:
    """Raise ConfigError unless ``value`` of ``defense.<key>`` is one of ``accepted``."""
    if value not in tuple(accepted):
        raise ConfigError(f"defense.{key}={value} is unknown; use one of {', '.join(accepted)}")


def check_flag(key: str, value: object) -> None:
    """Raise ConfigError unless ``value`` of ``defense.<key>`` is true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"defense.{key}={value} must be true or false")


def check_factor(key: str, value: object) -> None:
    """Raise ConfigError unless ``value`` of ``defense.<key>``, a factor of shortcuts, lies in [0, 1]."""
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"defense.{key}={value} must be a number from 0 to 1; 1 is the plain network")
