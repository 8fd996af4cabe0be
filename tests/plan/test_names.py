"""Names in lists stay text on the command line."""

from __future__ import annotations

import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import expand, packaged_composer, packaged_configs
from midre_exp.plan.names import as_text, names_as_text, yaml_reads

NAMES = ["007", "010", "1_000", "1e5", "No", "null", "~", "-1", "0x1F", ".5", "anna", "true"]


def test_what_is_typed_is_what_is_read() -> None:
    typed = f"data.private_identities=[{', '.join(NAMES)}]"
    with packaged_configs():
        jobs = expand(names_as_text(["data=folder", "data.root=x", typed]))
        assert packaged_composer().settings(jobs[0])["data"]["private"]["private"] == NAMES


@pytest.mark.parametrize("text", [
    "data.private_identities=names.txt", "data.private_identities=null", "seed=[1,2]",
    "data.private_identities=[anna,bob]",
    'data.private_identities=["007",\'a, 1\']', "data.private_share=0.5",
])  # fmt: skip
def test_other_values_are_left_alone(text: str) -> None:
    assert names_as_text([text]) == [text]


def test_swept_lists_are_quoted_too() -> None:
    assert names_as_text(["data.private_identities=[1,2],[3]"]) == ['data.private_identities=["1","2"],["3"]']


@pytest.mark.parametrize("value", [7, "anna", b"x", None, {"a": 1}, [["a"]], [{"a": 1}]])
def test_what_is_no_list_of_names_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"is no list|holds lists"):
        as_text(value, ["anna"], "data.private_identities")


def test_yaml_is_asked_for_what_it_reads() -> None:
    read = {
        name: yaml_reads(name) for name in ("010", "1_000", "No", "null", "anna", "s1", "1:30", "0x1F", "-")
    }
    assert read["010"] == 8
    assert read["1_000"] == 1000
    assert read["No"] is False
    assert read["null"] is None
    assert (read["anna"], read["s1"]) == ("anna", "s1")
