"""Attacks by name, as a notebook builds them."""

from __future__ import annotations

import pytest

from attacks import PPA, CrossEntropy, MaxMargin, Poincare, build_attack
from midre_exp.errors import ConfigError


def test_an_attack_by_name_has_the_values_of_its_yaml_under_a_scale():
    paper, mini = build_attack("ppa"), build_attack("ppa", scale="mini")
    assert isinstance(paper, PPA) and isinstance(mini, PPA)
    assert (paper.restarts, paper.kept, paper.search.size) == (16, 8, 2000)
    assert (mini.restarts, mini.kept, mini.search.size) == (4, 2, 500)


def test_options_are_laid_over_the_yaml_key_by_key_and_another_class_replaces_the_node():
    crossed = {"_target_": "attacks.CrossEntropy"}
    ppa = build_attack("ppa", scale="mini", steps=10, search={"size": 100}, identity_loss=crossed)
    assert (ppa.steps, ppa.search.size, ppa.search.psi) == (10, 100, 0.5)
    assert isinstance(ppa.identity_loss, CrossEntropy)
    assert isinstance(build_attack("ppa", identity_loss={"xi": 1e-3}).identity_loss, Poincare)
    loss = MaxMargin()
    assert build_attack("plgmi", identity_loss=loss).identity_loss is loss


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pqa", {}, "attack pqa is unknown; known attacks: brepmi, diffmi, gmi, .*, rlbmi"),
        ("ppa", {"stepps": 1}, "attack ppa has no option stepps; its options are .*, steps, view"),
        (
            "ppa",
            {"search": {"sise": 1}},
            r"attack ppa\.search has no option sise; its options are batch, .*size",
        ),
        ("gmi", {"prior": {}}, "attack gmi has no option prior"),
        ("gmi", {"steps": 0}, r"attack\.steps=0 must be at least 1"),
    ],
)
def test_unknown_names_and_options_are_refused_in_one_sentence(name, options, words):
    with pytest.raises(ConfigError, match=words):
        build_attack(name, **options)
