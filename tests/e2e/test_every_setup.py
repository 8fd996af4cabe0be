"""Every setup is complete at every scale: its config composes, its parts can be built, its stages can be
planned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from midre_exp.attack import NOT_OPTIONS
from midre_exp.doctor.smoke import Ground, setup_names
from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs
from midre_exp.plan.config import build, without
from midre_exp.plan.keys import is_pretrained, uses_target
from midre_exp.stages import make_plan
from tests.conftest import STAGES

NAMES = setup_names()


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with packaged_configs():
        yield packaged_composer()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("smoke"))


@cache
def can_be_built(node: str) -> None:
    """Make a part from its node, as JSON, without memory for its weights: refuses values that do not fit
    together.
    """
    settings = json.loads(node)
    known = {"num_classes": 10} if settings.pop("classes") else {}
    with torch.device("meta"):
        build(settings, **known)


def build_parts(settings: dict[str, Any]) -> None:
    """Attack, prior, target and evaluator, each distinct one once."""
    attack, prior = settings["attack"], settings["attack"]["prior"]
    if isinstance(prior.get("pretrained"), str):  # a published file, which is not there
        prior = {**prior, "pretrained": None}
    parts = [
        (without(attack, *NOT_OPTIONS), False),
        (without(prior, "seed", "name"), uses_target(prior)),
        *((settings[part]["model"], True) for part in ("target", "evaluator")),
    ]
    for node, classes in parts:
        can_be_built(json.dumps({**node, "classes": classes}, sort_keys=True))


@pytest.mark.parametrize("scale", ["mini", "synth"])
@pytest.mark.parametrize("name", NAMES)
def test_a_setup_can_be_planned_on_synthetic_faces(composer: Composer, name: str, scale: str) -> None:
    settings = composer.settings([f"setup={name}", f"scale={scale}"])
    assert settings["setup"]["id"] == name
    assert settings["data"]["name"] == "synthfaces"
    assert not is_pretrained(settings["attack"]["prior"])  # nothing published is needed
    assert all(
        settings[part][file] is None for part in ("target", "evaluator") for file in ("weights", "checkpoint")
    )
    build_parts(settings)
    assert set(make_plan(settings).stages) - {"surrogates", "candidates"} == set(STAGES)


@pytest.mark.parametrize("name", NAMES)
def test_a_setup_can_be_planned_at_full_size_on_official_layouts(
    composer: Composer, ground: Ground, name: str
) -> None:
    build_parts(composer.settings([f"setup={name}", "scale=paper"]))
    settings = ground.settings(name, composer)
    assert settings["setup"]["id"] == name
    assert settings["data"]["name"] != "synthfaces"
    assert set(make_plan(settings).stages) - {"surrogates", "candidates"} == set(STAGES)
