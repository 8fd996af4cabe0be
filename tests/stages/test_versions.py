"""Changed code is noticed: an artifact of older code must not pass for one of the new."""

from __future__ import annotations

import json

import pytest

from tests.stages import versions


@pytest.mark.parametrize("stage", versions.SOURCES)
def test_a_stage_whose_code_changed_has_another_version_or_the_same_numbers(stage):
    known, now = json.loads(versions.GOLDEN.read_text())[stage], versions.current()[stage]
    assert now == known, (
        f"the code of stage {stage} changed: raise its version in midre_exp/stages if its numbers "
        "change, then "
        f"run python -m tests.stages.versions {stage}"
    )


def test_code_counts_and_comments_do_not(tmp_path, monkeypatch):
    file = tmp_path / "method.py"
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    monkeypatch.setattr(versions, "SOURCES", {"target": ("method.py",)})
    digests = []
    for text in ('"""Old."""\nrate = 1', '"""New."""\nrate  =  1  # why', "rate = 2"):
        file.write_text(text)
        digests.append(versions.source_digest("target"))
    assert digests[0] == digests[1] != digests[2]
