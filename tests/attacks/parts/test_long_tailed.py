"""Golden numbers: SMILE's class weights, long-tailed losses and one Adam step of the official program."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attacks.parts.long_tailed import Experts, LongTailedSurrogate, class_weights, long_tailed_loss
from midre_exp.errors import ConfigError
from midre_exp.plan.choice import choice
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import initial_surrogates
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.contracts.test_every_attack import SmallStyle
from tests.golden.fill import _draw, golden
from tests.priors.small import Killed

GOLDEN = golden("smile")
RELEASED = {"temperature": 0.5, "label_weight": 0.15, "diversity_weight": 10.0}


def draw(key: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(_draw(key, shape)).float()


def answers() -> torch.Tensor:
    logits = 2 * draw("smile.logits", 24, 12)
    logits[:, 0] += 3
    return logits.log_softmax(1)


def experts() -> list[nn.Linear]:
    made = [nn.Linear(5, 12) for _ in range(3)]
    for number, layer in enumerate(made):
        layer.weight.data = 0.5 * draw(f"smile.w{number}", 12, 5)
        layer.bias.data = 0.1 * draw(f"smile.b{number}", 12)
    return made


def loss_of(made: list[nn.Linear]):
    target = answers()
    weights = class_weights(target, top=10, beta=0.9)[target.argmax(1)]
    logits = torch.stack([layer(draw("smile.x", 24, 5)) for layer in made])
    return long_tailed_loss(logits, target, weights, weighting="released", **RELEASED), weights


def test_class_weights_and_every_term_are_the_official_ones():
    weights = class_weights(answers(), top=10, beta=0.9)
    assert weights.tolist() == pytest.approx(GOLDEN["class_weights"], rel=1e-5)
    with torch.no_grad():
        (total, terms), per_sample = loss_of(experts())
    assert float(per_sample.sum()) == pytest.approx(GOLDEN["sum_of_sample_weights"], rel=1e-5)
    assert float(terms["distillation"]) == pytest.approx(GOLDEN["kl_sum_over_experts"], rel=1e-5)
    assert float(terms["labels"]) == pytest.approx(GOLDEN["ce_sum_over_experts"], rel=1e-5)
    assert float(terms["diversity"]) == pytest.approx(GOLDEN["diversity_sum_of_inverse_kl"], rel=1e-5)
    assert float(total) == pytest.approx(GOLDEN["total"], rel=1e-5)
    weighted = per_sample.sum() * terms["distillation"]
    assert float(weighted) == pytest.approx(GOLDEN["weighted_kl"], rel=1e-5)
    weighted = 0.15 * per_sample.sum() * terms["labels"]
    assert float(weighted) == pytest.approx(GOLDEN["weighted_ce_times_0.15"], rel=1e-5)
    assert 10 * float(terms["diversity"]) == pytest.approx(GOLDEN["ten_times_diversity"], rel=1e-5)


def test_a_step_of_adam_is_the_official_one():
    made = experts()
    adam = torch.optim.Adam([p for layer in made for p in layer.parameters()], lr=1e-3)
    loss_of(made)[0][0].backward()
    assert made[0].weight.grad[0].tolist() == pytest.approx(GOLDEN["expert0_weight_grad_first_row"], rel=1e-4)
    adam.step()
    assert made[0].weight[0].tolist() == pytest.approx(
        GOLDEN["expert0_weight_after_adam_first_row"], rel=1e-5
    )
    assert made[2].bias.tolist() == pytest.approx(GOLDEN["expert2_bias_after_adam"], rel=1e-4)


def test_weights_of_samples_weigh_their_own_sample():
    target = answers()
    logits = torch.stack([layer(draw("smile.x", 24, 5)) for layer in experts()])
    first = torch.zeros(24).scatter_(0, torch.tensor([0]), 1.0)
    without = {**RELEASED, "diversity_weight": 0.0}
    whole, _ = long_tailed_loss(logits, target, first, weighting="per_sample", **without)
    alone, _ = long_tailed_loss(logits[:, :1], target[:1], torch.ones(1), weighting="released", **without)
    torch.testing.assert_close(whole, alone)
    batch, _ = long_tailed_loss(logits, target, first, weighting="released", **without)
    assert not torch.isclose(batch, alone)


def test_experts_share_their_norm_and_nothing_else():
    made = Experts(4, 3, 5, 2)
    assert made(torch.rand(7, 4)).shape == (2, 7, 5)
    assert sum(p.numel() for p in made.parameters()) == 2 * (4 * 3 + 3 * 5 + 5) + 2 * 3


class Quarters(nn.Module):
    """Answers by the colours of an image, and counts those it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = 0

    def forward(self, images, taps=()):
        self.shown += len(images)
        features = images.mean((2, 3))
        return Output(9 * features, features)


def small(**changes) -> LongTailedSurrogate:
    node = choice("attack", "smile", scale="mini")["surrogates"]
    network = {**node["network"], "width": 0.0625}
    search = {**node["search"], "size": 30, "cutoff": 2, "batch": 7}
    few = {"search": search, "network": network, "bottleneck": 4, "epochs": 3, "batch_size": 10, "seed": 0}
    return initial_surrogates({**node, **few, "image_to_target": [], **changes}, num_classes=3)


def style() -> SmallStyle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallStyle().eval().requires_grad_(False)


def fitted(made: LongTailedSurrogate, work, network=None, **runtime) -> dict[str, float]:
    victim = Victim.of(network or Quarters(), 3, Threat.SCORES)
    return made.fit(None, victim, prior=style(), seed=0, work=work, runtime=Runtime(**runtime))


@pytest.mark.parametrize("train_network", [True, False])
def test_a_preparation_that_is_killed_ends_with_the_same_bits_and_asks_nothing_twice(train_network, tmp_path):
    network, whole = Quarters(), small(train_network=train_network)
    told = fitted(whole, tmp_path / "whole", network)
    assert network.shown == told["queries"] == 30
    killed, again = small(train_network=train_network), small(train_network=train_network)
    shown = Quarters()
    with pytest.raises(KeyboardInterrupt):
        victim = Victim.of(shown, 3, Threat.SCORES)
        runtime = Killed(at=4, title="learning", checkpoint_seconds=0)
        killed.fit(None, victim, prior=style(), seed=0, work=tmp_path / "broken", runtime=runtime)
    assert fitted(again, tmp_path / "broken", shown) == told
    assert shown.shown == 30
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def test_what_was_asked_is_kept_and_taken_up_again(tmp_path):
    made = small()
    fitted(made, tmp_path)
    other = small()
    other.restore(made.state_dict())
    assert torch.equal(other.codes, made.codes) and other.codes.shape == (30, 12)
    torch.testing.assert_close(other.answers.exp().sum(1), torch.ones(30))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(other.eval()(images), made.eval()(images))


def test_a_victim_that_shows_too_little_or_too_much_is_refused(tmp_path):
    for threat in (Threat.WHITE_BOX, Threat.LABELS):
        victim = Victim.of(Quarters(), 3, threat)
        with pytest.raises(ConfigError, match="attack smile"):
            small().fit(None, victim, prior=style(), seed=0, work=tmp_path, runtime=Runtime())


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ConfigError, match=r"replaces=last_linear is no linear layer of ResNet; it has fc"):
        small(replaces="last_linear")
