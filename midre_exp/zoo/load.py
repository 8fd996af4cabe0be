"""A file of the zoo as a network: built from our own yaml of that name, with the plain values of its card.

A card never says what is built. It names a choice of conf/target and conf/defense, or of conf/attack/prior;
the classes are those of the yaml here, and a card that names other ones is refused. Weights load strictly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf
from torch import Tensor, nn

from midre_exp.defense import compose_defenses
from midre_exp.errors import CheckpointError
from midre_exp.plan.choice import choice
from midre_exp.plan.config import config_files
from midre_exp.plan.public_names import by_public_name
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.weights.state_dict import require_usable
from midre_exp.zoo.card import CLASSIFIERS, PRIOR
from midre_exp.zoo.export import published_sha256
from midre_exp.zoo.files import Card, ZooFile, find, read_file

M = TypeVar("M", bound=nn.Module)
_DEEPEST = 8
_PLAIN = (str, int, float, bool, type(None))


def load_target(name: str | Path, *, trusted: tuple[str, ...] = ()) -> Classifier:
    """The classifier of a file of the zoo, in the form that is attacked, in eval mode on the CPU.

    ``name``: ``zoo/NAME``, a file below the folder ``zoo`` here or in the checkout, or any path, with the
    ending ``.safetensors`` or without. The file is verified first, and compared with ``zoo.json`` where that
    lies beside it. ``trusted``: packages of your own, where the network or its defense is from one. Raises
    CheckpointError naming the file and what is wrong with it, ConfigError for values that the classes here
    do not take.
    """
    path = find(name)
    file = _listed(path)
    if file.card["stage"] not in CLASSIFIERS:
        raise CheckpointError(f"{path} holds what the stage {file.card['stage']} made, no classifier")
    nodes = defense_nodes(file.card, path)
    defense = compose_defenses(nodes, trusted)
    settings = {"model": model_node(file.card, path)}
    model = _with_weights(
        lambda: assemble(settings, file.card["classes"], defense, seed=0, trusted=trusted), file, path
    )
    defense.on_inference(model)
    return model.eval()


def load_prior(name: str | Path, *, trusted: tuple[str, ...] = ()) -> Prior:
    """The trained prior of a file of the zoo, on the CPU, ready to attack with; arguments and errors as of
    ``load_target``.
    """
    path = find(name)
    file = _listed(path)
    if file.card["stage"] != PRIOR:
        raise CheckpointError(f"{path} holds what the stage {file.card['stage']} made, no prior")
    node = file.card["prior"]
    known = config_files("attack/prior")
    if node["name"] not in known:
        raise CheckpointError(
            f"{path} is a prior {node['name']}, of which this program knows none: {', '.join(known)}"
        )
    ours: Any = OmegaConf.to_container(OmegaConf.load(known[node["name"]]), resolve=False)
    ours.pop("defaults", None)
    whole = _with_values(ours, node, "prior", path)
    prior = _with_weights(lambda: initial_prior(whole, trusted), file, path)
    prior.freeze()
    return prior


def _listed(path: Path) -> ZooFile:
    """A verified file that is the one its index lists, where there is an index beside it."""
    file = read_file(path)
    if published_sha256(path) not in (None, file.sha256):
        raise CheckpointError(f"{path} is not the file that its zoo.json lists; get both again")
    return file


def _with_weights(make: Callable[[], M], file: ZooFile, path: Path) -> M:
    """What ``make`` builds, with the weights of a file, all of them and no other."""
    with torch.device("meta"):  # without memory, of which a card could ask for any amount
        expected = make().state_dict()
    given = {name: torch.from_numpy(value) for name, value in file.tensors.items()}
    if unlike := _unlike(expected, given):
        raise CheckpointError(f"{path} does not fit the network that its card tells of: {unlike}")
    state = {name: value.to(expected[name].dtype) for name, value in given.items()}
    require_usable(path, state)
    model = make()
    model.load_state_dict(state)
    return model


def _unlike(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """The first tensor in which a file differs from a network, in words; None where all fit."""
    for name in sorted({*expected, *given}):
        if name not in given or name not in expected:
            return f"{ascii(name)[1:-1][:80]} is in one of the two alone"
        ours, theirs = expected[name], given[name]
        if ours.shape != theirs.shape or ours.is_floating_point() != theirs.is_floating_point():
            return f"{name} is {theirs.dtype} {list(theirs.shape)} in the file, not {list(ours.shape)}"
    return None


def model_node(card: Card, path: Path) -> dict[str, Any]:
    """The node of the network: that of our yaml of its name, with the card's values."""
    groups = ("evaluator", "target") if card["stage"].startswith("evaluator") else ("target", "evaluator")
    for group in groups:
        if card["target"] in config_files(group):
            ours = _node(group, card["target"], "model")
            return _with_values(ours, card["model"], "model", path)
    known = ", ".join(config_files("target"))
    raise CheckpointError(
        f"{path} is of a network {card['target']}, of which this program knows none: {known}"
    )


def defense_nodes(card: Card, path: Path) -> dict[str, Any]:
    """The nodes of the defense it was trained with, in the same way; none for an evaluator."""
    if card["stage"] != "target":
        return {}
    said = card.get("defense")
    if not isinstance(said, Mapping):
        raise CheckpointError(
            f"{path} does not say which defense it was trained with; load it by target.checkpoint and "
            "target.trained_with"
        )
    found = {}
    for name, node in said.items():
        if name not in config_files("defense") or not isinstance(node, Mapping):
            raise CheckpointError(
                f"{path} was trained with a defense {ascii(name)[1:-1]}, which is not in conf/defense; use "
                "the version of midre-exp that made it, or --config-dir for one of your own"
            )
        found[name] = _with_values(_node("defense", name, name), node, f"defense.{name}", path)
    return found


def _node(group: str, name: str, key: str) -> dict[str, Any]:
    """A node of a yaml of ours, interpolations unresolved; composed where the yaml inherits it."""
    raw: Any = OmegaConf.to_container(OmegaConf.load(config_files(group)[name]), resolve=False)
    if isinstance(raw, dict) and isinstance(raw.get(key), dict) and "_target_" in raw[key]:
        node: dict[str, Any] = raw[key]
        return node
    try:
        composed: dict[str, Any] = choice(group, name)[key]
    except (HydraException, KeyError) as error:
        raise CheckpointError(f"conf/{group}/{name}.yaml has no node {key}; correct it") from error
    return composed


def _with_values(ours: Mapping[str, Any], said: Mapping[str, Any], place: str, path: Path) -> dict[str, Any]:
    """Our node with the plain values that a card gives for its keys. Raises CheckpointError for a class that
    is not ours, a key that we do not have, and a value that is not plain.
    """
    node = dict(by_public_name(ours))
    for key, value in by_public_name(said).items():
        here = f"{place}.{key}"
        if key not in node:
            raise CheckpointError(
                f"{path}: its card has a value for {ascii(here)[1:-1]}, which is no option here; use the "
                "version of midre-exp that made it"
            )
        if str(key).startswith("_"):
            if node[key] != value:
                raise CheckpointError(
                    f"{path}: its card wants {ascii(str(value))[1:-1][:80]} for {here}, and this program "
                    f"builds {node[key]}; nothing that a file names is built"
                )
        elif isinstance(node[key], Mapping) and isinstance(value, Mapping) and "_target_" in node[key]:
            node[key] = _with_values(node[key], value, here, path)
        elif not _is_plain(value):
            raise CheckpointError(f"{path}: its card has no plain value for {ascii(here)[1:-1]}")
        else:
            node[key] = value
    unresolved = [key for key, value in node.items() if isinstance(value, str) and "${" in value]
    if unresolved:
        raise CheckpointError(f"{path}: its card has no value for {place}.{unresolved[0]}; export it again")
    return node


def _is_plain(value: object, depth: int = 0) -> bool:
    """Text that is no interpolation, numbers, and lists and mappings of these without a class in them."""
    if isinstance(value, str):
        return "${" not in value
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return all(isinstance(k, str) and k[:1] != "_" and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)) and depth < _DEEPEST:
        return all(_is_plain(one, depth + 1) for one in value)
    return isinstance(value, _PLAIN)
