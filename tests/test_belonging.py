"""What stands around the code: citation, contributing, CI, hooks, lock, containers, distributions."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import midre_exp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = ("new_attack", "new_defense", "new_result", "broken_defense")


def test_the_version_is_the_same_wherever_it_is_said():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"] == midre_exp.__version__
    assert (
        citation["authors"] == [{"name": "The midre-exp authors"}]
        and "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    )


def locked() -> dict[str, list[tuple[Version, str]]]:
    """The versions of the lock by name, several where they differ by Python."""
    found: dict[str, list[tuple[Version, str]]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line.partition("#")[0])
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), []).append((Version(pin.version), line))
    return found


def test_the_lock_holds_every_dependency_at_a_version_that_fits():
    project = PROJECT["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    pins = locked()
    for text in [*project["dependencies"], *extras]:
        wanted = Requirement(text)
        versions = pins.get(canonicalize_name(wanted.name))
        assert versions, f"{text} is not in requirements.lock; call make lock"
        assert all(wanted.specifier.contains(version, prereleases=True) for version, _ in versions), text


def test_the_lock_names_no_index_and_no_place():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--(index|extra-index|find-links)|@|(^|\s)/", text)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_make_targets_and_knows_no_secret(path):
    text = path.read_text()
    assert "secrets." not in text and "permissions:\n  contents: read" in text
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", used) for used in re.findall(r"uses: (\S+)", text))
    called = re.findall(r"run: make ([\w-]+)", text)
    for listed in re.findall(r"target: \[(.*)\]", text):
        called += listed.split(", ")
    assert called
    for target in called:
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target


def test_hooks_call_what_make_lint_calls():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    called = {
        hook["entry"].removeprefix(".venv/bin/python -m ").replace(" --force-exclude", "") for hook in hooks
    }
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert lint is not None
    asked = re.findall(r"\$\(PY\) -m (\w+(?: (?:check|format))?)", lint.group(1))
    assert called == set(asked) and len(asked) == 3


@pytest.mark.parametrize("name", FORMS)
def test_a_form_asks_for_terms_and_contributing_tells_of_it(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    fields = {field["id"]: field for field in form["body"]}
    assert all(option["required"] for option in fields["terms"]["attributes"]["options"])
    assert f"## {form['name']}" in (ROOT / "CONTRIBUTING.md").read_text()


def test_both_containers_are_of_the_same_files_base_and_packages():
    docker, apptainer = ((ROOT / "containers" / name).read_text() for name in ("Dockerfile", "midre-exp.def"))
    ignored = (ROOT / "containers" / "Dockerfile.dockerignore").read_text()
    kept = set(re.findall(r"^!(\S+)", ignored, re.M))
    copied = dict(re.findall(r"^    (\S+) /opt/midre-exp/(\S+)$", apptainer, re.M))
    assert kept == set(copied) and all(source == place for source, place in copied.items())
    assert all((ROOT / name).exists() for name in kept)
    assert re.findall(r"^FROM (\S+)", docker, re.M) == re.findall(r"^From: (\S+)", apptainer, re.M)
    for name in ("TORCH_INDEX", "EXTRAS"):
        values = {
            tuple(re.findall(rf"^(?:ARG |    ){name}=(\S+)$", text, re.M)) for text in (docker, apptainer)
        }
        assert len(values) == 1 and all(values), name
    extras = re.findall(r"^ARG EXTRAS=(\S+)", docker, re.M)[0].split(",")
    assert set(extras) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_source_distribution_holds_the_tracked_files_of_its_parts_and_nothing_else(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: nothing says which files are tracked")
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file if member.isfile()}
        readme = file.extractfile(f"midre_exp-{midre_exp.__version__}/PKG-INFO")
        assert readme is not None
        text = readme.read().decode()
    include = [name.lstrip("/") for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
    ]
    listed = subprocess.run([*command, *include], cwd=ROOT, capture_output=True, text=True, check=True)
    listing = listed.stdout.splitlines()
    tracked = {name for name in listing if (ROOT / name).exists()}
    assert names == tracked | {"PKG-INFO", "pyproject.toml", ".gitignore"}
    # what PyPI shows: no link that only a checkout could follow
    targets = re.findall(r"\]\(([^)\s]+)", re.sub(r"```.*?```", "", text, flags=re.S))
    assert targets and all(re.match(r"https?:|#|mailto:", target) for target in targets)
    assert "![" in text and "Author: the midre-exp authors" in text
