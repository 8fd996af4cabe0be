from __future__ import annotations

import torch

from attacks.parts.optimisers import adam_step, adam_steps, nesterov_step


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


def written_out(latents, moments, gradient, step, *, lr, betas, eps=1e-8):
    """One step of Adam as in its paper, operator by operator."""
    first = betas[0] * moments[0] + (1 - betas[0]) * gradient
    second = betas[1] * moments[1] + (1 - betas[1]) * gradient**2
    scale = (second / (1 - betas[1] ** (step + 1))).sqrt() + eps
    return latents - lr / (1 - betas[0] ** (step + 1)) * first / scale, (first, second)


def test_several_tensors_move_together_by_the_bits_of_each_written_out():
    draws = torch.Generator().manual_seed(1)
    for betas in ((0.1, 0.1), (0.9, 0.999)):
        latents = [torch.randn(shape, generator=draws) for shape in ((3, 1, 40), (3, 8, 9, 9))]
        moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in latents]
        for step in range(4):
            slopes = [10.0 ** (step - 2) * torch.randn(x.shape, generator=draws) for x in latents]
            expected = [
                written_out(*one, step, lr=0.01, betas=betas)
                for one in zip(latents, moments, slopes, strict=True)
            ]
            before = [x.clone() for pair in moments for x in (*pair, *latents, *slopes)]
            moved, after = adam_steps(latents, moments, slopes, step, lr=0.01, betas=betas)
            unchanged = [x for pair in moments for x in (*pair, *latents, *slopes)]
            assert all(map(torch.equal, before, unchanged))  # what it was given
            latents, moments = moved, after
            for (x, (first, second)), ours, (mean, square) in zip(expected, latents, moments, strict=True):
                assert torch.equal(x, ours) and torch.equal(first, mean) and torch.equal(second, square)
