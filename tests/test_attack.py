from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from midre_exp.attack import Attack, AttackResult, to_uint8
from midre_exp.data.transforms import Resize
from midre_exp.plan.keys import is_pretrained, reads_public
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, make_victim


class Pixels(Prior):
    """Latents are pixels."""

    latent_dim = 12

    def generate(self, latents, labels=None):
        return latents.view(-1, 3, 2, 2)

    def realism(self, images):
        return images.flatten(1).mean(1)

    def fit(self, public, victim, **options):
        raise NotImplementedError


class Mean(nn.Module):
    """A target whose class is the brightest channel."""

    def forward(self, images: Tensor, taps: tuple[str, ...] = ()) -> Output:
        means = images.mean((2, 3))
        return Output(10 * means, means)


def victim():
    return make_victim(Mean(), 3, Threat.WHITE_BOX)


class Chosen(Attack):
    """Starts from codes chosen for all items at once, draws one number per step for all, keeps the better
    half of each identity.
    """

    threat = Threat.WHITE_BOX
    deaths: tuple[str, ...] = ()

    def initialise(self, victim, prior, labels, *, common, runtime):
        self.die("prepare")
        victim(torch.zeros(5, 3, 2, 2))
        rows = torch.arange(len(labels), dtype=torch.float32)
        return (rows / 100)[:, None].expand(-1, 12).clone()

    def invert(self, victim, prior, labels, rng, loop):
        state = {"latents": loop.start}
        for step in loop(3, state):
            self.die("invert")
            victim(prior.generate(state["latents"]))
            state["latents"] = state["latents"] + 0.1 * loop.common.uniform("all", step=step)
        return state["latents"]

    def select(self, victim, prior, labels, latents, details, *, common, runtime):
        self.die("select")
        victim(prior.generate(latents))
        return {"selected": torch.arange(len(labels)) % self.restarts < self.restarts // 2}

    def die(self, place):
        if place in self.deaths:
            raise KeyboardInterrupt


def chosen(**changes):
    return Chosen(**{"identities": 3, "restarts": 4, **changes})


def test_what_is_chosen_for_all_items_reaches_each_and_counts_its_queries(tmp_path):
    target = victim()
    found = chosen().run(target, Pixels(), seed=0, work=tmp_path, runtime=Runtime())
    first = found.latents[:, 0] - torch.arange(12) / 100
    torch.testing.assert_close(first, first[:1].expand(12))  # one draw for all
    assert first[0] > 0
    assert target.queries == 5 + 3 * 12 + 12
    assert int(found.queries.sum()) == target.queries
    assert found.details["selected"].view(3, 4).tolist() == [[True, True, False, False]] * 3


def test_chunks_and_their_order_change_nothing(tmp_path):
    whole = chosen().run(victim(), Pixels(), seed=0, work=tmp_path / "a", runtime=Runtime())
    parts = chosen().run(victim(), Pixels(), seed=0, work=tmp_path / "b", runtime=Runtime(chunk=5))
    torch.testing.assert_close(whole.latents, parts.latents, rtol=0, atol=0)
    assert int(parts.queries.sum()) == int(whole.queries.sum())
    other = chosen().run(victim(), Pixels(), seed=1, work=tmp_path / "c", runtime=Runtime())
    assert not torch.allclose(whole.latents, other.latents)


@pytest.mark.parametrize("place", ["prepare", "invert", "select"])
def test_an_attack_killed_anywhere_ends_with_the_same_result_and_count(tmp_path, place):
    whole = chosen().run(victim(), Pixels(), seed=0, work=tmp_path / "whole", runtime=Runtime())
    dying = chosen()
    dying.deaths = (place,)
    with pytest.raises(KeyboardInterrupt):
        dying.run(victim(), Pixels(), seed=0, work=tmp_path / "killed", runtime=Runtime(chunk=8))
    again = chosen()
    again.deaths = {"prepare": (), "invert": ("prepare",), "select": ("prepare", "invert")}[
        place
    ]  # not twice
    target = victim()
    found = again.run(target, Pixels(), seed=0, work=tmp_path / "killed", runtime=Runtime(chunk=8))
    torch.testing.assert_close(found.latents, whole.latents, rtol=0, atol=0)
    assert target.queries == int(found.queries.sum()) == int(whole.queries.sum())


def test_the_kept_picture_may_be_another_than_the_one_the_target_sees(tmp_path):
    attack = chosen(image_to_target=(torch.ones_like,), picture=(Resize(size=4),))
    found = attack.run(victim(), Pixels(), seed=0, work=tmp_path, runtime=Runtime())
    assert found.images.shape == (12, 3, 4, 4)
    assert torch.equal(found.images, to_uint8(Resize(size=4)(found.latents.view(-1, 3, 2, 2))))
    torch.testing.assert_close(found.confidence, torch.full((12,), 1 / 3))  # all channels alike


def test_images_that_are_no_function_of_the_latents_are_kept_as_they_are(tmp_path):
    class Painted(Chosen):
        def invert(self, victim, prior, labels, rng, loop):
            latents = super().invert(victim, prior, labels, rng, loop)
            return AttackResult(
                latents,
                queries=torch.full_like(labels, 3),
                images=torch.full((len(labels), 3, 2, 2), 0.5),
            )

    found = Painted(identities=3, restarts=4).run(
        victim(), Pixels(), seed=0, work=tmp_path, runtime=Runtime()
    )
    assert (found.images == 127).all()


def test_after_one_chunk_did_not_fit_the_others_are_cut_as_well(tmp_path, capsys):
    sizes = []

    class Greedy(Chosen):
        def invert(self, victim, prior, labels, rng, loop):
            sizes.append(len(labels))
            if len(labels) > 3:
                raise torch.cuda.OutOfMemoryError("too much")
            return super().invert(victim, prior, labels, rng, loop)

    greedy = Greedy(identities=3, restarts=4)
    found = greedy.run(victim(), Pixels(), seed=0, work=tmp_path / "a", runtime=Runtime(chunk=8))
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    whole = chosen().run(victim(), Pixels(), seed=0, work=tmp_path / "b", runtime=Runtime())
    torch.testing.assert_close(found.latents, whole.latents, rtol=0, atol=0)
    assert found.labels.tolist() == [label for label in range(3) for _ in range(4)]
    assert capsys.readouterr().err.count("out of memory") == 2


def test_published_weights_need_no_public_images():
    assert is_pretrained({"pretrained": "ffhq.pkl"})
    assert is_pretrained({"pretrained": {"generator": "G.tar", "critic": None}})
    assert not is_pretrained({"pretrained": {"generator": None, "critic": None}})
    assert not is_pretrained({"pretrained": None})
    assert not is_pretrained({})
    assert not reads_public({"prior": {"pretrained": "ffhq.pkl"}})
    assert reads_public({"prior": {"pretrained": "ffhq.pkl"}, "surrogates": {"name": "lomma"}})
