"""Which jobs a sweep means: the same for ``--plan`` and for the sweep itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import midre_exp.plan.planning
import midre_exp.sweep.sweeper
from midre_exp.__main__ import main
from midre_exp.errors import ConfigError
from midre_exp.plan.compose import expand, packaged_configs


@pytest.mark.parametrize(
    ("sweep", "jobs"),
    [
        ("setup=glob(S0*)", [f"setup=S0{n}" for n in range(1, 10)]),
        ("setup=glob(S0*,exclude=[S01,S02])", [f"setup=S0{n}" for n in range(3, 10)]),
        ("defense=glob([cut*,ti*])", ["defense=cutmix"]),
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("seed=range(4,0,-2)", ["seed=4", "seed=2"]),
        ("seed=choice(3,5)", ["seed=3", "seed=5"]),
        ("defense=nodef,[midre,nls]", ["defense=nodef", "defense=[midre,nls]"]),
    ],
)
def test_every_way_to_name_values_is_told_one_by_one(sweep, jobs):
    assert expand([sweep]) == [[job] for job in jobs]
    with packaged_configs():  # within, too, and what is within still works afterwards
        assert expand([sweep, "seed=7"])[0][-1] == "seed=7"
        assert len(expand([sweep])) == len(jobs)


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("attack.lr=interval(0,1)", r"attack\.lr=interval\(0,1\) names no values .* attack\.lr=A,B"),
        ("setup=glob(Z*)", r"setup=glob\(Z\*\) stands for no value at all; choices of setup: S01, .*demo"),
        ("seed=glob(*)", r"seed=glob\(\*\) stands for no value at all"),
        ("seed=range(3,0)", r"seed=range\(3,0\) stands for no value at all; list some"),
        ("seed=range(0,3,0)", r"seed=range\(0,3,0\) .*zero"),
        ("hydra/launcher=basic,slurm", "hydra/launcher cannot be swept"),
    ],
)
def test_a_sweep_without_a_list_of_values_is_one_sentence(sweep, sentence):
    with pytest.raises(ConfigError, match=sentence) as found:
        expand(["defense=midre", sweep])
    assert "\n" not in str(found.value)


class Planned(Exception):
    """Carries the jobs out of a command before it goes on."""


@pytest.fixture
def jobs_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """``jobs_of("--plan", "seed=0,1")``: the jobs that the command line would tell of or launch."""

    def expanded(*arguments: Any) -> list[list[str]]:
        found.extend(expand(*arguments))
        raise Planned

    found: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    for module in (midre_exp.plan.planning, midre_exp.sweep.sweeper):
        monkeypatch.setattr(module, "expand", expanded)

    def call(*arguments: str) -> list[list[str]]:
        found.clear()
        monkeypatch.setattr(sys, "argv", ["midre_exp", *arguments])
        with pytest.raises((Planned, SystemExit)):
            main()
        return list(found)

    return call


def test_the_plan_has_the_jobs_that_the_sweep_launches(jobs_of):
    sweep = ("-m", "setup=glob(S0*)", "defense=choice(nodef,midre)", "seed=range(0,3)")
    planned = jobs_of("--plan", *sweep)
    assert len(planned) == 9 * 2 * 3
    assert jobs_of(*sweep) == planned


def test_the_plan_of_a_glob_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["midre_exp", "--plan", "-m", "setup=glob(S0*)", "scale=mini"])
    main()
    assert "9 runs planned: 0 finished before, 0 repeated, 9 to do" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--plan", "-m"], ["-m"]])
def test_both_refuse_an_interval_in_one_sentence(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["midre_exp", *flags, "attack.lr=interval(0,1)"])
    with pytest.raises(SystemExit) as stop:
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "attack.lr=interval(0,1) names no values" in line
