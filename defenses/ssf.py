"""SSF: the skip connections of the last stage are scaled down (Koh et al. 2024); RoLSS is its limit k = 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from defenses.parts.skip_connections import SkipDefense
from midre_exp.errors import ConfigError


class SSF(SkipDefense):
    """Skip connection scaling factor.

    ``k`` in [0, 1], a constant: None takes the entry of ``k_by_target`` for ``target``; 1 is no defense.
    ``stages``: as in ``SkipDefense``. Raises ConfigError for another k and for a target without one.
    """

    name = "ssf"

    def __init__(
        self,
        *,
        target: str,
        k: float | None,
        k_by_target: Mapping[str, float],
        stages: Sequence[str] | None,
        stages_by_target: Mapping[str, Sequence[str]],
    ):
        if k is None and target not in k_by_target:
            raise ConfigError(
                f"defense.ssf.k_by_target has no entry for {target}; set defense.ssf.k if the network has skip connections"
            )
        value = k_by_target[target] if k is None else k
        super().__init__(target=target, k=value, stages=stages, stages_by_target=stages_by_target)

    @property
    def label(self) -> str:
        """``SSF k``."""
        return f"SSF {self.k:g}"
