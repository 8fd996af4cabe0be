from __future__ import annotations

import torch

from attacks.parts.optimisers import adam_step, nesterov_step


def gradients(steps: int) -> torch.Tensor:
    return torch.randn(steps, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_adam_steps_are_those_of_torch():
    start = torch.zeros(4, 5, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.3, betas=(0.8, 0.95), eps=1e-3)
    ours, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    for step, gradient in enumerate(gradients(7)):
        theirs.grad = gradient.clone()
        optimiser.step()
        ours, moments = adam_step(ours, moments, gradient, step, lr=0.3, betas=(0.8, 0.95), eps=1e-3)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_nesterov_steps_are_those_of_torch():
    theirs = torch.ones(4, 5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([theirs], lr=0.3, momentum=0.9, nesterov=True)
    ours, velocity = torch.ones(4, 5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)
    for gradient in gradients(7):
        theirs.grad = gradient.clone()
        optimiser.step()
        ours, velocity = nesterov_step(ours, velocity, gradient, lr=0.3, momentum=0.9)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_a_row_moves_as_it_would_alone():
    start, zeros, gradient = torch.ones(4, 5), torch.zeros(4, 5), gradients(1)[0].float()
    together, _ = adam_step(start, (zeros, zeros), gradient, 0, lr=0.1)
    alone, _ = adam_step(start[1:2], (zeros[1:2], zeros[1:2]), gradient[1:2], 0, lr=0.1)
    assert torch.equal(together[1:2], alone)


def test_adam_takes_no_notice_of_the_scale_of_the_loss():
    start, zeros, gradient = torch.ones(4, 5), torch.zeros(4, 5), gradients(1)[0].float()
    once, _ = adam_step(start, (zeros, zeros), gradient, 0, lr=0.1, eps=0.0)
    scaled, _ = adam_step(start, (zeros, zeros), gradient / 60, 0, lr=0.1, eps=0.0)
    torch.testing.assert_close(once, scaled)


def test_the_null_settings_do_not_move():
    start, zeros, gradient = torch.ones(4, 5), torch.zeros(4, 5), gradients(1)[0].float()
    assert torch.equal(adam_step(start, (zeros, zeros), gradient, 0, lr=0.0)[0], start)
    assert torch.equal(nesterov_step(start, zeros, gradient, lr=0.0, momentum=0.0)[0], start)
