"""What a defense trains of its own: kept in the target's artifact, and no part of what is attacked."""

from __future__ import annotations

import torch

from midre_exp import stages
from midre_exp.executor import Executor
from midre_exp.stages.classifier import DEFENSE_STATE
from midre_exp.stages.parts import make_parts


def test_triggers_and_discriminator_are_kept_beside_the_network(tiny):
    settings = tiny("defense=trapmid")
    parts = make_parts(settings)
    with Executor(settings, stages.make_plan(settings), parts) as build:
        build(stages.target, parts.private, parts.trained, None)
    artifact = build.artifacts["target"]
    network = stages.target.load(settings, artifact, parts.trained)
    kept = artifact.tensors(DEFENSE_STATE)
    assert kept["trapmid.triggers"].shape == (4, 3, 32, 32)
    assert float(kept["trapmid.triggers"].min()) >= 0 and float(kept["trapmid.triggers"].max()) <= 1
    assert kept["trapmid.discriminator.fc.weight"].shape[0] == 1
    assert not any("trigger" in name or "discriminator" in name for name in network.state_dict())
    assert torch.equal(network.state_dict()["conv1.weight"], artifact.tensors("weights")["conv1.weight"])
    history = artifact.json("history")
    assert {"triggered_acc", "trapmid/discriminator", "trapmid/triggers"} <= history[-1].keys()
