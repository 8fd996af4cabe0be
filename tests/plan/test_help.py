"""Every choice that is offered can be typed; everything in conf is read by somebody."""

from __future__ import annotations

import re
from functools import cache

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midre_exp.plan.compose import packaged_configs
from midre_exp.plan.config import CONF_DIR, config_files
from midre_exp.plan.help import GROUPS, help_text
from midre_exp.plan.suite import single_attacks

#: Laid over a choice by a scale, part of how Hydra works here, or no config at all: nobody types them.
HIDDEN = (
    *("scale/data", "scale/target", "scale/prior", "scale/attack", "scale/metrics", "hydra/sweeper"),
    *("card/dataset", "card/weights"),
)


@cache
def printed() -> list[str]:
    """Every ``GROUP=OPTION`` of the help, as it is typed."""
    lines = re.findall(r"^  (\S[^:]*): (.+)$", help_text().partition("Any value below")[0], re.M)
    return [f"{group}={option}" for group, options in lines for option in options.split(", ")]


def test_the_help_offers_every_file_of_conf_that_a_user_may_choose():
    offered = {typed.split()[-1].partition("@")[0].partition("=")[0] for typed in printed()}
    folders = {str(path.parent.relative_to(CONF_DIR)) for path in CONF_DIR.rglob("*.yaml")} - {"."}
    assert folders - offered == set(HIDDEN)
    for group in GROUPS:
        folder = group.split()[-1].partition("@")[0]
        if not folder.startswith("hydra"):
            options = {text.rpartition("=")[2] for text in printed() if text.rpartition("=")[0] == group}
            assert options == set(config_files(folder)), group


def test_every_choice_the_help_prints_composes():
    """A choice of every group at once, then the next of every group, until all were had."""
    groups: dict[tuple[str, ...], dict[str, list[str]]] = {}  # by what a choice needs beside it
    for typed in printed():
        *needed, choice = typed.split()
        group, _, option = choice.partition("=")
        if group == "attack" and option not in single_attacks():
            needed = [choice]  # a suite has no prior of its own to choose
        groups.setdefault(tuple(needed), {}).setdefault(group, []).append(option)
    for needed, options in groups.items():
        for at in range(max(map(len, options.values()))):
            chosen = {group: every[at % len(every)] for group, every in options.items()}
            words = [*needed, *(f"{group}={option}" for group, option in chosen.items())]
            composes(words, chosen)


def composes(words: list[str], chosen: dict[str, str]) -> None:
    with packaged_configs():
        try:
            config = compose("config", overrides=words, return_hydra_config=True)
            OmegaConf.to_container(config.attack, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            pytest.fail(f"{' '.join(words)}: {error}")
    for group, option in chosen.items():
        found = config.hydra.runtime.choices[group]
        assert option in found if group == "defense" else found == option, words


def test_every_overlay_of_a_scale_belongs_to_a_choice_or_is_part_of_one_that_does():
    for folder in HIDDEN[:3]:
        overlays = config_files(folder)
        parts = {name for path in overlays.values() for name in OmegaConf.load(path).get("defaults", ())}
        for name in overlays.keys() - parts:
            scale, _, choice = name.partition("_")
            assert scale in config_files("scale"), name
            group = folder.removeprefix("scale/").replace("prior", "attack/prior")
            assert choice in config_files(group), name


def test_the_help_lists_the_keys_of_what_is_chosen():
    assert "identity_weight" in help_text() and "a_h" in help_text(["defense=midre"])
