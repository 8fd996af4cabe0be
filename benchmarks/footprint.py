"""What a step through StyleGAN2 takes: memory, bytes moved and operations, as in training and with fixed
weights. Counted, not timed, so any machine gives the same.

    python benchmarks/footprint.py [--resolution 1024] [--batch 1] [--record RESULT.json]

Images of the published network and the gradient of a loss on them with respect to the codes, on tensors
without numbers. Peak: of all storages alive at a time, without weights; kept: what is alive between the way
there and the way back; moved: what all operations read and write, each for itself, as without fusion.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from midre_exp.priors.stylegan.generator import StyleGAN2Generator, SynthesisNetwork
from midre_exp.tracking.provenance import git_commit


class Footprint(TorchDispatchMode):
    """Counts what the operations within move and allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.moved = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry it out and count."""
        result = function(*args, **(kwargs or {}))
        given, made = tensors((args, kwargs)), tensors(result)
        known = {value.untyped_storage()._cdata for value in given}
        is_view = all(value.untyped_storage()._cdata in known for value in made)
        if function._schema.is_mutable or not is_view:
            self.moved += sum(value.numel() * value.element_size() for value in (*given, *made))
        known |= self.storages
        for value in made:
            storage = value.untyped_storage()
            if storage._cdata not in known:
                known.add(storage._cdata)
                self.storages.add(storage._cdata)
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        return result

    def free(self, storage: int, size: int) -> None:
        """A storage is gone."""
        self.storages.discard(storage)
        self.alive -= size


def tensors(values: object) -> list[Tensor]:
    """All in a structure."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def count(network: SynthesisNetwork, batch: int) -> Mapping[str, float]:
    """Of one pass there and back."""
    codes = torch.randn(batch, network.num_ws, network.w_dim, requires_grad=True)
    with FlopCounterMode(display=False) as operations, Footprint() as footprint:
        loss = network(codes).square().mean()
        kept = footprint.alive
        loss.backward()
    return {
        "peak_gib": footprint.peak / 2**30,
        "kept_gib": kept / 2**30,
        "moved_gb": footprint.moved / 1e9,
        "gflop": operations.get_total_flops() / 1e9,
    }


def main() -> None:
    """Count, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--record", type=Path, help="write the numbers to this JSON file as well")
    given = parser.parse_args()
    rows = {}
    with FakeTensorMode():
        made = StyleGAN2Generator(img_resolution=given.resolution, synthesis_kwargs={"conv_clamp": 256.0})
        network = made.eval().requires_grad_(False).synthesis
        for form in ("training form", "fixed weights"):
            if form == "fixed weights":
                network.freeze()
            rows[form] = count(network, given.batch)
            print(f"{form:<16}" + "".join(f"{name} {value:9.2f}   " for name, value in rows[form].items()))
    if given.record is not None:
        record = {
            "benchmark": "footprint",
            "network": "StyleGAN2, default channels, float32",
            "resolution": given.resolution,
            "batch": given.batch,
            "statistic": "counted on fake tensors",
            "commit": git_commit(),
            "versions": {"torch": version("torch")},
            "measured": rows,
        }
        given.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
