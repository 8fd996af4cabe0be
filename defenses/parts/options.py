"""What several defenses demand of their options."""

from __future__ import annotations

from collections.abc import Collection

from midre_exp.errors import ConfigError
from midre_exp.numerics import ROUNDING, Numerics


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


def require_resolution(numerics: Numerics, change: float, label: str) -> None:
    """Raise ConfigError when ``numerics`` round away a ``change`` of pixels in [0, 1] that the network has to
    notice while the defense ``label`` is trained; 0: none.
    """
    if 0 < 2 * change < ROUNDING[numerics.precision]:  # networks see [-1, 1]
        raise ConfigError(
            f"numerics.precision={numerics.precision} rounds away the changes of images by {change:.2g} that "
            f"{label} trains on; set numerics=strict"
        )
