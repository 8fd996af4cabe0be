"""RoLSS: the skip connections of the last stage are removed (Koh et al. 2024, "On the Vulnerability of Skip
Connections").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from defenses.parts.skip_connections import SkipDefense


class RoLSS(SkipDefense):
    """Removal of the last stage's skip connections, for the whole training. ``stages``: as in
    ``SkipDefense``.
    """

    name = "rolss"

    def __init__(
        self, *, target: str, stages: Sequence[str] | None, stages_by_target: Mapping[str, Sequence[str]]
    ):
        super().__init__(target=target, k=0.0, stages=stages, stages_by_target=stages_by_target)
