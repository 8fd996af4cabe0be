"""SMILE beside recorded numbers of its official program, and what its options mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks import PSpaceBox, build_attack
from attacks.parts.optimisers import ramp
from attacks.parts.p_space import BoxConstraint
from attacks.smile import SMILE, judged, proposed
from midre_exp.attack_run import run_attack
from midre_exp.errors import ConfigError
from midre_exp.threat import Threat, Victim
from tests.contracts.test_every_attack import CLASSES, Colours, prior_of, surrogate_of_smile
from tests.golden.fill import _draw, golden

GOLDEN = golden("smile")
SEARCH = GOLDEN["search"]


def numbers(name: str) -> Tensor:
    return torch.tensor(SEARCH[name], dtype=torch.float64)[None]


def test_the_search_is_the_official_one_proposal_by_proposal():
    """As nevergrad's NGOpt minimises it, with the same normal numbers."""
    random = np.random.RandomState(12)
    box = BoxConstraint(numbers("low"), numbers("high"))
    state = {
        "best": numbers("w0"),
        "loss": torch.tensor([torch.inf]).double(),
        "size": torch.ones(1).double(),
    }
    losses = []
    for number in range(SEARCH["budget"]):
        proposal = state["best"]
        if number:
            noise = torch.from_numpy(random.normal(0, 1, 8))[None]
            proposal = proposed(proposal, state["size"], noise, box)
        loss = (proposal - numbers("goal")).square().sum(1)
        losses.append(float(loss))
        state = judged(state, proposal, loss, growth=2, decay=0.84)
    assert losses == pytest.approx(SEARCH["losses"], rel=1e-10)
    assert state["best"][0].tolist() == pytest.approx(SEARCH["best"], rel=1e-10)


def test_an_equal_proposal_changes_nothing():
    state = {"best": torch.zeros(1, 2), "loss": torch.ones(1), "size": torch.full((1,), 0.7)}
    after = judged(state, torch.ones(1, 2), torch.ones(1), growth=2, decay=0.84)
    assert all(torch.equal(after[name], value) for name, value in state.items())


def test_boxes_and_rates_are_the_official_ones():
    codes = torch.from_numpy(_draw("smile.ws", (50, 6))).float()
    for size, name in ((1.0, "stage1_{}"), (1.7, "stage2_{}_x1.7")):
        box = PSpaceBox(size=size).estimate(codes)
        for side, found in (("low", box.low), ("high", box.high)):
            assert found.tolist() == pytest.approx(GOLDEN["bounds"][name.format(side)], rel=1e-5)
    rates = [0.2 * ramp(epoch / 200, up=0.05, down=0.25) for epoch in GOLDEN["ramp_epochs"]]
    assert rates == pytest.approx(GOLDEN["ramp_lr_for_0.2_of_200"], abs=1e-12)


def found(**options):
    attack = build_attack(
        "smile", **{"identities": 3, "image_to_target": [], "picture": None, "steps": 3, **options}
    )
    attack.surrogates = surrogate_of_smile()
    victim = Victim.of(Colours(), CLASSES, Threat.SCORES)
    return attack, run_attack(attack, victim, prior_of("style")), victim


def test_one_proposal_shows_the_code_of_the_surrogate_and_no_step_the_best_known_one():
    attack, result, victim = found(proposals=1, steps=0)
    known = attack.surrogates
    best = known.answers[:, :3].argmax(0)
    assert torch.equal(result.latents[:, 0], known.codes[best])
    assert victim.queries == 3 == int(result.queries.sum())
    _, moved, _ = found(proposals=1)
    assert not torch.equal(moved.latents, result.latents)


def test_more_proposals_are_never_worse_and_stay_in_their_box():
    attack, few, _ = found(proposals=2)
    _, many, victim = found(proposals=40)
    assert bool((many.confidence >= few.confidence - 1 / 255).all()) and victim.queries == 3 * 40
    assert float(many.confidence.mean()) > float(few.confidence.mean())
    box = attack.proposal_bounds.estimate(attack.surrogates.codes)
    torch.testing.assert_close(box.clip(many.latents[:, 0]), many.latents[:, 0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"growth": 1.0}, "attack.growth=1.0 must be above 1"),
        ({"proposals": 0}, "attack.proposals=0"),
        ({"step_in": "deviation"}, "attack.step_in=deviation is unknown"),
        ({"bounds": {"_target_": "attacks.Energy", "size": 1e-4}}, "attack.bounds is an energy"),
    ],
)
def test_what_cannot_be_is_told_with_its_key(options, told):
    with pytest.raises(ConfigError, match=told):
        build_attack("smile", **options)


def test_without_its_surrogate_it_says_what_to_set():
    attack = build_attack("smile", identities=2, image_to_target=[], picture=None)
    assert isinstance(attack, SMILE)
    victim = Victim.of(Colours(), CLASSES, Threat.SCORES)
    with pytest.raises(ConfigError, match=r"conf/attack/surrogates/smile\.yaml"):
        run_attack(attack, victim, prior_of("style"))
