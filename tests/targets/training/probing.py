"""A defense that uses what the engine lends it: the network in ``before_step`` and in its losses, a state
that trains, companions and reports.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from defenses import Companions, Defense


class Pattern(nn.Module):
    """A pattern with momentum, and a plain number in its state dict."""

    def __init__(self):
        super().__init__()
        self.pattern = nn.Parameter(0.1 * torch.rand(3, 32, 32))
        self.register_buffer("momentum", torch.zeros(3, 32, 32))
        self.steps = 0

    def get_extra_state(self):
        return {"steps": self.steps}

    def set_extra_state(self, state):
        self.steps = state["steps"]


class Probing(Defense):
    """Trains a pattern that raises the loss, and the network on images that show it, in double precision."""

    def __init__(self, noise=0.01):
        self.noise, self.own = noise, None

    def state(self, model):
        self.own = Pattern().double()
        return self.own

    def before_step(self, batch, classify, progress, generator):
        noise = self.noise * torch.rand(batch.images.shape, generator=generator).double()
        shown = (batch.images + noise + self.own.pattern).detach().requires_grad_()
        output = classify(shown, ("second",))
        assert output.taps["second"].shape[0] == len(shown)
        loss = F.cross_entropy(output.logits, batch.labels)
        (gradient,) = torch.autograd.grad(loss, shown)
        self.own.momentum.mul_(0.5).add_(gradient.sum(0))
        self.own.pattern.data.add_(0.1 * self.own.momentum)
        self.own.steps += 1
        triggered = (batch.images + self.own.pattern).detach()
        companions = Companions("patterned", triggered, batch.labels.flip(0), 0.25)
        return replace(batch, images=(batch.images + noise).to(triggered), companions=companions)

    def extra_losses(self, output, batch, progress, *, classify, generator):
        other = 0.9 * batch.images + self.noise * torch.rand(batch.images.shape, generator=generator)
        return {"smooth": (classify(other).logits - output.logits).square().mean()}

    def reports(self, output, batch):
        return {"norm": output.logits.detach().square().mean(), "steps": torch.tensor(float(self.own.steps))}
