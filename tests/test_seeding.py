from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from midre_exp.seeding import ItemRNG, derive, generator, integers, normal, uniform
from midre_exp.targets.dropout import CPUDropout, CPUStochasticDepth, draw_on_the_cpu

ROOT = Path(__file__).parents[1]
#: What draws in torch; with a device, or like a tensor, it would draw on that device.
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
DRAWS_LIKE = {"rand_like", "randn_like", "randint_like", "bernoulli_", "exponential_"}


def items(n: int) -> ItemRNG:
    labels = torch.arange(n)
    return ItemRNG(3, "attack", items=(labels, labels * 7))


def test_an_item_draws_the_same_whatever_batch_it_is_in():
    whole = items(50).normal("start", 4, 3)
    parts = torch.cat([items(50)[:17].normal("start", 4, 3), items(50)[17:].normal("start", 4, 3)])
    assert torch.equal(whole, parts)
    assert torch.equal(items(50)[torch.tensor([9, 2])].uniform("x", 5), items(50).uniform("x", 5)[[9, 2]])


def test_items_names_steps_seeds_and_purposes_are_independent():
    rng = items(4)
    draws = [
        rng.uniform("a", 8),
        rng.uniform("b", 8),
        rng.uniform("a", 8, step=1),
        ItemRNG(4, "attack", items=(torch.arange(4), torch.arange(4) * 7)).uniform("a", 8),
        ItemRNG(3, "other", items=(torch.arange(4), torch.arange(4) * 7)).uniform("a", 8),
    ]
    rows = torch.cat(draws)
    assert len(rows.unique(dim=0)) == len(rows)


def test_the_order_of_the_key_columns_matters():
    one, two = torch.tensor([1, 2]), torch.tensor([2, 1])
    rng = ItemRNG(0, "x", items=(one, two)).uniform("u", 6)
    swapped = ItemRNG(0, "x", items=(two, one)).uniform("u", 6)
    assert not torch.equal(rng, swapped)
    assert torch.equal(rng, swapped.flip(0))


def test_uniform_and_normal_have_their_moments():
    rng = ItemRNG(0, "moments", items=torch.arange(2000))
    u = rng.uniform("u", 100)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 3e-3 and abs(u.var() - 1 / 12) < 1e-3
    z = rng.normal("z", 100)
    assert z.isfinite().all()
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert abs((z**4).mean() - 3) < 0.1
    columns = torch.corrcoef(u.T)
    assert (columns - torch.eye(100)).abs().max() < 0.12  # 2,000 samples: five standard errors


def test_derived_seeds_differ_by_purpose_and_generators_repeat():
    assert derive(0, "target") != derive(0, "prior") != derive(1, "prior")
    assert 0 <= derive(12345, "x", 7) < 2**63
    assert torch.equal(
        torch.rand(5, generator=generator(1, "a", 2)), torch.rand(5, generator=generator(1, "a", 2))
    )


def engine():
    for package in ("midre_exp", "attacks", "defenses"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def drawn_on_a_device(tree):
    """Where a call draws on the device that it names, or on that of a tensor; ``torch.Generator(DEVICE)``."""
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        of_torch = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        name = call.func.attr
        is_placed = any(keyword.arg == "device" for keyword in call.keywords)
        if (of_torch and name in DRAWS and is_placed) or name in DRAWS_LIKE:
            yield call.lineno
        if of_torch and name == "Generator" and (call.args or call.keywords):
            yield call.lineno


def test_nothing_is_drawn_on_a_device_but_the_cpu():
    # these draw on the CPU, whatever they are given: they make their own tensor there
    allowed = {"midre_exp/targets/dropout.py"}
    found = {
        (name, line) for name, tree in engine() for line in drawn_on_a_device(tree) if name not in allowed
    }
    assert not found


def test_that_test_finds_what_it_looks_for():
    draws = "torch.rand(3, device=x.device); torch.randn_like(z); torch.Generator('cuda'); torch.rand(3)"
    assert len([*drawn_on_a_device(ast.parse(draws))]) == 3


def test_draws_are_what_torch_draws_and_move():
    there = torch.device("meta")
    for draw, of_torch in (
        (lambda g, **how: uniform(g, 2, 3, **how), lambda g: torch.rand(2, 3, generator=g)),
        (lambda g, **how: normal(g, 2, 3, **how), lambda g: torch.randn(2, 3, generator=g)),
        (lambda g, **how: integers(g, 4, 9, 2, 3, **how), lambda g: torch.randint(4, 9, (2, 3), generator=g)),
    ):
        assert torch.equal(draw(generator(0, "a")), of_torch(generator(0, "a")))
        ours, theirs = generator(0, "b"), generator(0, "b")
        assert draw(ours, device=there).device == there
        of_torch(theirs)
        assert torch.equal(ours.get_state(), theirs.get_state())  # as many were drawn, on the CPU


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "make", [nn.Dropout, lambda p: StochasticDepth(p, "row"), lambda p: StochasticDepth(p, "batch")]
)
def test_dropout_draws_elsewhere_what_it_draws_on_the_cpu(make, p):
    plain, network = make(p), nn.Sequential(make(p))
    draw_on_the_cpu(network)
    (ours,) = network
    assert type(ours) in (CPUDropout, CPUStochasticDepth)
    x = torch.rand(5, 4, 2) + 1
    torch.manual_seed(1)
    expected, state = plain(x), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(ours(x), expected)
    torch.manual_seed(1)
    factors = ours.factors(x.shape)  # that the input of another device is multiplied by
    assert torch.allclose(x * factors, expected)
    assert torch.equal(torch.get_rng_state(), state) or p in (0.0, 1.0)
    assert ours.eval()(x) is x or torch.equal(ours(x), x)


def test_elsewhere_dropout_multiplies_by_its_factors(monkeypatch):
    network = nn.Sequential(nn.Dropout(0.5))
    draw_on_the_cpu(network)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert network(torch.empty(3, 2, device="meta")).device.type == "meta"
    assert not torch.equal(before, torch.get_rng_state())
