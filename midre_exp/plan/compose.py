"""Which jobs a list of overrides means, and the resolved settings of each.

Hydra takes a quarter of a second to compose a config, and the jobs of a sweep share most of theirs. So Hydra
composes once per distinct choice of groups, and of each defense once alone; the values of a job, such as
``seed=1``, are then laid over a copy and resolved (``resolve``; by OmegaConf what that does not know). A job
that starts composes with Hydra again and compares keys, so a difference could not go unnoticed.
"""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError
from midre_exp.plan.answers import answer
from midre_exp.plan.config import CONF_DIR, digest, own_configs, plain
from midre_exp.plan.jury import with_judges
from midre_exp.plan.loaded_once import loaded_once
from midre_exp.plan.overrides import as_meant, readable
from midre_exp.plan.paths import expand_paths
from midre_exp.plan.resolve import NotKnown, overridden, resolved
from midre_exp.plan.suite import expanded
from midre_exp.plan.unread import check_read
from midre_exp.plan.vary import DEFAULT, check_vary
from midre_exp.store.files import known_sha256

#: The group that depends on no other choice and on which no other choice depends; most jobs differ in it.
_INDEPENDENT = "defense"


@contextmanager
def packaged_configs() -> Iterator[None]:
    """Let ``hydra.compose`` read the packaged configs, whatever Hydra does in this process outside."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def settings_of(job: Sequence[str]) -> dict[str, Any]:
    """The resolved config of one job, as plain containers. Call inside ``packaged_configs``."""
    words = readable(job, sweeps=False)
    config = compose("config", overrides=words)
    check_read(config)
    return settings_of_config(config, words)


def settings_of_config(config: DictConfig, words: Sequence[str]) -> dict[str, Any]:
    """The resolved settings of a config that Hydra composed of these overrides. Call inside
    ``packaged_configs`` where it may be a suite of attacks.
    """
    if "members" in config.attack:
        return packaged_composer().settings(words)
    check_vary(config)
    settings: dict[str, Any] = expand_paths(plain(config))
    return with_judges(settings, words, settings_of)


class Composer:
    """Resolved settings of many jobs.

    ``compose`` is Hydra's: overrides to a config without the node ``hydra``; ``loader`` knows the groups;
    ``unresolved``: the same in plain containers, where that is at hand. What was composed is remembered, so
    use one composer for one sweep.
    """

    def __init__(
        self,
        compose: Callable[[list[str]], DictConfig],
        loader: ConfigLoader,
        unresolved: Callable[[list[str]], Any] | None = None,
    ):
        found = unresolved or (lambda choices: _unresolved(compose(choices)))
        self._compose = compose
        # pickled: copying so takes a fifth of the time of deepcopy
        self._plain = cache(lambda *choices: pickle.dumps(found(list(choices))))
        self._composed = cache(lambda *choices: pickle.dumps(_composed(self._plain(*choices))))
        self._alone = cache(lambda choice: pickle.dumps(found([choice])[_INDEPENDENT]))
        self._is_group = cache(lambda name: bool(loader.get_group_options(name)))
        parser = OverridesParser.create()
        self._parsed = cache(lambda word: parser.parse_overrides([word])[0])

    def settings(self, job: Sequence[str]) -> dict[str, Any]:
        """The resolved config of one job, as plain containers. Raises what Hydra raises, and ConfigError for
        missing values.
        """
        overrides = [self._parsed(word) for word in job]
        suite = self._suite(overrides)
        if suite is not None:
            words = [word for word, o in zip(job, overrides, strict=True) if not _is_of_attack(o)]
            return expanded(suite, words, self.settings)
        settings: dict[str, Any] = expand_paths(self._resolved(job, overrides))
        return with_judges(settings, job, self.settings)

    def _suite(self, overrides: Sequence[Override]) -> dict[str, Any] | None:
        """The suite of attacks that a job chooses, under its values; None where it chooses one attack."""
        parts = self._parts(overrides)
        node = pickle.loads(self._plain(*parts.choices)).get("attack")
        if not isinstance(node, dict) or "members" not in node:
            return None
        config = OmegaConf.create(node)
        OmegaConf.set_struct(config, True)
        for override in parts.values:
            key = override.key_or_group
            if key.startswith("attack."):
                try:
                    OmegaConf.update(config, key.removeprefix("attack."), override.value(), merge=True)
                except OmegaConfBaseException as error:
                    raise ConfigError(
                        f"{key} is no key of the suite attack={node['name']}; values of a member stand in "
                        "attack.members.NAME.overrides"
                    ) from error
        found: dict[str, Any] = plain(config)
        return found

    def _resolved(self, job: Sequence[str], overrides: Sequence[Override]) -> Any:
        config = None
        if all(map(_is_plain, overrides)):
            parts = self._parts(overrides)
            try:
                return _laid_over(parts, pickle.loads(self._plain(*parts.choices)), self._defense(parts))
            except NotKnown:
                config = self._merged(parts)
        config = self._compose(list(job)) if config is None else config
        check_vary(config)
        return plain(config)

    def _parts(self, overrides: Sequence[Override]) -> _Parts:
        """What the overrides of a job are."""
        choices: list[str] = []
        independent = None
        values: list[Override] = []
        for override in overrides:
            if override.key_or_group == _INDEPENDENT:
                independent = str(override.input_line)  # the last one wins
            elif self._is_group(override.key_or_group):
                choices.append(str(override.input_line))
            elif not override.key_or_group.startswith("hydra."):  # how jobs are launched is in no settings
                values.append(override)
        return _Parts(tuple(choices), independent, tuple(values))

    def _defense(self, parts: _Parts) -> Any:
        """The node that a job chooses for itself, unresolved; None: that of the composed config."""
        return None if parts.independent is None else pickle.loads(self._alone(parts.independent))

    def _merged(self, parts: _Parts) -> DictConfig | None:
        """The composed choices of groups under the values of a job, by OmegaConf; None where Hydra has to say
        what is wrong with a value.
        """
        config: DictConfig = pickle.loads(self._composed(*parts.choices))
        if parts.independent is not None:
            config[_INDEPENDENT] = self._defense(parts)
        try:
            for override in parts.values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return None
        return config


class _Parts(NamedTuple):
    """The overrides of a job: choices of groups, the choice that depends on no other, and values."""

    choices: tuple[str, ...]
    independent: str | None
    values: tuple[Override, ...]


def _laid_over(parts: _Parts, config: dict[str, Any], independent: Any) -> dict[str, Any]:
    """The values of a job over a plain unresolved config, resolved. Raises ``NotKnown``."""
    if independent is not None:
        config[_INDEPENDENT] = independent
    for override in parts.values:
        overridden(config, override.key_or_group, override.value())
    if config.get("vary") != list(DEFAULT):
        raise NotKnown("vary")  # which is checked in the config of OmegaConf's
    return resolved(config)


def _composed(pickled: bytes) -> DictConfig:
    """The config that Hydra made of pickled plain containers."""
    found = OmegaConf.create(pickle.loads(pickled))
    OmegaConf.set_struct(found, True)  # as Hydra's
    assert isinstance(found, DictConfig)
    return found


def _unresolved(config: DictConfig) -> Any:
    """Plain containers, interpolations as they are written."""
    return OmegaConf.to_container(config, resolve=False)


def packaged_composer() -> Composer:
    """A composer of the packaged configs. Call and use inside ``packaged_configs``."""
    configs, loader = _digest_of_configs(), GlobalHydra.instance().config_loader()
    files: dict[str, bytes] = {}

    def unresolved(overrides: list[str]) -> Any:
        def make() -> Any:
            with loaded_once(loader, files):
                return _unresolved(checked(compose("config", overrides)))

        return answer(["composed", configs, overrides], make, (), keep=_is_json)

    def composed(overrides: list[str]) -> DictConfig:
        return _composed(pickle.dumps(unresolved(overrides)))

    return Composer(composed, loader, unresolved)


def _digest_of_configs() -> str:
    """Of every file that a config may be composed of, the user's own too."""
    folders = [Path(folder) for folder in (CONF_DIR, own_configs()) if folder is not None]
    files = sorted(path for folder in folders for path in folder.rglob("*.yaml"))
    return digest([[str(path), known_sha256(path)] for path in files])


def _is_json(container: Any) -> bool:
    """Whether a config comes back from a file as it is: keys are texts, and values plain."""
    try:
        return bool(json.loads(json.dumps(container)) == container)
    except (TypeError, ValueError):
        return False


def checked(config: DictConfig) -> DictConfig:
    """A composed config, of which every key is read by something. Raises ConfigError."""
    check_read(config)
    return config


def _is_of_attack(override: Override) -> bool:
    """Whether an override chooses the attack or one of its values."""
    return override.key_or_group.split("@")[0].replace("/", ".").split(".")[0] == "attack"


def _is_plain(override: Override) -> bool:
    """Whether an override is ``KEY=VALUE`` or ``GROUP=CHOICE``; additions and deletions are left to Hydra."""
    return (
        override.type is OverrideType.CHANGE and override.package is None and not override.is_sweep_override()
    )


def expand(overrides: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The jobs of a sweep in the order Hydra would launch them: the product of all swept overrides. A later
    override of a key wins.

    ``loader`` finds the choices of ``GROUP=glob(...)``, None: among the packaged configs. Raises ConfigError
    for a sweep without a list of values and for one that none fits, HydraException for text that is no
    override.
    """
    if loader is None:
        with packaged_configs():
            return expand(overrides, GlobalHydra.instance().config_loader())
    values: dict[str, list[str]] = {}
    parser = OverridesParser.create(config_loader=loader)
    for override in parser.parse_overrides(readable(overrides, sweeps=True)):
        key = override.get_key_element()
        swept = (
            _swept_values(override, loader)
            if override.is_sweep_override()
            else [override.get_value_element_as_str()]
        )
        values[key] = [as_meant(f"{key}={value}") for value in swept]
    return [list(job) for job in itertools.product(*values.values())]


def _swept_values(override: Override, loader: ConfigLoader) -> list[str]:
    """The values of a sweep, one by one. Raises ConfigError when it has none, or they cannot be listed."""
    key, given = override.get_key_element(), override.input_line
    if key.startswith("hydra"):
        raise ConfigError(f"{key} cannot be swept: all jobs of a sweep share one launcher")
    if key == "jury":
        raise ConfigError(
            f"{given} would judge one run by several juries, of which its record tells one; name all judges "
            "in one list, jury=[NAME,NAME]"
        )
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{given} names no values that could be tried one by one; list them as {key}=A,B or give "
            "range(START,STOP,STEP)"
        )
    try:
        values = list(override.sweep_string_iterator())
    except (ValueError, HydraException) as error:  # a range whose step is zero
        raise ConfigError(f"{given} cannot be listed value by value: {error}") from error
    if not values:
        choices = loader.get_group_options(override.key_or_group)
        known = f"; choices of {override.key_or_group}: {', '.join(choices)}" if choices else ""
        raise ConfigError(f"{given} stands for no value at all{known or '; list some, as in seed=0,1,2'}")
    return values
