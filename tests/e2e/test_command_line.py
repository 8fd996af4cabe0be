"""What a user types and what the program answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import midre_exp
from midre_exp import stages
from midre_exp.__main__ import main
from midre_exp.plan.config import CONF_DIR
from tests import ready
from tests.conftest import tiny_overrides, without_time


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """``cli("defense=midre")`` runs the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, tiny: bool = True) -> tuple[int, str, str]:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        flags = [text for text in arguments if text.startswith("-")]
        values = [*(tiny_overrides(tmp_path) if tiny else []), *(a for a in arguments if a not in flags)]
        monkeypatch.setattr(sys, "argv", ["midre_exp", *flags, *values])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def records(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("results/mini/records/*.json"))]


def test_one_run_then_nothing_to_do(cli, tmp_path):
    code, out, err = cli("defense=midre")
    assert code == 0 and "record written to" in out
    assert [line.split()[0] for line in without_time(err).splitlines() if "ready" in line] == [
        "target",
        "evaluator",
        "features",
        "prior",
        "attack",
        "metrics",
        "verdicts",
    ]
    assert len(records(tmp_path)) == 1
    code, out, err = cli("defense=midre")
    assert code == 0 and "nothing to do" in out and "building" not in err


def test_a_sweep_runs_the_grid_and_skips_what_is_finished_before_launching(cli, stocked, tmp_path):
    code, out, err = cli("-m", "defense=nodef,midre")
    assert code == 0 and "2 runs planned: 0 finished before, 0 repeated, 2 to do" in out, err
    code, out, err = cli("-m", "defense=nodef,midre", "seed=0,1")
    assert code == 0 and "4 runs planned: 2 finished before, 0 repeated, 2 to do" in out
    assert "prior" in err and not any(
        "building" in line
        for line in without_time(err).splitlines()
        if line.startswith(("prior", "evaluator "))
    )
    assert {(r["defense"]["label"], r["seed"]) for r in records(tmp_path)} == {
        (label, seed) for label in ("NoDef", "MIDRE [0.1, 0.4]") for seed in (0, 1)
    }
    code, out, err = cli("-m", "defense=nodef,midre", "seed=0,1")
    assert code == 0 and "4 finished before" in out and "ready" not in err


def test_equal_jobs_of_a_sweep_are_launched_once(cli, stocked):
    _, out, _ = cli("-m", "defense=nodef", "runtime.chunk=100,200")
    assert "2 runs planned: 0 finished before, 1 repeated, 1 to do" in out


def test_a_sweep_goes_on_after_a_failure_and_reports_it(cli, stocked, tmp_path):
    broken = "attack._target_=attacks.GMI,tests.plugins.BrokenAttack"
    code, out, err = cli("-m", broken, "runtime.trusted_packages=[tests]")
    assert code != 0
    assert "1 runs done, 1 failed" in out and "tests.plugins.BrokenAttack" in err
    (report,) = (tmp_path / "runs" / "failed").glob("*.json")
    failure = json.loads(report.read_text())
    assert "Traceback" in failure["traceback"] and failure["config"]["attack"]["_target_"].endswith(
        "BrokenAttack"
    )
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["defense.midre.ah=0.8", "defense=midre"],
            ["defense.midre.ah", "did you mean", "defense.midre.a_h"],
        ),
        (["atack=gmi"], ["atack"]),
        (["defense=mydre"], ["defense=mydre does not exist", "did you mean midre", "nodef"]),
        (["attack=mystery"], ["attack=mystery does not exist", "choices:"]),
        (["setup=S99"], ["setup=S99 does not exist", "S01"]),
        (
            ["attack.identities=99"],
            ["attack.identities=99 exceeds the 4 private identities", "use attack.identities=4 or fewer"],
        ),
        (["attack.steps=many"], ["many"]),
        (["defense.midre.a_h=1.5", "defense=midre"], ["1.5"]),
        (["runtime.device=quantum"], ["runtime.device=quantum", "cpu"]),
        (["target.recipe.select=luckiest"], ["select=luckiest", "best_test"]),
        (["tracking.mode=loud"], ["tracking.mode=loud", "offline"]),
        (["attack._target_=os.system"], ["os.system", "runtime.trusted_packages"]),
        (["attack._target_=attacks.gmi.Missing"], ["attacks.gmi.Missing"]),
        (["resolution=33"], ["33"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(cli, arguments, words):
    code, _, err = cli(*arguments)
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert last.startswith("midre_exp: ") and "Traceback" not in err
    for word in words:
        assert word in last, last


def test_a_missing_folder_is_one_sentence(cli, tmp_path):
    code, _, err = cli("data=folder", tiny=False)
    assert code == 2 and "data.root=VALUE" in err
    code, _, err = cli("data=folder", "data.root=nowhere", f"paths.store={tmp_path}/s", tiny=False)
    assert code == 2 and "nowhere" in err and "Traceback" not in err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("path", ["store", "runs", "results"])
def test_a_folder_that_cannot_be_written_is_one_sentence_and_loses_nothing(cli, tmp_path, path):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    code, _, err = cli(f"paths.{path}={tmp_path}/blocked/{path}", tiny=False)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "blocked" in last and "Traceback" not in err
    assert (tmp_path / "blocked").read_text().startswith("a file")


def test_a_bug_exits_with_1_and_says_where_the_traceback_is(cli, stocked, tmp_path):
    code, _, err = cli("attack._target_=tests.plugins.BrokenAttack", "runtime.trusted_packages=[tests]")
    assert code == 1 and "the attack fell over" in err and "failed" in err
    assert len(list((tmp_path / "runs" / "failed").glob("*.json"))) == 1
    code, *_ = cli("runtime.trusted_packages=[tests]")
    assert code == 0


def test_a_job_that_is_no_longer_what_was_launched_refuses(cli):
    code, _, err = cli("plan.key=0123456789abcdef")
    assert code == 2 and "not what was launched" in err
    code, _, err = cli("plan.commit=0123456789ab")
    assert code == 2 and "launched at commit 0123456789ab" in err


def test_a_changed_config_is_named_when_a_queued_job_starts(cli, stocked, tmp_path):
    cli("-m", "defense=nodef")
    (snapshot,) = (path for path in (tmp_path / "runs" / "planned").glob("*.json") if "code" not in path.stem)
    code, _, err = cli(f"plan.key='{snapshot.stem}'", "target.recipe.epochs=7")
    assert code == 2 and "target.recipe.epochs was" in err and "is 7" in err


def test_help_and_config_listing_name_every_group_and_key(cli):
    code, out, _ = cli("--help", tiny=False)
    assert code == 0
    groups = ("attack", "data", "defense", "target")
    choices = [
        f"{group}: {', '.join(sorted(p.stem for p in (CONF_DIR / group).glob('*.yaml')))}" for group in groups
    ]
    for word in (*choices, "S01", "checkpoint_seconds"):
        assert word in out, word
    code, out, _ = cli("--cfg=job", tiny=False)
    assert code == 0 and "identity_weight" in out and "hydra" not in out.split("\n")[0]


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as it is started."""
    return started("-m", "midre_exp", *arguments)


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with this checkout installed."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(midre_exp.__file__).parents[1])},
    )


def test_the_program_alone_prints_its_commands_and_each_explains_itself(monkeypatch, capfd):
    alone = typed()
    assert alone.returncode == 0 and not alone.stderr
    commands = re.findall(r"^  (\w[\w -]*?)  +", alone.stdout, re.M)
    assert commands == [
        *(
            "run",
            "sweep",
            "plan",
            "report",
            "audit",
            "cite",
            "cost",
            "diagnose",
            "doctor",
            "judge",
            "results",
            "store",
            "study",
            "smoke",
            "zoo",
            "data inspect",
            "data sheet",
            "data get",
            "data prepare",
            "data verify",
            "data make-fixture",
        )
    ]
    for command in commands[3:]:
        monkeypatch.setattr(sys, "argv", ["midre-exp", *command.split(), "--help"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code and "usage:" in capfd.readouterr().out, command
    assert typed("--version").stdout == f"midre-exp {midre_exp.__version__}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dcotor"], "dcotor is no command; did you mean doctor? commands: run, sweep, plan"),
        (["data", "fixture"], "data fixture is no command; did you mean data make-fixture?"),
        (["data"], "data is no command; commands: data inspect, data sheet, data get, data prepare"),
        (["setup"], "setup is no command; did you mean sweep? commands: run"),
    ],
)
def test_an_unknown_command_is_one_sentence(cli, words, sentence):
    code, out, err = cli(*words, tiny=False)
    assert (code, out) == (2, "") and err.startswith(f"midre_exp: {sentence}") and err.count("\n") == 1


def test_commands_are_the_hydra_way_under_a_name(cli, stocked, tmp_path, monkeypatch):
    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["midre-exp", *arguments, *tiny_overrides(tmp_path)])
        main()
        return cli("--version", tiny=False)[1]  # printed since the last call

    assert said("plan", "seed=0,1") == said("--plan", "-m", "seed=0,1")
    assert "1 runs planned: 0 finished before, 0 repeated, 1 to do" in said("sweep", "seed=0")
    assert "nothing to do" in said("run", "seed=0")


def test_nothing_that_needs_no_torch_loads_it():
    lines = (["--help"], ["--version"], ["store", "--help"], ["report", "--help"], ["data"])
    code = f"""import sys
from midre_exp.__main__ import main
for words in {lines}:
    sys.argv[1:] = words
    try: main()
    except SystemExit: pass
    print(words, "torch" in sys.modules)
"""
    said = started("-c", code).stdout
    for words in lines:
        assert f"{words} False" in said.splitlines(), said


def test_a_package_of_the_users_is_found_where_he_stands_and_never_in_place_of_ours(stocked, tmp_path):
    for name in ("attacks", "defenses"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    (tmp_path / "midre_exp").mkdir()
    (tmp_path / "my_package.py").write_text(
        "from midre_exp.defense import Defense\nclass Mine(Defense):\n    label = 'Mine'\n"
    )
    mine = ["defense.nodef._target_=my_package.Mine", "runtime.trusted_packages=[my_package]"]
    env = os.environ | {"PYTHONPATH": str(Path(midre_exp.__file__).parents[1])}
    words = [*mine, *tiny_overrides(tmp_path)]
    done = ready.run(["-m", "midre_exp", "run", *words], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert records(tmp_path)[0]["defense"]["label"] == "Mine"
    script = "import sys; sys.path[0] = '/'; from midre_exp.__main__ import main; main()"  # as midre-exp
    done = ready.run(["-c", script, *words], cwd=tmp_path, env=env)
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stderr


def test_an_unwritable_results_folder_is_found_before_work_starts(cli, tmp_path):
    (tmp_path / "blocked").write_text("")
    _, _, err = cli(f"paths.results={tmp_path}/blocked", tiny=False)
    assert "building" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/full")
def test_interrupting_says_how_to_continue(cli, stocked, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    shutil.rmtree(stocked / "metrics")
    monkeypatch.setattr(type(stages.metrics), "make", interrupt)
    code, _, err = cli()
    assert code == 130 and "the same command continues" in err
