from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from midre_exp.plan.config import CONF_DIR

SETUPS = CONF_DIR / "setup"
PUBLISHED = Path(__file__).parents[1] / "results" / "published.csv"
GOLDEN = Path(__file__).parent / "golden" / "setups.csv"  # the paper's Table 2, enumerated

ATTACKS = {
    "GMI": "gmi",
    "KedMI": "kedmi",
    "LOMMA+GMI": "lomma_gmi",
    "LOMMA+KedMI": "lomma_kedmi",
    "PLGMI": "plgmi",
    "RLBMI": "rlbmi",
    "BREPMI": "brepmi",
    "PPA": "ppa",
    "MIRROR": "mirror",
    "IF-GMI": "ifgmi",
}
TARGETS = {
    "VGG16": "vgg16",
    "IR152": "ir152",
    "FaceNet64": "facenet64",
    "ResNet18": "resnet18",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "DenseNet121": "densenet121",
    "DenseNet169": "densenet169",
    "MaxViT": "maxvit",
    "ResNeSt101": "resnest101",
    "InceptionV1": "inception_resnet_v1",
}
DATASETS = {
    ("CelebA", "CelebA"): "celeba_celeba",
    ("CelebA", "FFHQ"): "celeba_ffhq",
    ("FaceScrub", "FFHQ"): "facescrub_ffhq",
    ("Stanford Dogs", "AFHQ-Dogs"): "dogs_afhq",
    ("VGGFace2", "FFHQ"): "vggface2_ffhq",
}
VARIANTS = {"a": "LOMMA+GMI", "b": "LOMMA+KedMI"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stated(cell: str) -> str:
    """A cell without the remark that it was inferred; the certainty says so."""
    return cell.removesuffix(" (inferred)")


def files_of(row: dict[str, str]) -> list[tuple[str, str, str]]:
    """(file, id, attack) of each yaml that a row of the golden table stands for."""
    name = row["setup_id"]
    if row["attack"] != "LOMMA":
        return [(name, name, row["attack"])]
    # LOMMA has two variants; the bare name stands for the one that both tables of the paper print
    return [
        (name, f"{name}b", VARIANTS["b"]),
        *((name + v, name + v, attack) for v, attack in VARIANTS.items()),
    ]


CASES = [(row, *names) for row in rows(GOLDEN) for names in files_of(row)]


def content(name: str) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(SETUPS / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def overrides(name: str) -> dict[str, str]:
    """Group to choice, in the setup's defaults list."""
    entries = [entry for entry in content(name)["defaults"] if entry != "_self_"]
    return {key.removeprefix("override /"): choice for entry in entries for key, choice in entry.items()}


def test_the_golden_table_has_37_setups() -> None:
    assert [row["setup_id"] for row in rows(GOLDEN)] == [f"S{number:02}" for number in range(1, 38)]


def test_the_registry_holds_these_setups_and_no_other() -> None:
    present = {path.stem for path in SETUPS.glob("*.yaml")}
    assert present == {name for _, name, _, _ in CASES} | {
        "attacks_2026",
        "custom",
        "demo",
        "evidence",
        "lfw",
    }


@pytest.mark.parametrize("row, name, setup_id, attack", CASES, ids=[case[1] for case in CASES])
def test_a_setup_says_what_the_paper_says(row: dict[str, str], name: str, setup_id: str, attack: str) -> None:
    entry = content(name)
    setup = entry["setup"]
    private, public = row["private_dataset"], stated(row["public_dataset"])
    target = stated(row["target_model"])
    assert setup["id"] == setup_id
    assert setup["attack"] == attack
    assert setup["attack_type"] == row["attack_type"]
    assert setup["target"] == target
    assert (setup["private"], setup["public"]) == (private, public)
    assert setup["certainty"] == row["certainty"]
    assert setup["title"] == f"{attack} on {target}, {private} / {public}"
    assert entry["resolution"] == int(row["resolution"])
    assert entry["public_source"] == ("same" if private == public else "other")
    printed = [[float(a), float(b)] for a, b in re.findall(r"\[([\d.]+),([\d.]+)\]", row["midre_range"])]
    assert setup["midre_ranges"] == printed


@pytest.mark.parametrize("row, name, setup_id, attack", CASES, ids=[case[1] for case in CASES])
def test_a_setup_chooses_the_parts_it_names(
    row: dict[str, str], name: str, setup_id: str, attack: str
) -> None:
    chosen = overrides(name)
    target = TARGETS[stated(row["target_model"])]
    dogs = {"S33": "ppa_dogs"}  # PPA's authors give them values of their own
    assert chosen["attack"] == dogs.get(name, ATTACKS[attack])
    assert chosen["target"] == target
    assert chosen["data"] == DATASETS[row["private_dataset"], stated(row["public_dataset"])]
    assert chosen["evaluator"] != target
    if row["resolution"] == "64":
        assert chosen["evaluator"] == "facenet112"
    elif row["attack"] == "MIRROR":
        assert {chosen["evaluator"], target} == {"resnet50", "inception_resnet_v1"}
    else:
        assert chosen["evaluator"] == "inception_v3"
    assert content(name)["defaults"][-1] == "_self_"
    assert (SETUPS / f"{name}.yaml").read_text(encoding="utf-8").startswith("# @package _global_\n")


@pytest.mark.parametrize("number", range(13, 19))
def test_a_bare_lomma_setup_equals_its_second_variant(number: int) -> None:
    assert content(f"S{number}") == content(f"S{number}b")


def test_a_setup_of_every_attack_composes_as_an_overlay(tmp_path: Path) -> None:
    """Over stand-ins for the parts, so that setups may name parts that are still to be built."""
    names = [*{attack: name for _, name, _, attack in CASES}.values(), "demo", "custom"]
    chosen = {name: overrides(name) for name in names if name != "custom"}
    first = {"data": "first", "target": "first", "evaluator": "first", "attack": "first", "metrics": "first"}
    for group, choice in {(g, c) for parts in (first, *chosen.values()) for g, c in parts.items()}:
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{choice}.yaml").write_text(f"choice: {choice}\n")
    defaults = "".join(f"  - {group}: {choice}\n" for group, choice in first.items())
    (tmp_path / "primary.yaml").write_text(f"defaults:\n{defaults}  - setup: custom\n  - _self_\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        for name in names:
            config = compose("primary", [f"hydra.searchpath=[file://{CONF_DIR}]", f"setup={name}"])
            assert {group: config[group].choice for group in first} == {**first, **chosen.get(name, {})}
            assert config.setup == content(name)["setup"]
            assert config.resolution == content(name)["resolution"]
            assert config.public_source in ("same", "other")


def test_published_numbers_are_numbers() -> None:
    published = rows(PUBLISHED)
    assert len(published) == 73
    for row in published:
        for column in ("acc", "attack_acc", "attack_acc_std"):
            assert row[column] == "" or 0 <= float(row[column]) <= 100, row
        assert row["delta"] in ("", "OP") or math.isfinite(float(row["delta"])), row
        assert row["source"], row


def test_published_numbers_belong_to_registered_setups() -> None:
    named = [row for row in rows(PUBLISHED) if re.fullmatch(r"S\d\d[ab]?", row["setup_id"])]
    assert len({row["setup_id"] for row in named}) == 13
    for row in named:
        setup = content(row["setup_id"])["setup"]
        assert row["setup_id"] == setup["id"]
        expected = (setup["attack"], setup["target"], setup["private"], setup["public"])
        assert (row["attack"], row["target_model"], row["private_dataset"], row["public_dataset"]) == expected


@pytest.mark.parametrize("table", ["table3", "table5"])
def test_printed_deltas_follow_from_the_printed_accuracies(table: str) -> None:
    """Delta = drop of attack accuracy per drop of accuracy; one is printed with two digits swapped."""
    published = [row for row in rows(PUBLISHED) if row["table"] == table]
    base = {row["setup_id"]: row for row in published if row["defense"] == "NoDef"}
    for row in published:
        if row["delta"] in ("", "OP"):
            continue
        undefended = base[row["setup_id"]]
        attack, utility = (float(undefended[key]) - float(row[key]) for key in ("attack_acc", "acc"))
        known_swap = row["defense"] == "MIDRE+NLS"
        assert float(row["delta"]) == pytest.approx(attack / utility, abs=0.1 if known_swap else 0.0051)
