"""What holds for every target of conf/target: a step at its real size, and learning its people in the reduced
form.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from defenses import compose
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build
from midre_exp.runtime import Runtime
from midre_exp.targets import build_target
from midre_exp.targets.training.train import train_classifier

NAMES = sorted(path.stem for path in (CONF_DIR / "target").glob("*.yaml"))
#: Pixels of the real size, where it is not 224.
SIZES = {
    "vgg16": 64,
    "ir152": 64,
    "facenet64": 64,
    "facenet112": 112,
    "inception_resnet_v1": 160,
    "inception_v3": 299,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_pass_and_a_training_step_at_real_size(name: str) -> None:
    torch.manual_seed(0)
    model = build_target(name, num_classes=10).train()
    images = torch.rand(2, 3, SIZES.get(name, 224), SIZES.get(name, 224))
    labels = torch.tensor([3, 7])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    output = model(images)
    assert output.logits.shape == (2, 10)
    assert output.features.shape[0] == 2 and output.features.ndim == 2
    loss = F.cross_entropy(output.logits, labels)
    if output.auxiliary is not None:
        loss = loss + model.auxiliary_weight * F.cross_entropy(output.auxiliary, labels)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, trained, strict=True)]
    # ResNeSt's residual branches start at zero and hide most weights from the first step.
    assert sum(moved) > (0.15 if name == "resnest101" else 0.9) * len(moved)
    with torch.no_grad():
        evaluated = model.eval()(images)
    assert evaluated.logits.isfinite().all()
    assert evaluated.auxiliary is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_reduced_form_learns_the_synthetic_people_without_defense(name: str, tmp_path: Path) -> None:
    with packaged_configs():
        settings = settings_of([f"target={name}", "scale=mini", "defense=nodef"])
    _, numbers, _ = train_classifier(
        settings["target"],
        build(settings["data"]["private"]),
        compose(),
        seed=0,
        work=tmp_path,
        runtime=Runtime(quiet=True),
        title=name,
    )
    assert numbers["acc"] > 90
