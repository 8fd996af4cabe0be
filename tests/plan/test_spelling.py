"""One spelling of every method, wherever a reader sees it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.spelling import ATTACKS, NETWORKS, attack_name, network_name, with_names
from midre_exp.report.runs.defense_names import display_name, published_name
from midre_exp.stages.trained_with import label_before_a_run

ROOT = Path(__file__).parents[2]
DEFENSES = sorted(path.stem for path in (CONF_DIR / "defense").glob("*.yaml"))

#: Other spellings of what has one: of attacks and of defenses, outside of code.
VARIANTS = re.compile(
    r"\b(KED-?MI|Ked-MI|PLGMI|PLG_MI|PLG-Mi|RLBMI|BREPMI|IFGMI|IF_GMI|TLDMI|TL_DMI|TrapMID|DPSGD|ATAT|PPDGMI"
    r"|BIDO|LommaGMI|Lomma|Mirror-?MI)\b"
)


def test_every_choice_of_an_attack_and_a_network_has_a_name():
    for group, names in (("attack", ATTACKS), ("target", NETWORKS), ("evaluator", NETWORKS)):
        choices = {path.stem for path in (CONF_DIR / group).glob("*.yaml")}
        assert choices <= set(names), group


def test_a_sentence_gets_names_but_commands_keys_and_files_stay():
    told = "S19 (lomma_gmi on resnet18, x); gmi mean of 8"
    assert with_names(told) == "S19 (LOMMA+GMI on ResNet-18, x); GMI mean of 8"
    for kept in ("attack=ppa", "conf/attack/ppa.yaml", "table attacks_2026_kedmi", "PPA on ResNet-18"):
        assert with_names(kept) == kept


def test_the_papers_words_are_spelled_as_ours():
    for path in (CONF_DIR / "setup").glob("S*.yaml"):
        setup = yaml.safe_load(path.read_text())["setup"]
        assert attack_name(setup["attack"]) in ATTACKS.values()
        assert network_name(setup["target"]) in NETWORKS.values()
    assert attack_name("my_attack") == "my_attack" and network_name("Smooth") == "Smooth"
    assert (attack_name("PLGMI"), network_name("ResNet18")) == ("PLG-MI", "ResNet-18")


@pytest.mark.parametrize("choice", DEFENSES)
def test_a_defense_has_one_name_in_tables_and_figures(choice):
    """Its label, of tables, begins with its name in figures and claims."""
    with packaged_configs():
        settings = settings_of([f"defense={choice}"])
    name = display_name(published_name(settings["defense"])).partition(" [")[0]
    name = re.sub(r" [\d.]+$", "", name)
    assert label_before_a_run(settings).startswith(name), name


def test_documents_and_titles_spell_no_method_otherwise():
    code = re.compile(r"\A---\n.*?\n---\n|```.*?```|`[^`\n]*`|\]\([^)]*\)|^    .*$", flags=re.S | re.M)
    texts = {
        path: code.sub("", path.read_text()) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    }
    for path in (ROOT / "midre_exp" / "report" / "conf").rglob("*.yaml"):
        found = yaml.safe_load(path.read_text())
        texts[path] = " ".join(str(found.get(key, "")) for key in ("title", "statement", "needs"))
    wrong = {(path.name, match[0]) for path, text in texts.items() for match in VARIANTS.finditer(text)}
    assert wrong == set()
