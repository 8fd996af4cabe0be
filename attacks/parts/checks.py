"""The checks that many attacks make of their options; each raises ConfigError naming key, value and range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from midre_exp.errors import ConfigError


def at_least_one(**counts: int | None) -> None:
    """Counts are at least 1; None is no limit."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"attack.{name}={value} must be at least 1")


def above_zero(**sizes: float) -> None:
    """Sizes are above 0 and numbers."""
    for name, value in sizes.items():
        if not value > 0:
            raise ConfigError(f"attack.{name}={value} must be above 0")


def in_unit_interval(**shares: float) -> None:
    """Shares and probabilities are from 0 to 1."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"attack.{name}={value} must lie in [0, 1]")


def clip_or_none(clip: float | None) -> None:
    """A clamp to [-clip, clip], or none."""
    if clip is not None and not clip > 0:
        raise ConfigError(f"attack.clip={clip} must be positive; use null for no clamp")


def adam_betas(betas: Sequence[float]) -> tuple[float, float]:
    """Adam's two decay rates."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"attack.betas={list(betas)} must be two numbers from 0 to below 1")
    return betas[0], betas[1]


def one_of(key: str, value: object, literal: object) -> None:
    """A word of a ``Literal`` type; ``key`` as a user writes it, e.g. ``attack.keep``."""
    words = get_args(literal)
    if value not in words:
        known = " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"
        raise ConfigError(f"{key}={value} is unknown; use {known}")
