"""Building a target by the name of its config, for notebooks, benchmarks and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import build, config_files
from midre_exp.targets.base import Classifier
from midre_exp.weights.state_dict import class_count, load_checkpoint

__all__ = ["build_target", "load_checkpoint"]


def build_target(
    name: str, num_classes: int | None = None, *, checkpoint: str | Path | None = None, **options: Any
) -> Classifier:
    """The classifier of ``conf/target/<name>.yaml`` for ``num_classes`` classes, with random weights.

    With ``checkpoint`` its weights are that file's, loaded strictly as by ``load_checkpoint``, it is in eval
    mode, and the classes are counted in the file unless given. ``options`` override the ``model`` node of the
    yaml. Raises ConfigError for an unknown name or option, listing the known ones, for values the
    architecture refuses and when nothing tells the number of classes, and CheckpointError for a file that
    cannot be read or does not fit.
    """
    known = config_files("target")
    if name not in known:
        raise ConfigError(f"target {name} is unknown; known targets: {', '.join(known)}")
    if num_classes is None and checkpoint is None:
        raise ConfigError(
            f"target {name} needs num_classes, or a checkpoint to count them in; give one of the two"
        )
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes={num_classes} must be at least 1")
    node = OmegaConf.select(OmegaConf.load(known[name]), "model")
    if node is None:
        raise ConfigError(f"{known[name]} has no model node; add one with a _target_")
    accepted = sorted(key for key in node if key != "_target_")
    if unknown := sorted(set(options) - set(accepted)):
        raise ConfigError(f"target {name} has no option {', '.join(unknown)}; it has: {', '.join(accepted)}")
    if num_classes is None and checkpoint is not None:
        from hydra.utils import get_class  # slow; only needed here

        kind: type[Classifier] = get_class(node["_target_"])
        num_classes = class_count(checkpoint, kind.head_name)
    model: Classifier = build(node, num_classes=num_classes, **options)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
        model.eval()
    return model
