"""Works, what a config rests on, and both as BibTeX."""

from __future__ import annotations

import re
from pathlib import Path

import bibtexparser
import pytest
import yaml

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, OWN_CONFIGS
from midre_exp.references import bibtex, by_choice, citations, cited_by, references, short
from midre_exp.references.__main__ import main
from midre_exp.report.__main__ import main as report

ROOT = Path(__file__).parents[2]
#: Groups of references.yaml that are folders of conf: every choice there has its works, or says why none.
FOLDERS = {
    "attack": "attack",
    "defense": "defense",
    "target": "target",
    "attack.prior": "attack/prior",
    "attack.expectation": "attack/expectation",
}


@pytest.mark.parametrize("group", FOLDERS)
def test_every_choice_has_its_works_or_says_why_there_are_none(group):
    choices = {path.stem for path in (CONF_DIR / FOLDERS[group]).glob("*.yaml")}
    assert choices <= set(references().choices[group])


@pytest.mark.parametrize(
    ("group", "pattern"),
    [
        ("data", "data/dataset/*.yaml"),
        ("metrics.measure", "metrics/*.yaml"),
        ("diagnostics.measure", "diagnostics/*"),
    ],
)
def test_every_class_of_data_and_measures_has_its_works_or_says_why_there_are_none(group, pattern):
    package = {"data": "data", "metrics.measure": "metrics", "diagnostics.measure": "diagnostics"}[group]
    text = "".join(path.read_text() for path in CONF_DIR.glob(pattern))
    named = set(re.findall(rf"_target_: midre_exp\.{package}\.(\w+)\s", text))
    assert named and named <= set(references().choices[group])


def test_every_work_is_cited_somewhere():
    cited = {
        key
        for group in references().choices.values()
        for keys in group.values()
        if not isinstance(keys, str)
        for key in keys
    }
    assert set(references().works) - cited == {"midre_exp"}


def test_the_bibliography_parses_and_keeps_every_field():
    library = bibtexparser.parse_string("\n\n".join(map(bibtex, references().works.values())))
    assert not library.failed_blocks
    assert {entry.key for entry in library.entries} == set(references().works)
    for entry in library.entries:
        fields = {field.key: field.value for field in entry.fields}
        work = references().works[entry.key]
        assert fields["year"] == str(work.year) and fields["author"] == work.author.replace("&", r"\&")
        where = {
            "article": "journal",
            "inproceedings": "booktitle",
            "incollection": "booktitle",
            "techreport": "institution",
        }
        assert where.get(entry.entry_type, "title") in fields, entry.key
        if entry.entry_type == "misc" and entry.key != "midre_exp":
            assert re.fullmatch(r"\d{4}\.\d{5}", fields["eprint"]) and fields["archiveprefix"] == "arXiv"


@pytest.mark.parametrize("key", sorted(references().works))
def test_a_work_is_told_with_its_year_and_written_as_its_key_says(key):
    work = references().works[key]
    assert short(work).endswith(f" {work.year}")
    if key != "midre_exp":
        family = work.author.partition(",")[0].lower().replace("ä", "a").replace("-", "")
        assert key.startswith(f"{family}{work.year}"), key
    authors = work.author.strip("{}").split(" and ")
    assert key == "midre_exp" or all("," in name for name in authors if name != "others"), work.author


def test_a_run_cites_attack_prior_defenses_networks_data_and_measures():
    with packaged_configs():
        cited = citations(
            settings_of(["setup=S27", "scale=paper", "defense=[midre,nls]", "diagnostics=default"])
        )
    told = {citation.part: [work.key for work in citation.works] for citation in cited}
    assert told["attack=ppa"] == ["struppek2022ppa"]
    assert told["attack.prior=stylegan2"] == ["karras2020stylegan2", "karras2020ada"]
    assert "tran2025midre" in told["defense=midre"] and told["defense=nls"] == ["struppek2024nls"]
    assert told["setups of the paper"] == ["tran2025midre"] and told["data=FFHQ"] == ["karras2019stylegan"]
    assert told["metrics.measure=Fid"] == ["heusel2017fid"]
    assert told["diagnostics.measure=Dependence"] == ["gretton2005hsic"]


@pytest.mark.parametrize(("choice", "key"), [("paa", "peng2025alignmi"), ("copies", "athalye2018eot")])
def test_averaged_gradients_are_cited_though_a_config_does_not_name_them(choice, key):
    cited = cited_by([["attack=gmi", f"attack/expectation={choice}"]])
    told = {citation.part: [work.key for work in citation.works] for citation in cited}
    assert key in told[f"attack.expectation={choice}"]


def test_entries_by_choice_are_those_of_its_works():
    assert by_choice()["attack/prior=gmi"] == [
        bibtex(references().works[k]) for k in ("zhang2020gmi", "gulrajani2017wgangp")
    ]
    assert "defense=nodef" not in by_choice()


def test_a_suite_cites_its_members():
    told = {citation.part for citation in cited_by([["attack=worst_low"]])}
    assert {"attack=worst_low", "attack=plgmi", "attack=brepmi", "attack.prior=plgmi"} <= told


def test_the_command_prints_each_work_once_with_what_rests_on_it(capsys):
    assert main(["attack=lomma_gmi", "defense=nodef,midre"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("@inproceedings{zhang2020gmi,") == 1
    assert "% defense=nodef: the undefended network" in printed
    assert not bibtexparser.parse_string(printed).failed_blocks
    assert main(["--all"]) == 0 and capsys.readouterr().out.count("\n@") + 1 == len(references().works)


@pytest.mark.parametrize("words", [[], ["--all", "attack=gmi"], ["attack=gmmi"]])
def test_a_mistake_is_a_sentence(words, capsys):
    assert main(words) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.startswith("midre_exp: ") and told.err.count("\n") == 1


def test_a_table_is_cited_without_running_anything(capsys, monkeypatch):
    monkeypatch.setattr("midre_exp.report.__main__.launch", lambda _: pytest.fail("launched"))
    assert report(["demo", "--cite"]) == 0
    printed = capsys.readouterr().out
    assert "@article{tran2025midre," in printed and "@inproceedings{zhang2020gmi," in printed
    assert report(["claims", "--cite"]) == 2 and "tables and figures" in capsys.readouterr().err


def own(tmp_path, monkeypatch, text: str) -> None:
    (tmp_path / "references.yaml").write_text(text)
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path))


def test_a_folder_of_ones_own_adds_works_and_replaces_none(tmp_path, monkeypatch):
    mine = {
        "names": "Mine",
        "type": "misc",
        "author": "Doe, Jane",
        "title": "Mine",
        "venue": "arXiv",
        "year": 2027,
    }
    content = {
        "works": {"doe2027": mine, "tran2025midre": mine},
        "choices": {"defense": {"mine": ["doe2027"], "mid": ["doe2027"]}},
    }
    own(tmp_path, monkeypatch, yaml.safe_dump(content))
    found = references()
    assert found.choices["defense"]["mine"] == ("doe2027",) and found.choices["defense"]["mid"] == (
        "wang2021mid",
    )
    assert short(found.works["doe2027"]) == "Doe, arXiv 2027" and found.works["tran2025midre"].year == 2025


def test_a_choice_of_ones_own_is_cited_as_the_class_it_is_of(capsys):
    config = {"defense": {"mine": {"_target_": "defenses.MIDRE"}, "other": {"_target_": "my_package.MIDRE"}}}
    told = {citation.part: citation for citation in citations(config)}
    assert told["defense=mine"].works[0].key == "tran2025midre"
    assert told["defense=other"].works == () and told["defense=other"].reason is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("works: {a: {names: A, type: book}}", r"works\.a\.author is missing"),
        ("choices: {defense: {mine: [nobody2020]}}", "cites nobody2020"),
        ("choices: {defense: {mine: null}}", r"choices\.defense\.mine is a list"),
        ("choices: {defense: mine}", r"choices\.defense\.mine is a list"),
        ("bibliography: {}", "keys works and choices alone"),
        ("works: [", "cannot be read as yaml"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_told_by_name(tmp_path, monkeypatch, text, told):
    own(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=f"references.yaml.*{told}"):
        references()
