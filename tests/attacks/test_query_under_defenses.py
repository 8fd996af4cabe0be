"""Both query attacks on the answers of every defense: counts stay exact and numbers finite whatever the
target answers.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from defenses.mid import Bottleneck
from midre_exp.attack import NOT_OPTIONS, Reconstructions
from midre_exp.attack_run import run_attack
from midre_exp.defense import Defense, compose_defenses
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build, without
from midre_exp.priors.base import initial_prior
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Output
from midre_exp.threat import Answer, Victim
from tests.conftest import TINY, tiny_overrides

DEFENSES = sorted(path.stem for path in (CONF_DIR / "defense").glob("*.yaml"))
ATTACKS = ("rlbmi", "brepmi")
CLASSES, IDENTITIES = 4, 3
SMALL = {
    "rlbmi": ["episodes=12", "batch_size=4", "log_every=4", "agent.hidden=8"],
    "brepmi": ["points=4", "patience=3", "max_rejections=3", "max_queries=60", "search_batch=8"],
}


@lru_cache(maxsize=2)
def settings(attack: str) -> dict[str, Any]:
    """The smallest run of the demo with the node of every defense."""
    overlays = {
        "midre_wide",
        "re",
        "bido_coco",
        "positive_label_smoothing",
    }  # each sets the node of another choice
    with packaged_configs():
        return settings_of(
            [
                f"attack={attack}",
                f"defense=[{','.join(sorted(set(DEFENSES) - overlays))}]",
                "target.model.width=0.125",
                *(f"attack.{override}" for override in SMALL[attack]),
                f"attack.identities={IDENTITIES}",
                "attack.prior.latent_dim=8",
                "attack.prior.width=4",
            ]
        )


@lru_cache(maxsize=len(DEFENSES))
def overlay(name: str) -> dict[str, Any]:
    with packaged_configs():
        return settings_of([f"defense={name}"])["defense"]


def composed(defense: str) -> Defense:
    given = settings("rlbmi")
    chosen = {defense: given["defense"][defense]} if defense in given["defense"] else overlay(defense)
    return compose_defenses(chosen)


def defended(defense: str) -> nn.Module:
    """The untrained target in the form in which the defense has it attacked."""
    made = composed(defense)
    model = assemble(settings("rlbmi")["target"], CLASSES, made, seed=0)
    made.on_inference(model)
    return model.eval()


def answer_of(defense: str, model: nn.Module) -> Answer:
    """What the target answers under the defense, calibrated on noise."""
    made, shown = composed(defense), torch.rand(2 * CLASSES, 3, 32, 32, generator=torch.manual_seed(0))
    with torch.no_grad():
        probabilities = model(shown).logits.softmax(1)
    labels = torch.arange(CLASSES).repeat(2)
    made.deploy(made.calibrate(probabilities, (255 * shown).byte(), labels, key="it"), key="it")
    return made.answer


def attacked(
    attack: str, model: nn.Module, work, answer: Answer | None = None, **changes
) -> tuple[Reconstructions, int]:
    """What the attack leaves, and how many images the network was really shown by it."""
    node = settings(attack)["attack"]
    made = build({**without(node, *NOT_OPTIONS), **changes})
    prior = initial_prior(node["prior"], (), num_classes=CLASSES)
    shown = []
    model.register_forward_hook(lambda module, inputs, output: shown.append(len(inputs[0])))
    target = Victim.of(model, CLASSES, made.threat, answer)
    found = run_attack(made, target, prior, seed=0, work=work, runtime=Runtime(quiet=True))
    asked = sum(shown) - len(found.labels)  # the picture handed in is looked at once more, not by the attack
    assert int(found.queries.sum()) == target.queries == asked
    assert all(value.isfinite().all() for value in found.tensors().values())
    return found, asked


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("defense", DEFENSES)
def test_it_runs_with_exact_counts(attack, defense, tmp_path):
    model = defended(defense)
    found, asked = attacked(attack, model, tmp_path, answer_of(defense, model))
    if attack == "rlbmi":
        assert found.queries.tolist() == [12 * 2] * IDENTITIES
    else:
        assert 0 < asked <= 60 * IDENTITIES and int(found.queries.max()) <= 60


def test_the_head_of_mid_answers_one_question_in_many_ways():
    model = defended("mid")
    nn.init.constant_(model.head.statistics.bias[model.head.statistics.out_features // 2 :], 7.0)
    images = torch.full((2, 3, 32, 32), 0.5)
    scores = Victim.of(model, CLASSES, build(without(settings("rlbmi")["attack"], *NOT_OPTIONS)).threat)
    assert isinstance(model.head, Bottleneck)
    assert not torch.allclose(scores.scores(images), scores.scores(images))


@pytest.mark.parametrize("attack", ATTACKS)
def test_loud_noise_in_the_head_leaves_counts_exact(attack, tmp_path):
    model = defended("mid")
    nn.init.constant_(model.head.statistics.bias[model.head.statistics.out_features // 2 :], 20.0)
    attacked(attack, model, tmp_path)


class Answers(nn.Module):
    """Any classifier with other logits."""

    def __init__(self, model: nn.Module, change):
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images, taps=()):
        output = self.model(images, taps)
        return Output(self.change(output.logits), output.features)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "change",
    [torch.zeros_like, lambda logits: 1e-6 * logits, lambda logits: 1e6 * logits],
    ids=["all equal", "flattened", "all or nothing"],
)
def test_scores_that_tell_nothing_do_no_harm(attack, change, tmp_path):
    found, _ = attacked(attack, Answers(defended("nls"), change), tmp_path)
    if attack == "rlbmi":
        assert (found.latents != 0).any(1).all()


@pytest.mark.parametrize(
    ("attack", "cap"), [("rlbmi", 7), ("brepmi", 20)], ids=["rlbmi: three episodes", "brepmi"]
)
def test_a_cap_under_a_noisy_head_ends_with_the_best_so_far(attack, cap, tmp_path):
    found, _ = attacked(attack, defended("mid"), tmp_path, max_queries=cap)
    assert int(found.queries.max()) <= cap and len(found.images) == IDENTITIES
    assert attack == "brepmi" or found.queries.tolist() == [6] * IDENTITIES


# the record


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_record_says_what_was_seen_and_asked(attack, stocked, tmp_path):
    tiny = [one for one in tiny_overrides(tmp_path) if "attack.steps" not in one]
    assert len(tiny) == len(TINY) + 2
    small = [f"attack.{override}" for override in SMALL[attack]]
    with packaged_configs():
        path = run(settings_of([*tiny, f"attack={attack}", *small]))
    record = json.loads(path.read_text())
    each = record["queries_per_identity"]
    assert record["threat"] == {"rlbmi": "scores", "brepmi": "labels"}[attack]
    assert each["mean"] * 4 == record["queries"] and each["min"] <= each["mean"] <= each["max"]
    if attack == "rlbmi":
        assert each == {"mean": 48, "min": 48, "max": 48} and "failed" not in record["counts"]
    else:
        assert 0 <= record["counts"]["failed"] <= record["counts"]["reconstructions"] == 8
