"""Whose faces a data set holds, and that nobody real is shown without being asked for."""

from __future__ import annotations

from typing import get_args

import pandas as pd
import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.publication import NOTICE, People, banner, may_show, people_of, shows_people, withheld
from midre_exp.plan.validate import check_settings
from midre_exp.records.comparable import comparable_config
from midre_exp.report.tables import html
from midre_exp.stages import make_plan
from midre_exp.study import questionnaire

SMALL = ("data.identities=2", "data.public_images=4", "data.public_identities=2")


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF_DIR / "data").glob("*.yaml")))
def test_every_data_yaml_says_whose_faces_it_holds(name):
    root = ["data.root=/nowhere"] if name == "folder" else []
    with packaged_configs():
        config = settings_of([f"data={name}", *root])
    assert config["data"]["people"] in get_args(People)
    assert (config["data"]["people"] == "synthetic") == name.startswith("synthfaces") == may_show(config)
    assert (withheld(config) is None) == may_show(config) and banner(config) is None
    shown = {**config, "publish": {"people": True}}
    assert may_show(shown) and (banner(shown) is not None) == shows_people(shown) == (not may_show(config))


def test_every_page_ends_with_the_notice():
    package = CONF_DIR.parent / "midre_exp"
    pages = {path: path.read_text() for path in package.rglob("*.html.j2")}
    bodies = {path: text for path, text in pages.items() if "</body>" in text}
    assert len(bodies) >= 3
    for path, text in bodies.items():
        *_, footer = text.partition("<footer")
        assert "{{ notice }}" in footer.partition("</footer>")[0], path
    table = pd.DataFrame({"Defense": ["MIDRE"]})
    assert NOTICE in html.page_of(title="", caption="", table=table, rows=[])
    asked = questionnaire.page_of("s", [["data:,1", "data:,2", "data:,3"]], "closer", None)
    assert questionnaire.NOTICE_TO_PARTICIPANTS in asked


def test_what_does_not_say_counts_as_unknown_unless_code_renders_it():
    assert people_of({"data": {"private": {"_target_": "midre_exp.data.FaceFolder"}}}) == "unknown"
    assert people_of({"data": {"private": {"_target_": "midre_exp.data.SynthFaces"}}}) == "synthetic"
    assert people_of({}) == "unknown" and not may_show({})


def test_neither_word_changes_a_key_or_what_a_run_is_compared_with(tmp_path):
    with packaged_configs():
        plain = settings_of([*SMALL, f"paths.store={tmp_path}"])
        said = settings_of(
            [*SMALL, f"paths.store={tmp_path}", "publish.people=true", "data.people=consented"]
        )
    assert make_plan(plain).key == make_plan(said).key
    assert comparable_config(plain) == comparable_config(said)


def test_a_word_that_nobody_knows_is_refused():
    with packaged_configs():
        for override, told in (
            ("data.people=friends", "data.people"),
            ("publish.people=2", "publish.people"),
        ):
            with pytest.raises(ConfigError, match=told):
                check_settings(settings_of([*SMALL, override]))
