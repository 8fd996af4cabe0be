"""Which defenses of a config shape the network, and which only what the deployed target answers: the latter
train nothing, so a target under them is the one without, found under the same key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midre_exp.plan.answers import answer
from midre_exp.plan.config import Settings, trusted_packages
from midre_exp.plan.trust import named_class

#: What no defense is in a config (conf/defense/nodef.yaml).
NODEF = {"nodef": {"_target_": "defenses.NoDef"}}
#: The detail of a reconstruction that tells the confidence of the network alone, where the deployed target
#: answers something else.
NETWORK_CONFIDENCE = "network_confidence"
_WHITE_BOX = "white_box"  # midre_exp.threat, which is torch's


def trained_defense(settings: Settings) -> dict[str, Any]:
    """The nodes of ``defense`` by which the network is made: all but those that act at deployment alone; of
    no defense where none is left. Raises ConfigError for a class that is not allowed or no defense.
    """
    nodes: dict[str, Any] = settings["defense"]
    kept = {name: node for name, node in nodes.items() if "training" in _acts_at(node, settings)}
    return nodes if len(kept) == len(nodes) else kept or NODEF


def deployed_defense(settings: Settings) -> dict[str, Any]:
    """The nodes that change what the deployed target answers, in order. Raises as ``trained_defense``."""
    nodes = settings["defense"]
    return {name: node for name, node in nodes.items() if "deployment" in _acts_at(node, settings)}


def asks_answers(settings: Settings) -> bool:
    """Whether the run's attack gets to see what such defenses answer: not one that holds the network."""
    return bool(deployed_defense(settings)) and not holds_network(settings)


def holds_network(settings: Settings) -> bool:
    """Whether the run's attack sees the network itself (white box), whatever is answered to others."""
    target, trusted = settings["attack"]["_target_"], trusted_packages(settings)

    def look() -> bool:
        found: Any = named_class(target, "midre_exp.attack.Attack", trusted)
        return bool(found.threat.value == _WHITE_BOX)

    return answer(["holds_network", target], look, trusted)


def _acts_at(node: Mapping[str, Any], settings: Settings) -> list[str]:
    target, trusted = node["_target_"], trusted_packages(settings)

    def look() -> list[str]:
        found: Any = named_class(target, "midre_exp.defense.Defense", trusted)
        return sorted(found.acts_at)

    return answer(["acts_at", target], look, trusted)
