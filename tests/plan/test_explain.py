"""What a user is told works: no remedy in an error text fails."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from midre_exp.plan.compose import packaged_configs
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.explain import explain

ROOT = Path(__file__).parents[2]
#: ``KEY=`` as error texts print it; values and parts that are filled in are braces.
OVERRIDE = re.compile(
    r"(?<![\w./@{}$+'-])((?:[a-z_]+[./@])+[a-z_0-9]+|seed|resolution|scale|setup)=([\w{}]*)"
)
#: Keys of nodes that a user writes, and names that are no override.
NOT_KEYS = re.compile(r"^(hydra\.|os\.|torch\.|wandb\.)")


def texts(path: Path) -> Iterator[str]:
    """The text of every raise and of every returned or appended sentence in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.JoinedStr):
                    yield "".join(
                        str(piece.value) if isinstance(piece, ast.Constant) else "{}" for piece in part.values
                    )
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def remedies() -> list[tuple[str, str]]:
    """Every override that an error text names: its key and its value."""
    found = {
        (key, value)
        for package in ("midre_exp", "attacks", "defenses")
        for path in (ROOT / package).rglob("*.py")
        for text in texts(path)
        for key, value in OVERRIDE.findall(text)
        if not NOT_KEYS.match(key)
    }
    return sorted(found)


def keys_of(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            yield f"{prefix}{key}"
            yield from keys_of(node._get_node(key), f"{prefix}{key}.")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every key of every choice, where the choice puts it."""
    found = set()
    for path in CONF_DIR.rglob("*.yaml"):
        folder = path.parent.relative_to(CONF_DIR).as_posix().removeprefix("scale/")
        places = {".": [""], "setup": [""], "scale": [""]}.get(folder, [folder.replace("/", ".") + "."])
        if folder == "target":
            places.append("evaluator.")
        if folder == "target/recipe":
            places.append("evaluator.recipe.")
        if folder == "data/dataset":
            places = ["data.private.", "data.public."]
        for place in places:
            found |= set(keys_of(OmegaConf.load(path), place))
    return found


def test_error_texts_name_overrides():
    assert len(remedies()) > 30 and ("attack/prior", "stylegan2") in remedies()


def test_every_key_an_error_text_names_is_one(known):
    known |= {key.removeprefix("target.") for key in known}  # said of the target and of the evaluator alike
    named = {key for key, _ in remedies() if "/" not in key and "{" not in key}
    assert named - known == set()


def test_every_choice_an_error_text_names_composes():
    with packaged_configs():
        for key, value in remedies():
            if "/" in key and value and "{" not in value:
                compose("config", overrides=[f"{key}={value}"])


def sentence(*overrides: str) -> str:
    with packaged_configs(), pytest.raises(HydraException) as caught:
        compose("config", overrides=list(overrides))
    return explain(caught.value, overrides)


@pytest.mark.parametrize(
    "override", ["prior=gmi", "recipe=mini", "surrogates=lomma", "dataset=celeba", "data/dataset=celeba"]
)
def test_a_nested_group_that_was_mistyped_is_told_as_it_composes(override):
    told = sentence(override)
    option = override.partition("=")[2]
    typed = re.search(r"; use (.+?)=OPTION", told)
    assert typed is not None, told
    with packaged_configs():
        compose("config", overrides=f"{typed[1]}={option}".split())


def test_a_node_is_overridden_key_by_key_and_a_new_key_is_told_as_it_composes():
    with packaged_configs():
        view = compose("config", ["attack=plgmi", "attack.view={flip_p:0.1}"]).attack.view
        assert view.flip_p == 0.1 and view._target_.endswith(".RandomView")
    for node, choice in (("attack.view", "attack=plgmi"), ("data.private", "data=synthfaces")):
        told = sentence(choice, f"{node}={{extra:1}}")
        assert f"{node}={{...}} is laid over the keys of {node} and {node}.extra is none of them" in told
        added = re.search(r"add it as (\S+)=VALUE", told)
        assert added is not None
        with packaged_configs():
            assert OmegaConf.select(compose("config", [choice, f"{added[1]}=1"]), f"{node}.extra") == 1
