"""Files that change while they are in use."""

from __future__ import annotations

import importlib
import os
import sys
import time
from dataclasses import replace

import pytest

from midre_exp.plan.imported import CodeChangedError, check_imported, take_snapshot
from midre_exp.plan.keys import StageKey


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """``lab(name, text)`` writes a module of one's own; ``lab.take()`` is the snapshot of a run with it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        before = time.time() - 60
        os.utime(tmp_path / f"{name}.py", (before, before))  # settled
        importlib.invalidate_caches()

    stage = StageKey("target", "k", {}, {}, names=frozenset({"watched_lab.Mine"}), trusted=("watched_lab",))
    write.take = lambda: take_snapshot([stage])
    yield write
    for name in ("watched_lab", "watched_late"):
        sys.modules.pop(name, None)


def test_ours_and_ones_own_are_in_it_and_reports_are_not(lab):
    lab("watched_lab", "import watched_late")
    lab("watched_late", "")
    hashes = lab.take().hashes
    assert {"watched_lab.py", "watched_late.py", "midre_exp/metrics/prdc.py", "defenses/midre.py"} <= set(
        hashes
    )
    assert not any(name.startswith("midre_exp/report/") for name in hashes)
    before = replace(lab.take())
    lab("watched_late", "# a remark")
    assert lab.take().difference(before.hashes) == "watched_late.py" and lab.take().digest != before.digest


def test_a_module_that_changed_after_it_was_imported_is_refused(lab):
    lab("watched_lab", "RATE = 1")
    importlib.import_module("watched_lab")
    check_imported(lab.take(), at_start=True)
    check_imported(lab.take(), at_start=True)
    lab("watched_lab", "RATE = 20")
    with pytest.raises(CodeChangedError, match=r"watched_lab.py changed after this process had imported it"):
        check_imported(lab.take(), at_start=True)
    importlib.reload(sys.modules["watched_lab"])
    check_imported(lab.take(), at_start=True)


def test_what_a_run_has_imported_may_change_and_what_it_imports_later_may_not(lab):
    lab("watched_lab", "def late(): import watched_late")
    lab("watched_late", "RATE = 1")
    importlib.import_module("watched_lab")
    begun = lab.take()
    check_imported(begun, at_start=True)
    lab("watched_lab", "def late(): return 20")
    check_imported(begun, at_start=False)
    lab("watched_late", "RATE = 20")
    check_imported(begun, at_start=False)
    importlib.import_module("watched_late")
    with pytest.raises(CodeChangedError, match=r"watched_late.py changed while this run was under way"):
        check_imported(begun, at_start=False)
