from __future__ import annotations

import pytest
import torch

from attacks.parts.l1_ball import project


@pytest.mark.parametrize("rounds", [2, 3, 8, 50])
def test_rounds_that_nobody_asked_after_change_no_bit(monkeypatch, rounds):
    draws = torch.Generator().manual_seed(0)
    far = torch.randn(6, 5, 40, generator=draws) * torch.tensor([0.0, 1e-3, 0.1, 1, 10, 1e4])[:, None, None]
    steep = torch.cat((far, 0.5 ** torch.arange(200.0).expand(1, 200).reshape(1, 5, 40)))  # many rounds
    asked, equal = [], torch.equal
    monkeypatch.setattr(torch, "equal", lambda *pair: asked.append(1) or equal(*pair))
    always, count = project(steep, 1.5), len(asked)
    asked.clear()
    found = project(steep, 1.5, rounds)
    assert equal(found, always)
    assert len(asked) <= -(-count // rounds) < count
    norms = found.abs().sum((1, 2))
    assert (norms <= 1.5 + 1e-4).all() and torch.allclose(norms[3:], torch.tensor(1.5), atol=1e-4)
    assert equal(found[:2], steep[:2])
