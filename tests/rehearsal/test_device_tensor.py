"""The pretended GPU refuses what a GPU refuses, allows what it allows, and computes what the CPU computes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from midre_exp.seeding import generator
from tests.devices import CPU, CUDA, never_waiting
from tests.rehearsal.waits import LARGE, WAITS

pytestmark = pytest.mark.rehearsal
X = torch.arange(12.0).view(3, 4)


def test_tensors_say_that_they_are_on_the_device_and_compute():
    x = X.to(CUDA)
    assert x.is_cuda and (x + 1).device == torch.device("cuda:0")
    made = torch.tensor([1.0, 2.0], device=CUDA), torch.zeros(2, device="cuda:0"), torch.rand_like(x)
    assert all(tensor.is_cuda for tensor in made)
    assert torch.equal((x @ x.T).cpu(), X @ X.T)
    assert not x.cpu().is_cuda and type(x.cpu()) is torch.Tensor


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: x.index_select(0, torch.tensor([0])),
        lambda x, y: y[torch.tensor([0], device=CUDA)],
        lambda x, y: x.mul_(y),
        lambda x, y: nn.functional.linear(x, y),
        lambda x, y: torch._foreach_add([x], [y]),
        lambda x, y: nn.Linear(4, 2)(x),
        lambda x, y: torch.rand(2, device=CUDA, generator=torch.Generator()),
        lambda x, y: x.normal_(generator=generator(0, "x")),
        lambda x, y: torch.rand(2, generator=torch.Generator(CUDA)),
    ],
)
def test_mixed_devices_are_refused(mix):
    with pytest.raises(RuntimeError, match="device"):
        mix(X.to(CUDA), X.clone())


def test_copies_numbers_and_cpu_indices_are_allowed():
    x, on_cpu = X.to(CUDA), torch.zeros(3, 4)
    on_cpu.copy_(x)
    assert torch.equal(on_cpu, X)
    x[torch.tensor([1])] = 0.0
    x.copy_(X)
    assert torch.equal(x[torch.tensor([2, 0])].cpu(), X[[2, 0]])
    assert torch.equal((x * torch.tensor(2.0)).cpu(), 2 * X)
    x.transpose_(0, 1)
    assert x.shape == (4, 3) and torch.equal((x + 0).cpu(), X.T)
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


@pytest.mark.parametrize(
    ("wait", "what"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: float(x[0, 0]), "item"),
        (lambda x: bool((x > 1).all()), "item"),
        (lambda x: x[x > 1], "boolean index"),
        (lambda x: x.masked_select(x > 1), "boolean index"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.unique(), "unique"),
        (lambda x: x.tolist(), "copy to the host"),
        (lambda x: x.to("cpu"), "copy to the host"),
        (lambda x: torch.zeros(3, 4).copy_(x), "copy to the host"),
    ],
)
def test_what_waits_for_the_device_is_seen(wait, what, monkeypatch):
    seen = []
    monkeypatch.setattr(WAITS, "observe", lambda what, size: seen.append(what))
    x = X.to(CUDA)
    assert seen == []
    wait(x)
    assert what in seen
    with pytest.raises(RuntimeError, match="synchronizing"), never_waiting():
        wait(x)


def test_what_does_not_wait_is_not_told(monkeypatch):
    seen = []
    monkeypatch.setattr(WAITS, "observe", lambda what, size: seen.append(what))
    with never_waiting():
        x = X.to(CUDA).requires_grad_()
        (x.relu() * torch.where(x > 3, x, 0.0)).sum().backward()
        torch.optim.SGD([x], 0.1).step()
    assert seen == []
    torch.zeros(1 << 20).add(1)
    assert seen == [LARGE]


def test_gradients_networks_and_optimisers_are_those_of_the_cpu():
    def trained(device):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
        )
        network.to(device)
        adam = torch.optim.Adam(network.parameters(), 0.1)
        for _ in range(3):
            adam.zero_grad()
            images = torch.rand(5, 3, 4, 4, generator=generator(0, "images")).to(device)
            network(images).square().mean().backward()
            adam.step()
        return {name: value.cpu() for name, value in network.state_dict().items()}

    on_cpu, on_device = trained(CPU), trained(CUDA)
    assert on_cpu.keys() == on_device.keys()
    assert all(torch.equal(on_cpu[name], on_device[name]) for name in on_cpu)


def test_autocast_computes_in_bfloat16():
    layer = nn.Linear(4, 2).to(CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(X.to(CUDA)).dtype == torch.bfloat16


def test_copies_and_files_hold_the_numbers():
    layer = nn.Linear(4, 2).to(CUDA)
    copied = copy.deepcopy(layer)
    assert copied.weight.is_cuda and isinstance(copied.weight, nn.Parameter)
    assert torch.equal(copied.weight.cpu(), layer.weight.cpu())
    with torch.no_grad():
        copied.weight.add_(1)
    assert not torch.equal(copied.weight.cpu(), layer.weight.cpu())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["weight"], layer.weight.cpu())
