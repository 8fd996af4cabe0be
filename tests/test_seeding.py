from __future__ import annotations

import torch

from midre_exp.seeding import ItemRNG, derive, generator


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
