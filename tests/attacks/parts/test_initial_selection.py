"""Where attacks on style priors start: the search of PPA, IF-GMI and MIRROR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from attacks.parts.initial_selection import (
    InitialSelection,
    largest,
    most_confident,
    place_in_class,
    style_prior,
)
from midre_exp.data.transforms import CenterCrop, Resize
from midre_exp.errors import ConfigError
from midre_exp.runtime import Runtime
from tests.attacks.toy_style import shared_rng, toy_prior, toy_victim
from tests.golden.fill import golden

GOLDEN = golden("attack_ppa")["initial_selection"]
TARGETS = torch.tensor(GOLDEN["targets"])
STEPS = (CenterCrop(size=GOLDEN["center_crop"]), Resize(size=GOLDEN["resize"]))
SETTINGS = {"size": 12, "psi": 0.5, "cutoff": 4, "flip": True, "z_seed": 42, "batch": 12}
RUNTIME = Runtime()


@pytest.fixture(scope="module")
def prior():
    return toy_prior()


def confidences(prior, victim=None, runtime=RUNTIME, **changes):
    search = InitialSelection(**{**SETTINGS, **changes})
    codes = prior.codes(search.z(prior, shared_rng()), psi=search.psi, cutoff=search.cutoff)
    return search.confidences(victim or toy_victim(), prior, codes, STEPS, runtime, shared_rng=shared_rng())


def test_confidences_and_choice_are_the_golden_ones(prior):
    found = confidences(prior)
    for label in (0, 1, 7):
        expected = torch.tensor(GOLDEN[f"confidences_target{label}"])
        torch.testing.assert_close(found[:, label], expected, rtol=1e-4, atol=1e-6)
    chosen = most_confident(found, TARGETS)
    assert chosen.tolist() == GOLDEN["chosen_indices"]
    expected = torch.tensor(GOLDEN["chosen_confidences"])
    torch.testing.assert_close(found[chosen, TARGETS], expected, rtol=1e-4, atol=1e-6)


def test_batches_change_nothing_and_every_look_at_the_target_counts(prior):
    target = toy_victim()
    whole = confidences(prior, target)
    assert target.queries == 24
    torch.testing.assert_close(confidences(prior, batch=5), whole)
    torch.testing.assert_close(confidences(prior, runtime=replace(RUNTIME, chunk=7)), whole)


def test_without_flip_the_target_sees_each_candidate_once_as_it_is(prior):
    target = toy_victim()
    found = confidences(prior, target, flip=False)
    assert target.queries == 12
    codes = prior.codes(InitialSelection(**SETTINGS).z(prior, shared_rng()), psi=0.5, cutoff=4)
    images = STEPS[1](STEPS[0](prior.synthesise(codes).clamp(0, 1)))
    torch.testing.assert_close(found, target(images).logits.softmax(1))
    assert not torch.allclose(found, confidences(prior), atol=1e-2)
    assert not torch.allclose(found, confidences(prior, flip=False, clamp=False), atol=1e-4)


def test_latents_are_numpys_or_those_of_the_runs_seed(prior):
    official = InitialSelection(**SETTINGS).z(prior, shared_rng(3))
    expected = np.random.RandomState(42).randn(12, 64).astype(np.float32)
    assert official.numpy().tobytes() == expected.tobytes()
    search = InitialSelection(**{**SETTINGS, "z_seed": None, "size": 500})
    own = [search.z(prior, shared_rng(seed)) for seed in (0, 0, 1)]
    assert own[0].shape == (500, 64)
    assert torch.equal(own[0], own[1])
    assert not torch.isclose(own[0], own[2]).any(1).all()
    assert abs(own[0].mean()) < 0.02
    assert abs(own[0].std() - 1) < 0.02


def test_a_class_gets_its_best_candidates_in_order_and_none_twice():
    values = torch.rand(30, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([4, 0, 4, 2, 0, 4, 2, 4])
    chosen = most_confident(values, labels)
    for label in (0, 2, 4):
        own = chosen[labels == label]
        best = sorted(range(30), key=lambda i: -values[i, label])
        assert own.tolist() == best[: len(own)]
    # of equals the first, as the official search by repeated maximum
    assert most_confident(torch.ones(4, 1), torch.zeros(3, dtype=torch.long)).tolist() == [0, 1, 2]
    assert most_confident(values, labels[:0]).tolist() == []


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_the_best_candidates_are_those_of_a_stable_sort_with_equals_and_without(levels):
    values = torch.randint(levels, (60, 9), generator=torch.Generator().manual_seed(levels)) / levels
    for wanted in (0, 1, 7, 59, 60):
        expected = values.argsort(dim=0, descending=True, stable=True)[:wanted]
        assert torch.equal(largest(values, wanted), expected)


def test_more_candidates_wanted_than_there_are_is_an_error():
    with pytest.raises(
        ConfigError, match=r"attack\.search\.size=2 is less than the 3 candidates wanted per identity"
    ):
        most_confident(torch.rand(2, 4), torch.tensor([1, 3, 1, 1]))


def test_places_within_a_class_are_those_of_a_loop_over_classes():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.2, 0.5, 0.3])
    labels = torch.tensor([7, 2, 7, 7, 2, 7, 9])
    expected = torch.zeros(7, dtype=torch.long)
    for label in labels.unique():
        own = (labels == label).nonzero().squeeze(1)
        for place, item in enumerate(sorted(own.tolist(), key=lambda i: -scores[i])):
            expected[item] = place
    assert place_in_class(scores, labels).tolist() == expected.tolist() == [3, 0, 0, 1, 1, 2, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "attack.search.size=0 must be at least 1"),
        ({"batch": 0}, "attack.search.batch=0 must be at least 1"),
        ({"cutoff": 0}, "attack.search.cutoff=0 must be at least 1"),
        ({"psi": 1.5}, "attack.search.psi=1.5 must lie in"),
        ({"z_seed": -1}, "attack.search.z_seed=-1 is no NumPy seed"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        InitialSelection(**{**SETTINGS, **change})


def test_another_prior_than_a_style_generator_is_refused():
    with pytest.raises(ConfigError, match=r"attack\.prior is Linear; use attack/prior=stylegan2"):
        style_prior(nn.Linear(1, 1))
