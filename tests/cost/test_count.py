from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from midre_exp.cost.accelerators import accelerator, seconds
from midre_exp.cost.count import Counter
from midre_exp.cost.counted import Counted, Operator, Phase
from midre_exp.cost.programs import count_stage
from midre_exp.cost.sampling import SampledLoop, SampledRuntime
from midre_exp.cost.sizes import Sizes
from midre_exp.memory import batches
from midre_exp.plan.compose import packaged_configs, settings_of
from tests.conftest import TINY

SIZES = Sizes(train=16, test=8, public=32, classes=4)


def counted(program) -> Phase:
    """What a program computes on tensors without content."""
    with Counter() as counter, counter.phase("all"):
        program()
    return counter.phases[0]


def backward_of(network: nn.Module, *shape: int) -> None:
    network(torch.empty(*shape).requires_grad_()).sum().backward()


@pytest.mark.parametrize(
    ("layer", "shape", "forward"),
    [
        (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 10), 2 * 2 * 8 * 100 * 27),
        (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 10, 10), 2 * 2 * 8 * 100 * 9),
        (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 2 * 4 * 25 * 6 * 4),
        (lambda: nn.Linear(12, 5), (7, 12), 2 * 7 * 12 * 5),
    ],
)
def test_a_layer_computes_its_products_forward_and_twice_as_many_backward(layer, shape, forward):
    assert counted(lambda: backward_of(layer(), *shape)).flops == 3 * forward


def test_real_tensors_give_the_same_number():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    with FlopCounterMode(display=False) as real:
        backward_of(network, 5, 3, 8, 8)
    found = counted(
        lambda: backward_of(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)), 5, 3, 8, 8
        )
    )
    assert found.flops == real.get_total_flops()


def test_the_peak_is_that_of_the_tensors_that_live_together():
    def program() -> None:
        one = torch.zeros(1000)  # 4000 bytes
        two = one + 1  # 8000
        del one  # 4000
        three = two * 2  # 8000
        del two
        torch.cat((three, three, three))  # 4000 + 12000

    found = counted(program)
    assert found.fixed == 16_000
    assert found.bytes == 4000 + 8000 + 8000 + 24_000  # written; read and written thrice


def test_a_batch_of_a_large_set_moves_the_batch_alone():
    """Also where the program asks what device the set is on."""

    def program() -> None:
        images, rows = torch.empty(10**6, 1000, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
        images[rows.to(images.device)]

    assert counted(program).bytes < 10_000


def test_numbers_that_a_program_asks_for_are_given():
    def program() -> None:
        mask = torch.ones(6, dtype=torch.bool)
        values = torch.zeros(6)
        assert bool(mask.all()) and float(values.sum()) == 1.0
        assert len(values[mask]) == 6 and mask.nonzero().shape == (6, 1)
        values[mask] = 2.0
        assert torch.bincount(torch.zeros(3, dtype=torch.int64), minlength=5).shape == (5,)
        assert torch.cat((torch.empty(0, 0), torch.zeros(3, 2)), 1).shape == (3, 2)

    assert counted(program).kernels > 0


def settings(*more: str):
    tiny = [part for part in TINY if "attack=brepmi" not in more or not part.startswith("attack.steps")]
    with packaged_configs():
        return settings_of(["setup=demo", *tiny, *more])


def test_training_grows_with_epochs_and_costs_what_a_real_step_does():
    few, many = (count_stage("target", settings(f"target.recipe.epochs={n}"), SIZES) for n in (2, 6))
    assert many.phases[0].flops == pytest.approx(3 * few.phases[0].flops)
    assert many.phases[0].fixed == few.phases[0].fixed  # memory does not
    twice = count_stage("target", settings(), Sizes(32, 8, 32, 4))
    assert twice.phases[0].flops == pytest.approx(2 * few.phases[0].flops)


def test_a_training_that_stops_early_costs_the_epochs_it_trains():
    whole = count_stage("target", settings("target.recipe.epochs=4"), SIZES)
    early = ["defense=early_stopping", "defense.early_stopping.share=0.5", "target.recipe.epochs=4"]
    half = count_stage("target", settings(*early), SIZES)
    assert half.phases[0].flops == pytest.approx(whole.phases[0].flops / 2)
    assert half.phases[1].flops == pytest.approx(whole.phases[1].flops * 3 / 5)  # a look after each, one more


#: Passes of a step in units of a forward: a plain step has 3, a gradient of the images alone 2.
PASSES = {"atat": 3 + 5 * 2 + 3, "adversarial_training": 4 * 2 + 3, "trapmid": 2 * 3 + 2 * 2 + 2 * 3}


@pytest.mark.parametrize("defense", PASSES)
def test_what_a_defense_asks_the_network_in_a_step_is_counted(defense):
    def of_training(*overrides) -> float:
        found = count_stage("target", settings("target=resnet18", *overrides), SIZES)
        return sum(phase.flops for phase in found.phases if phase.name == "training")

    times = of_training(f"defense={defense}") / of_training()
    assert times == pytest.approx(PASSES[defense] / 3, rel=0.05)


def test_a_pretraining_computes_what_a_target_of_its_images_would():
    recipe = [f"target.pretraining.recipe.{key}" for key in ("epochs=2", "batch_size=8")]
    sizes = Sizes(1, 1, 1, 1, pretraining_train=16, pretraining_test=8, pretraining_classes=4)
    found = count_stage("pretraining", settings("target.weights=public", *recipe), sizes)
    target = count_stage("target", settings(), SIZES)
    assert [phase.flops for phase in found.phases] == [phase.flops for phase in target.phases]
    assert [phase.fixed for phase in found.phases] == [phase.fixed for phase in target.phases]


def test_an_attack_grows_with_steps_and_items_and_holds_more_in_larger_chunks():
    def attack(*more: str) -> Phase:
        found = count_stage("attack", settings("attack=gmi", *more), SIZES)
        return next(phase for phase in found.phases if phase.name == "optimisation")

    one = attack("attack.identities=2", "attack.restarts=2", "attack.steps=10")
    two = attack("attack.identities=4", "attack.restarts=2", "attack.steps=10")
    long = attack("attack.identities=2", "attack.restarts=2", "attack.steps=1000")
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert long.flops == pytest.approx(100 * one.flops, rel=0.11)  # all but the images of the result
    assert one.per_item > 0
    assert two.memory(8) == pytest.approx(two.fixed + 8 * two.per_item)
    assert two.chunk(512, free=two.fixed + 3 * two.per_item) == 3


def test_a_count_survives_its_file():
    phase = Phase("a", (Operator("conv", 2.0, 3.0, 1, 4.0),), 5.0, 6.0, 1, 10, 2)
    found = Counted((phase,), 7.0)
    assert Counted.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_the_slowest_of_arithmetic_traffic_and_launches_decides():
    kind = accelerator("NVIDIA A100-SXM4-40GB")
    assert kind is not None and kind.memory == 40

    def of(*operator) -> float:
        return seconds(Counted((Phase("a", (Operator(*operator),), 0.0),)), kind, "tf32")

    assert of("conv", 156e12 * 0.4, 0.0, 1, 3.0) == pytest.approx(3)
    assert of("other", 0.0, 2.04e12 * 0.75, 1, 2.0) == pytest.approx(2)
    assert of("other", 0.0, 0.0, 2, 1.0) == pytest.approx(12e-6)
    assert accelerator("AMD EPYC, 2 threads") is not None and accelerator("Unknown 9000") is None


def test_a_loop_until_nothing_changes_ends():
    def program() -> None:
        value = torch.ones(3)
        while not torch.equal(value, value / 2):
            value = value / 2

    assert counted(program).kernels > 0


def test_a_walk_that_asks_who_has_ended_is_counted():
    found = count_stage("attack", settings("attack=brepmi"), SIZES)
    assert found.flops > 0


def test_what_is_imported_during_a_count_works_as_before_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "attacks.brepmi", raising=False)
    count_stage("attack", settings("attack=brepmi"), SIZES)
    assert importlib.import_module("attacks.brepmi").in_batches is batches.in_batches


def test_a_call_like_one_before_is_spared_only_where_it_leaves_layouts_alone():
    shapes, same = [], []

    def program():
        a, out = torch.empty(4, 6), torch.empty(4, 6)
        for _ in range(3):
            same.append(a.add_(1) is a and torch.div(a, 2, out=out) is out)
            a.t_()
            out.t_()
            shapes.append((a.shape, a.stride()))

    found = counted(program)
    assert same == [True] * 3
    assert shapes == [((6, 4), (1, 6)), ((4, 6), (6, 1)), ((6, 4), (1, 6))]
    assert found.kernels == 3 * 4 and found.fixed == 2 * 4 * 24


def test_the_end_of_a_part_of_a_loop_is_counted_once(tmp_path):
    counter = Counter()
    runtime = SampledRuntime(counter=counter, quiet=True)
    victim: Any = SimpleNamespace(queries=0)
    loop = SampledLoop(tmp_path, "steps", runtime, victim)
    with counter, counter.phase("all"):
        for step in loop(60, {}, saved_after=[50, 60]):
            torch.empty(3) + 1
            if step in (49, 59):
                torch.empty(5) * 2
    assert [one.times for one in counter.phases[0].operators if one.kernels] == [60.0, 2.0]


def test_what_lies_in_a_file_takes_no_memory_of_the_device():
    with Counter() as counter, counter.phase("all"):
        mapped = counter.outside(torch.empty(1000, 4))
        mapped[:10] + 1
    assert counter.phases[0].fixed == 1000 * 16
    with counter, counter.phase("next"):
        mapped[:10] + 1
    assert counter.phases[1].fixed == 160
