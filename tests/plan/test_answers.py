"""What commands remember of earlier ones, and when they must not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from midre_exp.plan import answers
from midre_exp.plan.answers import answer, kept_answers

#: Plans one run as the command line does; says whether torch was loaded.
PLAN = """
import sys
from midre_exp.plan.answers import kept_answers
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.stages import make_plan
with kept_answers(), packaged_configs():
    print(make_plan(settings_of(sys.argv[1:])).key, "torch" in sys.modules)
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[int] = []
    return asked


def ask(asked: list[int], question: str = "q", **options) -> bool:
    def find() -> bool:
        asked.append(1)
        return True

    return answer([question], find, options.pop("trusted", ()), **options)


def test_a_later_command_does_not_ask_again(asked):
    for _ in range(2):
        with kept_answers():
            assert ask(asked) and ask(asked)
    assert len(asked) == 1
    ask(asked)  # a library call
    with kept_answers():
        ask(asked, trusted=["mine"])
        ask(asked, "changes", keep=lambda found: False)
    with kept_answers():
        ask(asked, "changes", keep=lambda found: False)
    assert len(asked) == 5


def test_other_code_asks_again_and_what_changed_meanwhile_is_not_kept(asked, monkeypatch):
    def with_code(first: str, last: str) -> int:
        codes = iter((first, last))
        monkeypatch.setattr(answers, "_code", lambda: next(codes, last))
        with kept_answers():
            ask(asked)
        return len(asked)

    assert with_code("a", "a") == 1
    assert with_code("b", "c") == 2  # a file was changed while this command asked
    assert with_code("b", "b") == 3
    assert with_code("b", "b") == with_code("a", "a") == 3


def test_a_damaged_file_counts_for_nothing(asked):
    with kept_answers():
        ask(asked)
    (file,) = answers.folder().glob("answers-*.json")
    file.write_text("[1")
    with kept_answers():
        ask(asked)
    assert len(asked) == 2


@pytest.mark.slow
def test_a_plan_made_before_is_made_without_torch(tmp_path):
    def plan(*overrides: str) -> list[str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        command = [sys.executable, "-c", PLAN, "setup=S19", *overrides]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout.split()

    key, loaded = plan()
    assert loaded == "True"
    assert plan() == [key, "False"]
    other, loaded = plan("seed=1")
    assert other != key and loaded == "False"
