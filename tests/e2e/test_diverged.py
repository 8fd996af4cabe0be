"""Networks that diverged or know nothing: what the user is told, and what is left of such a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.e2e.test_command_line import cli, records  # noqa: F401  # a fixture


def steps_by(stage, decay):
    """A training by plain gradient descent. Rates have a range; a decay of weights far above any is a way
    left to diverge.
    """
    place = f"{stage}.recipe.optimizer"
    rest = [f"~{place}.betas", f"{place}.lr=0.01", f"{place}.weight_decay={decay}"]
    return [f"{place}._target_=torch.optim.SGD", *rest]


def left(folder: Path, pattern: str) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"store/{pattern}/*/manifest.json"))


def outcomes(folder: Path) -> list[dict]:
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    paths = sorted(folder.glob("results/mini/diverged/*.json"))
    return [json.loads(path.read_text(), parse_constant=refuse) for path in paths]


@pytest.mark.parametrize("stage", ["target", "evaluator"])
def test_a_classifier_that_diverged_is_one_sentence_and_an_outcome(cli, tmp_path, stage):  # noqa: F811
    arguments = [*steps_by(stage, 1e30), "defense=midre"]
    for _ in range(2):
        code, out, err = cli(*arguments)
        assert code == 2 and "record written" not in out
        last = err.splitlines()[-1]
        assert last.startswith(f"midre_exp: {stage} ") and "diverged in epoch 1 of" in last, err
        assert f"lower {stage}.recipe.optimizer.lr" in last
        assert not left(tmp_path, stage) and not left(tmp_path, "attack") and not records(tmp_path)
    (outcome,) = outcomes(tmp_path)
    assert outcome["outcome"] == "diverged" and outcome["stage"] == stage
    assert outcome["sentence"] == last.removeprefix("midre_exp: ")
    assert outcome["stage_key"] in outcome["sentence"]
    assert outcome["defense"]["label"] == "MIDRE [0.1, 0.4]"
    assert outcome["config"][stage]["recipe"]["optimizer"]["weight_decay"] == 1e30
    assert not list((tmp_path / "runs").glob("failed/*.json"))


def test_an_outcome_goes_when_the_run_succeeds(cli, tmp_path, monkeypatch):  # noqa: F811
    from midre_exp.targets.training.module import ClassifierModule

    with monkeypatch.context() as patch:
        patch.setattr(
            ClassifierModule, "_losses", lambda self, output, batch: (output.logits.sum() * torch.nan, {})
        )
        assert cli("tracking=none")[0] == 2
    assert len(outcomes(tmp_path)) == 1
    code, _, err = cli("tracking=none")
    assert code == 0, err
    assert not outcomes(tmp_path) and len(records(tmp_path)) == 1


def test_a_sweep_tells_diverged_runs_from_failed_ones(cli, stocked, tmp_path):  # noqa: F811
    code, out, err = cli("-m", *steps_by("target", "0,1e30"), "defense=bido")
    assert code == 2
    assert "1 runs done, 1 diverged, 0 failed, after" in out
    assert "  diverged: " in err and "or lower the strength of defense.bido" in err
    assert "1 of 2 runs diverged; their outcomes are in the diverged folder" in err
    assert len(records(tmp_path)) == len(outcomes(tmp_path)) == 1


@pytest.fixture
def state(stocked):
    """The weights of a tiny target that the store has."""
    (weights,) = stocked.glob("target/*/weights.safetensors")
    return load_file(weights)


def nan(state):
    return {name: value * torch.nan if value.is_floating_point() else value for name, value in state.items()}


def negative(state):
    return {name: -value if name.endswith("running_var") else value for name, value in state.items()}


def overflowing(state):
    return {**state, "fc.weight": state["fc.weight"].double() * 1e300}


def huge(state):
    return {name: value * 1e30 if value.is_floating_point() else value for name, value in state.items()}


def zeros(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


CHECKPOINTS = [
    (nan, "holds weights that cannot be used (not finite: bn1.bias, "),
    (negative, "holds weights that cannot be used (negative variances: bn1.running_var"),
    (overflowing, "holds weights that cannot be used (not finite: fc.weight)"),
    (huge, "whose answers to test images are not finite"),
    (zeros, "gives all test images the same answer"),
]


@pytest.mark.parametrize(("damage", "told"), CHECKPOINTS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_checkpoint_of_a_dead_network_is_refused_by_name(cli, tmp_path, state, damage, told, ending):  # noqa: F811
    path = tmp_path / f"dead{ending}"
    state = damage(state)
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    before = left(tmp_path, "target")
    code, _, err = cli(f"target.checkpoint={path}")
    last = err.splitlines()[-1]
    assert code == 2 and last.startswith(f"midre_exp: {path} ") and told in last, err
    assert left(tmp_path, "target") == before and not records(tmp_path) and not outcomes(tmp_path)


def test_an_evaluator_at_chance_is_told_and_judges_only_where_that_is_allowed(cli, tmp_path, stocked):  # noqa: F811
    code, out, err = cli("evaluator.floor=chance", "defense=midre")
    assert code == 2 and "target" not in out, err  # before the target is trained
    told = "which is not significantly more than chance (25.0 %"
    assert told in err.splitlines()[-1] and "evaluator.floor=0" in err.splitlines()[-1]
    code, out, err = cli("evaluator.floor=99.5", "seed=3")
    assert code == 2 and "less than evaluator.floor=99.5, so it does not judge" in err.splitlines()[-1]
    code, _, err = cli("evaluator.floor=x")
    assert code == 2 and "evaluator.floor=x cannot be used; give chance, or a number from 0 to 100" in err
    code, _, err = cli()
    assert code == 0 and "ALARM: evaluator vgg16 recognises" in err and told in err
