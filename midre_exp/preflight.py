"""Makes what a run is going to need once before anything is trained, so that a mistake in a later part is
told at once.

Networks are made without memory for their weights. What only images or weights can show, the stages find out
themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import hydra.utils
import torch

from midre_exp.attack import build_attack
from midre_exp.data.base import Dataset
from midre_exp.errors import CheckpointError, ConfigError, UserError
from midre_exp.plan.config import build, check_targets, without
from midre_exp.plan.digests import WEIGHT_FILES
from midre_exp.plan.keys import Plan, uses_target
from midre_exp.store.store import Store

Trusted = tuple[str, ...]


def rehearse(
    settings: Mapping[str, Any],
    plan: Plan,
    store: Store,
    private: Dataset,
    undefended: Any,
    trusted: Trusted = (),
) -> None:
    """Raise UserError for a part that could not be made: attack, prior, surrogates, evaluator, metrics, each
    unless it is in the store; and when ``private`` has fewer identities than are to be attacked.

    ``undefended``: the composer's result without defenses. Of the target, which is the first to be made, only
    the size of its images is looked at.
    """
    missing = {name for name, stage in plan.stages.items() if not store.peek(name, stage.key)}
    attack, target, evaluator = settings["attack"], settings["target"], settings["evaluator"]
    build_attack(attack, trusted)
    classes = attack["identities"]
    if "target" in missing:
        identities = private.num_identities()
        if identities is not None and classes > identities:
            raise ConfigError(
                f"attack.identities={classes} exceeds the {identities} private identities of the data; use attack.identities={identities} or fewer"
            )
        check_size("target", target, int(settings["resolution"]), "resolution", undefended, trusted)
    if "prior" in missing:
        check_prior(attack["prior"], classes, trusted)
    if "surrogates" in missing:
        check_surrogates(attack["surrogates"], classes, trusted)
    if "evaluator" in missing:
        check_classifier("evaluator", evaluator, undefended, classes, trusted)
        pixels = int(evaluator["resolution"])
        check_size("evaluator", evaluator, pixels, "evaluator.resolution", undefended, trusted)
    if "metrics" in missing:
        check_metrics(settings["metrics"], trusted)


def check_prior(node: Mapping[str, Any], classes: int, trusted: Trusted = ()) -> None:
    """Raise UserError for a node of conf/attack/prior that makes no prior for a target of ``classes`` classes."""
    from midre_exp.priors.base import initial_prior

    _check_files("attack.prior", node)
    if isinstance(
        node.get("pretrained"), str
    ):  # a network of hundreds of megabytes, which would be read here
        own = {"num_classes": classes} if uses_target(node) else {}
        _check_arguments(without(node, "seed", "name"), own, trusted)
    else:
        _make_once(lambda: initial_prior(node, trusted, num_classes=classes))


def check_surrogates(node: Mapping[str, Any], classes: int, trusted: Trusted = ()) -> None:
    """Raise UserError for a node of conf/attack/surrogates that makes none for a target of ``classes`` classes."""
    from midre_exp.surrogates.base import initial_surrogates

    _check_files("attack.surrogates", node)
    _make_once(lambda: initial_surrogates(node, classes, trusted))


def check_classifier(
    name: str, node: Mapping[str, Any], defense: Any, classes: int, trusted: Trusted = ()
) -> None:
    """Raise UserError for a node of conf/target, in the config as ``name``, that makes no classifier or whose
    recipe trains none.
    """
    from midre_exp.targets.assemble import assemble
    from midre_exp.targets.training.module import learning_rates
    from midre_exp.targets.training.train import checked_recipe

    _check_files(name, without(node, "model", "recipe"))
    _make_once(lambda: assemble(node, classes, defense, seed=0, trusted=trusted))
    if node["checkpoint"] is not None:  # nothing is trained
        return
    recipe = checked_recipe(defense, node["recipe"], place=f"{name}.")
    for step in recipe["augment"]:
        build(step, trusted=trusted)
    learning_rates(recipe, trusted=trusted)


def check_size(
    name: str, node: Mapping[str, Any], pixels: int, key: str, defense: Any, trusted: Trusted = ()
) -> None:
    """Raise ConfigError when images of ``pixels``, which the config has as ``key``, do not go through the
    classifier of a node.
    """
    from midre_exp.targets.assemble import assemble

    def look() -> None:
        model = assemble(node, 2, defense, seed=0, trusted=trusted).eval()
        with torch.no_grad():
            model(torch.zeros(1, 3, pixels, pixels))

    try:
        with torch.device("meta"):  # sizes alone
            look()
    except Exception:  # perhaps of an operation that needs memory: for real, then, which has the last word
        try:
            look()
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(
                f"{name} {node['name']} cannot take images of {pixels} px ({reason}); choose another {key} or another {name}"
            ) from error


def check_metrics(node: Mapping[str, Any], trusted: Trusted = ()) -> None:
    """Raise UserError for a node of conf/metrics with a step or a metric that cannot be made. Weights of
    metrics may be missing.
    """
    for step in node["image_to_evaluator"]:
        build(step, trusted=trusted)
    for metric in node["measure"].values():
        if metric is not None:
            _make_once(partial(build, metric, trusted=trusted))


def _make_once(make: Callable[[], object]) -> None:
    """Call ``make`` without memory for its tensors; where that fails, once more as it will be called, which
    has the last word.
    """
    try:
        with torch.device("meta"):
            make()
    except UserError:
        make()


def _check_files(path: str, node: Any) -> None:
    """Raise CheckpointError for a value that names a weight file which is not there."""
    for key, value in _texts(path, node):
        if value.endswith(WEIGHT_FILES) and not Path(value).expanduser().is_file():
            raise CheckpointError(f"{key}={value} is no file; correct the path, or use null for none")


def _texts(path: str, node: Any) -> Iterator[tuple[str, str]]:
    """Every text with its key."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(f"{path}.{key}", value)


def _check_arguments(node: Mapping[str, Any], own: Mapping[str, Any], trusted: Trusted) -> None:
    """Raise ConfigError for a node whose class takes other arguments than those, without making one."""
    check_targets(node, trusted)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    try:
        inspect.signature(hydra.utils.get_class(node["_target_"])).bind(**given, **own)
    except TypeError as error:
        raise ConfigError(f"cannot build {node['_target_']}: {error}") from error
