"""What is typed reaches Hydra as it was meant, or is told in the form to paste."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from midre_exp.__main__ import _flags_first
from midre_exp.errors import ConfigError
from midre_exp.plan.compose import expand, packaged_configs, settings_of
from midre_exp.plan.overrides import quote, readable


def value(text: str, *, sweeps: bool = False) -> object:
    (taken,) = readable([text], sweeps=sweeps)
    return OverridesParser.create().parse_override(taken).value()


@pytest.mark.parametrize(
    "path",
    [
        "~/faces",
        "/a b/(x)",
        "/x/北京",
        "/a=b",
        "/a#b;c&d!e",
        "/it's",
        '/say "hi"',
        "/a[1]/{b}",
        "C:\\faces (old)",
    ],
)
def test_a_path_arrives_as_it_was_typed(path: str) -> None:
    assert value(f"data.root={path}") == path


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("seed=3", 3),
        ("attack.lr=0.1", 0.1),
        ("runtime.threads=null", None),
        ("data.private_identities=[北京,Ana Ñ,bob]", ["北京", "Ana Ñ", "bob"]),
        ("setup.title=Hello, (world)", "Hello, (world)"),
        ("attack.lr=0.1)", "0.1)"),
    ],
)
def test_values_keep_their_types_and_lists_their_entries(text: str, meant: object) -> None:
    assert value(text) == meant


@pytest.mark.parametrize("text", ["seed", "seed=[1,2", "seed={a", "seed='1", "seed=${", "seed=f(x)"])
def test_what_may_mean_more_than_a_text_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        readable([text], sweeps=True)
    key, sign, typed = text.partition("=")
    if key and sign:
        pasted = shlex.split(str(caught.value).rpartition("a text is written ")[2])
        assert [f"{key}={quote(typed)}"] == pasted
        assert value(pasted[0]) == typed or "${" in typed


def test_a_comma_needs_a_sweep_or_a_path_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"add -m; a text is written 'data\.root=\"/a,b\"'"):
        readable(["data.root=/a,b"], sweeps=False)
    assert readable(["data.root=/a,b"], sweeps=True) == ["data.root=/a,b"]
    assert value("data.root=~/a (x),/b", sweeps=False) == "~/a (x),/b"
    assert expand(["data.root=~/a (x),/b"]) == [['data.root="~/a (x)"'], ["data.root=/b"]]
    there = tmp_path / "a,b"
    there.mkdir()
    assert value(f"data.root={there}") == str(there)


@pytest.mark.parametrize("typed", ["defense=[]", "defense=[ ]"])
def test_a_list_of_no_defenses_is_none(typed: str) -> None:
    assert readable([typed], sweeps=False) == ["defense=nodef"]
    assert expand([typed, "seed=0,1"]) == [["defense=nodef", "seed=0"], ["defense=nodef", "seed=1"]]


def test_two_forms_of_one_defense_are_refused() -> None:
    for sweeps in (False, True):
        with pytest.raises(ConfigError, match="bido and bido_coco are two forms of bido"):
            expand(readable(["defense=[bido,bido_coco]"], sweeps=sweeps))
    assert readable(["defense=[midre,nls]"], sweeps=False) == ["defense=[midre,nls]"]


def test_flags_may_stand_anywhere_and_unknown_ones_are_told() -> None:
    assert _flags_first(["a=1", "-m", "b=2", "-c", "job", "d=3"]) == (
        ["-m", "-c", "job"],
        ["a=1", "b=2", "d=3"],
    )
    with pytest.raises(ConfigError, match="--plann is no option; did you mean --plan"):
        _flags_first(["--plann"])


@pytest.mark.parametrize("text", ["view=paa", "view=taa", "+view=paa", "view.sigma=0.1"])
def test_what_papers_call_otherwise_is_told_by_its_name_here(text: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(text)}: .*attack/expectation=paa or taa.*paa_kedmi"):
        readable([text], sweeps=False)
    assert readable(["attack.view.scale=[0.9,1]"], sweeps=False)  # an attack's own view


@pytest.mark.parametrize("group", ["open_set", "traits", "diagnostics"])
def test_a_group_that_may_be_absent_takes_null(group):
    chosen = {"open_set": "verifier"}.get(group, "default")
    (job,) = expand(["setup=S01", "scale=mini", f"{group}={chosen}", f"{group}=null"])
    with packaged_configs():
        assert settings_of(job)[group] is None
