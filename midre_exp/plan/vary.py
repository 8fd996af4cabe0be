"""What a run's seed changes (``vary``): each word moves one random part of a run from the seed of run 0 to
that of this one; what is not listed stays as in run 0.

``training`` and ``attack`` are read by their stages (``seed_of``). The other seeds stand in the config, so
that keys see them: ``${varied:evaluator,1000}`` is 1000 in run 0, and 1000 + seed where the evaluator varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from omegaconf import DictConfig, OmegaConf

from midre_exp.errors import ConfigError

Word = Literal["training", "attack", "evaluator", "prior", "identities"]
WORDS: tuple[Word, ...] = get_args(Word)
#: What a seed changed before there was a choice.
DEFAULT: tuple[Word, ...] = ("training", "attack")
#: Where a config has the seed of what a word moves. ``attack.prior`` and ``attack.surrogates`` are both what
#: the attacker prepares.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "evaluator": ("evaluator.seed",),
    "prior": ("attack.prior.seed", "attack.surrogates.seed"),
    "identities": ("data.seed",),
}

#: Where a config says that it is given instead of drawn or trained.
_LOADED: Mapping[str, tuple[str, ...]] = {
    "evaluator": ("evaluator.checkpoint",),
    "prior": ("attack.prior.pretrained", "attack.prior.pretrained.generator"),
    "identities": ("data.private_identities",),
}


def seed_of(settings: Mapping[str, Any], word: str) -> int:
    """The seed of the training of the target, or of the attack."""
    return int(settings["seed"]) if word in varied(settings) else 0


def varied(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the seed of a config, of today or of a record, changes."""
    return tuple(config.get("vary", DEFAULT))


def with_seeds_of_run_0(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config with the evaluator, prior and data of run 0, which is what runs that differ in seed
    alone have in common.
    """
    members = config["attack"].get("members") if isinstance(config.get("attack"), Mapping) else None
    if members:  # a suite of attacks: what each has of its own
        alone = {name: {**config, **node["settings"]} for name, node in members.items()}
        first = {name: with_seeds_of_run_0(own) for name, own in alone.items()}
        nodes = {
            name: {**node, "settings": {key: first[name][key] for key in node["settings"]}}
            for name, node in members.items()
        }
        return {**next(iter(first.values())), "attack": {**config["attack"], "members": nodes}}
    words, seed = varied(config), config.get("seed", 0)
    found = dict(config)
    if "evaluator" in words:
        found["evaluator"] = _less(config["evaluator"], seed)
    if "prior" in words:
        parts = ("prior", "surrogates")
        found["attack"] = {
            name: _less(node, seed) if name in parts and isinstance(node, Mapping) else node
            for name, node in config["attack"].items()
        }
    if "identities" in words:
        found["data"] = {
            name: _less(node, seed) if isinstance(node, Mapping) else node - seed if name == "seed" else node
            for name, node in config["data"].items()
        }
    return found


def _less(node: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {name: value - seed if name == "seed" else value for name, value in node.items()}


def check_vary(config: DictConfig) -> None:
    """Raise ConfigError when ``vary`` is no list of known words, or names what the config holds fixed."""
    node = config.get("vary")
    words = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_list(node) else node
    unknown = [word for word in words if word not in WORDS] if isinstance(words, list) else [words]
    if unknown:
        shown = f"vary={unknown[0]} is no list" if not isinstance(words, list) else f"vary has {unknown[0]}"
        raise ConfigError(f"{shown}; give some of [{','.join(WORDS)}], such as [{','.join(DEFAULT)}]")
    assert isinstance(words, list)
    if len(set(words)) < len(words):
        raise ConfigError(f"vary=[{','.join(words)}] says a word twice; give each once")
    for word in words:
        if word in _PLACES:
            _check_place(config, word)


def _check_place(config: DictConfig, word: str) -> None:
    """What a word moves must be there, made here, and follow the seed."""
    without = f"leave {word} out of vary"
    for place in _LOADED[word]:
        value = OmegaConf.select(config, place, throw_on_missing=False)
        if value is not None and not OmegaConf.is_dict(value):
            raise ConfigError(f"vary={word} changes nothing where {place}={value} is given; {without}")
    found = False
    for place in _PLACES[word]:
        parent, _, name = place.rpartition(".")
        node = OmegaConf.select(config, parent)
        if node is None or name not in node:
            continue
        found = True
        text = str(OmegaConf.to_container(node, resolve=False)[name])  # type: ignore[index, call-overload]
        if f"varied:{word}" not in text:
            raise ConfigError(
                f"vary={word} changes nothing where {place}={text} is fixed; write "
                f"{place}='${{varied:{word},{text}}}', or {without}"
            )
    if not found:
        what = {"identities": f"data={config.data.name} has one set of private identities"}.get(
            word, f"this run has no {_PLACES[word][0]}"
        )
        raise ConfigError(f"vary={word}: {what}; {without}")


def register() -> None:
    """Let configs use ``${varied:WORD,SEED}``: SEED of run 0, moved by the run's where the word varies."""

    def moved(word: str, base: int, *, _root_: DictConfig) -> int:
        return int(base) + (int(_root_.seed) if word in (_root_.get("vary") or ()) else 0)

    OmegaConf.register_new_resolver("varied", moved, replace=True)
