"""Promises of the documentation that can be checked cheaply: pages, links, commands, code, words."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
import yaml

from docs import methods
from midre_exp.cards.table import table
from midre_exp.data.base import ImageSet
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import OWN_CONFIGS, build
from midre_exp.report.definitions import definitions, load_table
from midre_exp.report.runs import controls
from midre_exp.report.tables import comparison, leakage, setups, worst_case
from midre_exp.run import run
from midre_exp.targets.base import Output
from midre_exp.targets.training.batch import Batch, TrainingProgress

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "results/README.md"))])
TEXT = {path: path.read_text() for path in PAGES}
METHODS = [path for kind in methods.KINDS for path in methods.pages(kind)]


def block(page: str, language: str, name: str) -> str:
    """The block of a page whose first line is a comment that ends in ``name``."""
    found = re.findall(rf"```{language}\n(# [\w/]*{name}\n.*?)```", (DOCS / page).read_text(), re.S)
    (text,) = found
    return str(text)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|^(?: {4}.*\n)+|`[^`\n]*`", "", text, flags=re.M | re.S)


def filled(page: Path) -> str:
    """A page of a method as the site has it."""
    return methods.page(TEXT[page].split("---\n", 2)[2], methods.front_matter(TEXT[page]), page.parent.name)


def anchors(text: str) -> set[str]:
    """What the site calls the headings of a page (Python-Markdown's slugs)."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", without_code(TEXT[page])):
        if "://" in link:
            continue
        target = Path(os.path.normpath(page.parent / link)) if link else page
        assert target.exists(), f"{link} does not exist"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link} has no heading #{anchor}"


def test_every_page_stands_in_the_navigation_once():
    def listed(node):
        if isinstance(node, str):
            return [node]
        return [page for part in (node if isinstance(node, list) else node.values()) for page in listed(part)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    found = listed(site["nav"])
    assert len(found) == len(set(found))
    beside = {line.strip("/") for line in site["not_in_nav"].split()}
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert pages - beside <= set(found), "name them in the nav of mkdocs.yml"


@pytest.mark.parametrize("kind", methods.KINDS)
def test_every_choice_of_conf_has_its_page(kind):
    group = kind.removesuffix("s")
    told = [
        (meta.get("group", group), name) for meta in methods.pages(kind).values() for name in meta["choices"]
    ]
    groups = {group, *(where for where, _ in told)}
    there = [(where, path.stem) for where in groups for path in (ROOT / "conf" / where).glob("*.yaml")]
    assert sorted(told) == sorted(there), f"docs/{kind}/NAME.md names its choices in its front matter"


@pytest.mark.parametrize("page", METHODS, ids=lambda path: path.stem)
def test_a_page_of_a_method_has_its_parts_and_names_what_exists(page):
    kind = page.parent.name
    text = TEXT[page]
    meta = methods.front_matter(text)
    assert [*re.findall(r"^## (.*)$", text, re.M)] == [
        "Idea",
        "Formula",
        "What differs from the released code",
    ]
    assert meta["sees" if kind == "attacks" else "acts"]
    for file in meta["files"]:
        assert (ROOT / file).exists(), file
    for name in meta["objects"]:
        module, _, cls = name.rpartition(".")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert cls in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}, name
    for choice in meta["choices"]:
        assert (
            ROOT / "conf" / meta.get("group", kind[:-1]) / f"{choice}.yaml"
        ).read_text().strip() in filled(page)


def test_values_by_scale_are_those_of_the_scale():
    text = filled(DOCS / "attacks" / "gmi.md")
    assert "```bibtex\n@inproceedings{zhang2020" in text
    assert "[Zhang et al., CVPR 2020](https://arxiv.org/abs/1911.07135)" in text


def test_the_table_of_data_sets_is_that_of_the_cards():
    assert table() in TEXT[DOCS / "data.md"], f"put this into docs/data.md:\n{table()}"


def test_the_glossary_has_every_column():
    columns = [name for _, name, *_ in (*comparison.COLUMNS, *controls.COLUMNS, *leakage.COLUMNS)]
    columns += ["gain", "n", "seeds", "failed", "Δ", *setups.DESCRIPTION[2:3], "certainty"]
    columns += [name.replace("_", " ") for name in worst_case.WORST[::3]]
    glossary = TEXT[DOCS / "glossary.md"].split("## Words")[0]
    terms = {
        term
        for cell in re.findall(r"^\| \*\*(.*?)\*\*", glossary, re.M)
        for term in [cell, *cell.split(", ")]
    }
    terms |= {"to", "TAR@FAR 1e-3"}  # said with the column before
    assert sorted(set(columns) - terms) == []


def commands(pattern: str) -> list[str]:
    text = "\n".join(TEXT.values()).replace("\\\n", " ")  # one command over two lines
    lines = "\n".join(re.findall(r"^ {4}.*$", text, re.M))
    return sorted({found.strip() for found in re.findall(pattern, lines, re.M)})


def told_on(page: str) -> list[str]:
    found = re.findall(r"^ {4}python -m midre_exp ((?!diagnose)[^#\n]+)", TEXT[DOCS / page], re.M)
    return [text.strip() for text in found]


@pytest.mark.parametrize("command", [*told_on("getting_started.md"), *told_on("commands.md")])
def test_every_command_composes(command):
    words = [word.replace("PATH", "x") for word in shlex.split(command) if not word.startswith("-")]
    single = [re.sub(r"=([\w/]+),.*", r"=\1", word) for word in words if not word.startswith("hydra")]
    with packaged_configs():
        assert settings_of(single)["scale"] == "mini"


def test_every_table_and_figure_named_exists():
    names = {
        word
        for found in commands(r"midre[_-]exp(?:\.| )report ([a-z0-9_ ]+?)(?: [a-z_./]+=|  |$)")
        for word in found.split()
    }
    known = {name for kind in ("table", "figure") for name in definitions(kind)}
    special = {"claims", "summary", "workspace", "wandb", "paper", "site", "runs", "forest"}
    special |= {"mine", "my_table"}
    assert names - known - special == set()
    assert len(names & known) > 8


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    everything = "\n".join(TEXT.values())
    for target in set(re.findall(r"(?:^ {4}|`)make ([a-z][\w-]*)", everything, re.M)):
        assert (
            re.search(rf"^([\w-]+ )*{target}( [\w-]+)*:", makefile, re.M)
            or target in makefile.split(".DEFAULT")[0]
        ), target


def test_the_defense_of_the_tutorial_works_as_printed(tmp_path, monkeypatch):
    """Its class, its yaml and its table, in a folder of one's own."""
    for name in ("my_conf/defense/label_smoothing.yaml", "my_conf/table/mine.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block("own_defense.md", "yaml", Path(name).name))
    (tmp_path / "my_defense.py").write_text(block("own_defense.md", "python", "my_defense.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path / "my_conf"))
    node = yaml.safe_load((tmp_path / "my_conf/defense/label_smoothing.yaml").read_text())["label_smoothing"]
    defense = build(node, trusted=["my_defense"])
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    batch = Batch(torch.zeros(4, 3, 8, 8), labels, torch.arange(4))
    loss = defense.base_loss(Output(logits, logits), batch, TrainingProgress(0, 1))
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    (sweep,) = load_table("mine").sweeps
    assert sweep[2] == "defense=nodef,midre,label_smoothing"
    attacks = sweep[1].removeprefix("attack=").split(",")
    assert len(attacks) == 3 and all((ROOT / f"conf/attack/{attack}.yaml").exists() for attack in attacks)
    sys.modules.pop("my_defense")


def test_the_attack_of_the_page_works_as_printed(stocked, tmp_path, monkeypatch, tiny):
    (tmp_path / "ascent.py").write_text(block("own_attack.md", "python", "ascent.py"))
    monkeypatch.syspath_prepend(tmp_path)
    node = yaml.safe_load(block("own_attack.md", "yaml", "ascent.yaml"))
    assert node.pop("defaults") == [{"prior": "gmi"}, "_self_"]
    settings = tiny("runtime.trusted_packages=[ascent]")
    kept = {name: settings["attack"][name] for name in ("prior", "identities", "restarts", "shard")}
    settings["attack"] = {**node, **kept, "_target_": "ascent.Ascent", "steps": 5}
    record = json.loads(run(settings).read_text())
    assert record["attack"] == "ascent"
    assert record["queries"] == 5 * kept["identities"] * kept["restarts"]
    sys.modules.pop("ascent")


def test_the_program_of_the_page_attacks_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 10)

        def forward(self, images):
            return self.layer(images.mean((2, 3)))

    text = re.sub(r"steps=\d+", "steps=2", block("own_model.md", "python", "own_network.py"))
    assert len(text.splitlines()) <= 18
    monkeypatch.chdir(tmp_path)
    images = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    public = ImageSet(images, torch.zeros(32, dtype=torch.long), ("anybody",))
    names = {"network": Network(), "evaluator": Network(), "public": public}
    exec(compile(text, "own_network.py", "exec"), names)
    assert names["victim"].queries == 2 * len(names["found"].images) == 2 * 10 * 5
    assert capsys.readouterr().out.startswith("attack accuracy ")


def test_the_program_of_the_page_attacks_the_zoo(capsys):
    text = block("sharing.md", "python", "attack_the_zoo.py")
    assert "identities=10)" in text
    exec(compile(text.replace("identities=10)", "identities=2, steps=2, milestones=[])"), "page", "exec"), {})
    assert re.fullmatch(r"attack accuracy [\d.]+ %\n", capsys.readouterr().out)
