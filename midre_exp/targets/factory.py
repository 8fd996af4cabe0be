"""Building a target by the name of its config, for notebooks, benchmarks and checks."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from midre_exp.config import CONF_DIR, build
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier


def build_target(name: str, num_classes: int, **options: Any) -> Classifier:
    """The classifier of ``conf/target/<name>.yaml`` for ``num_classes`` classes, with random weights.

    ``options`` override the ``model`` node of that file. Raises ConfigError for an unknown name or option,
    listing the known ones, and for values the architecture refuses.
    """
    folder = CONF_DIR / "target"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"target {name} is unknown; known targets: {', '.join(known)}")
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes} must be at least 1")
    node = OmegaConf.select(OmegaConf.load(folder / f"{name}.yaml"), "model")
    if node is None:
        raise ConfigError(f"{folder / name}.yaml has no model node; add one with a _target_")
    accepted = sorted(key for key in node if key != "_target_")
    if unknown := sorted(set(options) - set(accepted)):
        raise ConfigError(f"target {name} has no option {', '.join(unknown)}; it has: {', '.join(accepted)}")
    model: Classifier = build(node, num_classes=num_classes, **options)
    return model
