"""Building a target or an evaluator by the name of its config, for notebooks, benchmarks and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from midre_exp.errors import ConfigError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import build, config_files
from midre_exp.plan.trust import named_class
from midre_exp.targets.base import Classifier
from midre_exp.weights.state_dict import class_count, load_checkpoint

__all__ = ["build_target", "load_checkpoint"]


def build_target(
    name: str,
    num_classes: int | None = None,
    *,
    scale: str = "paper",
    checkpoint: str | Path | None = None,
    **options: Any,
) -> Classifier:
    """The classifier of ``conf/target/<name>.yaml`` (or of conf/evaluator) for ``num_classes`` classes, with
    random weights.

    ``scale``: ``paper`` builds the published size, ``mini`` the reduced one for 32 px. With ``checkpoint``
    its weights are that file's, loaded strictly as by ``load_checkpoint``, it is in eval mode, and the
    classes are counted in the file unless given. ``options`` override the ``model`` node of the yaml. Raises
    ConfigError for an unknown name or option, listing the known ones, for values the architecture refuses
    and when nothing tells the number of classes, and CheckpointError for a file that cannot be read or does
    not fit.
    """
    groups = {group: config_files(group) for group in ("target", "evaluator")}
    group = next((group for group, files in groups.items() if name in files), None)
    if group is None:
        raise ConfigError(f"target {name} is unknown; known targets: {', '.join(groups['target'])}")
    if num_classes is None and checkpoint is None:
        raise ConfigError(
            f"target {name} needs num_classes, or a checkpoint to count them in; give one of the two"
        )
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes={num_classes} must be at least 1")
    node = choice(group, name, scale=scale).get("model")
    if node is None:
        raise ConfigError(f"{groups[group][name]} has no model node; add one with a _target_")
    accepted = sorted(key for key in node if key != "_target_")
    if unknown := sorted(set(options) - set(accepted)):
        raise ConfigError(f"target {name} has no option {', '.join(unknown)}; it has: {', '.join(accepted)}")
    if num_classes is None and checkpoint is not None:
        found: Any = named_class(node["_target_"], Classifier)
        num_classes = class_count(checkpoint, found.head_name)
    model = build({**node, **options}, num_classes=num_classes, kind=Classifier)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
        model.eval()
    return model
