from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from attacks.losses import critic_prior, cross_entropy_identity
from tests.golden.fill import golden


def gmi_objective(scores: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """GMI's with its weight of 100."""
    return critic_prior(scores) + 100 * cross_entropy_identity(logits, labels)


@pytest.fixture
def inversion():
    values = golden("gmi_losses")["inversion"]
    tensors = {name: torch.tensor(values[name]) for name in ("d_scores", "target_logits", "labels")}
    return {**values, **tensors}


def test_means_of_the_gmi_losses_match_the_golden_numbers(inversion):
    scores, logits, labels = (inversion[name] for name in ("d_scores", "target_logits", "labels"))
    assert critic_prior(scores).mean().item() == pytest.approx(inversion["prior"], rel=1e-5)
    identity = cross_entropy_identity(logits, labels)
    assert identity.mean().item() == pytest.approx(inversion["identity_ce"], rel=1e-5)
    total = gmi_objective(scores, logits, labels)
    assert total.mean().item() == pytest.approx(inversion["total_lambda_100"], rel=1e-5)


def test_a_sample_has_the_same_loss_in_any_batch(inversion):
    scores, logits, labels = (inversion[name] for name in ("d_scores", "target_logits", "labels"))
    together = gmi_objective(scores, logits, labels)
    assert together.shape == (4,)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(gmi_objective(scores[order], logits[order], labels[order]), together[order])
    alone = [gmi_objective(*(x[i : i + 1] for x in (scores, logits, labels))) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_cross_entropy_is_minus_the_log_probability():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -math.inf, -math.inf]])
    loss = cross_entropy_identity(logits, torch.tensor([2, 1]))
    torch.testing.assert_close(loss, torch.tensor([math.log(4.0), math.log(4.0)]))


def test_gradients_ask_for_more_realism_and_more_of_the_label(inversion):
    scores, logits = (inversion[name].clone().requires_grad_() for name in ("d_scores", "target_logits"))
    gmi_objective(scores, logits, inversion["labels"]).sum().backward()
    assert (scores.grad < 0).all()
    wanted = torch.nn.functional.one_hot(inversion["labels"], 6).bool()
    assert (logits.grad[wanted] < 0).all()
    assert (logits.grad[~wanted] > 0).all()
