"""Commits of checkouts: clean, changed, somebody else's, none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from midre_exp.tracking.provenance import _commit, own_packages


def git(folder: Path, *command: str) -> str:
    name = ("-c", "user.name=me", "-c", "user.email=me@here", "-c", "safe.directory=*")
    done = subprocess.run(
        ["git", *name, "-C", str(folder), *command], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "a.py").write_text("a = 1\n")
    (folder / "notes.md").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def commit(folder: Path) -> str | None:
    return _commit(folder, [folder / "code"])


def test_two_states_of_a_checkout_never_have_one_name(checkout):
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    names = [commit(checkout)]
    assert names == [head]
    for name, text in [("a.py", "a = 2\n"), ("a.py", "a = 3\n"), ("new.py", ""), ("new.py", "b = 1\n")]:
        (checkout / "code" / name).write_text(text)
        names.append(commit(checkout))
    (checkout / "code" / "a.py").unlink()
    names.append(commit(checkout))
    assert len(set(names)) == len(names) and all(name.startswith(f"{head}+changes.") for name in names[1:])
    assert commit(checkout) == names[-1]
    git(checkout, "checkout", "-q", ".")
    (checkout / "code" / "new.py").unlink()
    (checkout / "notes.md").write_text("no code")
    assert commit(checkout) == head
    git(checkout, "commit", "-qm", "second", "--allow-empty")
    assert commit(checkout) != head  # asked anew


def test_where_there_is_no_commit(tmp_path, checkout):
    assert commit(tmp_path) is None
    assert _commit(checkout, [checkout / "elsewhere"]) is None  # such as an environment inside of a checkout
    git(tmp_path, "init", "-q", "empty")
    assert _commit(tmp_path / "empty", [tmp_path / "empty"]) is None


def test_variables_of_a_surrounding_git_command_do_not_matter(checkout, tmp_path, monkeypatch):
    before = commit(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert commit(checkout) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_checkout_of_somebody_else_is_known_too(checkout):
    before = commit(checkout)
    for path in [checkout, *checkout.rglob("*")]:
        os.chown(path, 12345, 12345)
    refused = subprocess.run(["git", "-C", str(checkout), "status"], capture_output=True, text=True)
    assert refused.returncode != 0 and "dubious ownership" in refused.stderr
    assert commit(checkout) == before


def test_ones_own_package_is_named_with_its_commit(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout / "code"))
    (checkout / "code" / "named_lab.py").write_text("class Mine: ...")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "mine")
    found = own_packages({"named_lab.Mine", "defenses.MIDRE"}, ("named_lab",))
    assert found.keys() == {"named_lab"}
    assert found["named_lab"]["commit"] == git(checkout, "rev-parse", "--short=12", "HEAD")
    assert len(found["named_lab"]["code"] or "") == 16
