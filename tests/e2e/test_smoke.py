"""``python -m midre_exp.doctor.smoke``: setups at paper scale from official layouts to a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from midre_exp.doctor import smoke
from midre_exp.doctor.smoke import Ground, complaint, main, setup_names, try_setup
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.store.files import read_json

#: In every test run: labels alone at 64 px, IF-GMI at 224 px. The others take minutes together; make smoke
#: runs all.
FEW = ("S26", "S36")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("smoke"))


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in setup_names()]
)
def test_a_setup_runs_from_official_files_to_a_record(ground: Ground, name: str) -> None:
    with packaged_configs():
        outcome = try_setup(name, ground, packaged_composer())
    assert outcome.error is None
    (path,) = ground.folder.glob(f"results/smoke/records/{name}-nodef-*.json")
    record = read_json(path)
    assert record["scale"] == "smoke"
    assert record["counts"]["private_identities"] == 6
    assert record["config"]["target"]["model"].get("width", 1.0) == 1.0
    assert not (ground.folder / "store" / "target").exists()


def test_the_setups_are_the_papers_with_lomma_twice() -> None:
    names = setup_names()
    assert len(names) == 43
    assert {name[:3] for name in names} == {f"S{number:02}" for number in range(1, 38)}
    assert {name[:3] for name in names if len(name) > 3} == {f"S{number}" for number in range(13, 19)}


def test_a_failure_is_told_in_one_line_and_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke, "config_files", lambda group: {})
    assert main(["S01", "S27", "--folder", str(tmp_path / "new")]) == 1
    shown = capsys.readouterr().out
    assert (
        "setup=S01 has no small budget; give attack gmi one in conf/scale/attack/smoke_gmi.yaml"
        in shown.splitlines()[0]
    )
    assert (
        "setup=S27 has no small budget; give attack ppa one in conf/scale/attack/smoke_ppa.yaml"
        in shown.splitlines()[1]
    )
    assert shown.endswith("0 of 2 setups ran to a record\n")


def test_a_record_without_its_numbers_is_a_failure() -> None:
    whole = {"metrics": dict.fromkeys(("acc", "evaluator_acc", "att_acc1", "att_acc5"), 0.0), "missing": {}}
    assert complaint(whole) is None
    del whole["metrics"]["att_acc5"]
    assert "has no att_acc5" in str(complaint(whole))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["S38"], "setup S38 is unknown; use some of S01, S02"),
        (["--keep"], "--keep needs --folder"),
        (["--folder", "FULL"], "exists and is not an empty folder; name a new one"),
        (["--steps", "3"], "unrecognized arguments: --steps"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([str(tmp_path) if word == "FULL" else word for word in arguments]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
