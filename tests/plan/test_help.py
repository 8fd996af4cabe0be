"""Every choice that is offered can be typed; everything in conf is read by somebody."""

from __future__ import annotations

import re

import pytest
from hydra import compose
from omegaconf import OmegaConf

from midre_exp.plan.compose import packaged_configs
from midre_exp.plan.config import CONF_DIR, config_files
from midre_exp.plan.help import GROUPS, help_text

#: Laid over a choice by a scale, part of how Hydra works here, or no config at all: nobody types them.
HIDDEN = (
    *("scale/data", "scale/target", "scale/prior", "scale/attack", "scale/metrics", "hydra/sweeper"),
    *("card/dataset", "card/weights"),
)


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


@pytest.mark.parametrize("at", range(8))
def test_every_choice_the_help_prints_composes(at):
    """In eight parts, so that they spread over workers."""
    with packaged_configs():
        for typed in printed()[at::8]:
            words = typed.split()
            config = compose("config", overrides=words, return_hydra_config=True)
            group, option = words[-1].split("=")
            assert config.hydra.runtime.choices[group] == ([option] if group == "defense" else option) or (
                group == "defense" and option in config.hydra.runtime.choices[group]
            ), typed
            OmegaConf.to_container(config.attack, resolve=True)


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
