"""Reads the StyleGAN and StyleGAN2 generators of genforce, which MIRROR attacks with.

genforce truncates inside its generator, whatever codes it is given; here truncation belongs to the mapping
network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.layers import FIR
from midre_exp.priors.stylegan.ops import fir_filter
from midre_exp.priors.stylegan.stylegan1 import StyleGAN1Generator
from midre_exp.store.files import is_special
from midre_exp.weights.restricted_pickle import UnsafeFile
from midre_exp.weights.torch_file import entries, plain_tensor, read_torch

_WRAPPERS = ("generator_smooth", "generator")  # the running average of the weights first
_START = "synthesis.early_layer.const"  # StyleGAN2 alone has it
_LISTED = 4


def load_genforce(path: str | Path) -> StyleGAN2Generator | StyleGAN1Generator:
    """The generator of a genforce checkpoint, on the CPU, in eval mode and without gradients; nothing of the
    file is executed.

    Raises CheckpointError when the file is missing, damaged, or holds no StyleGAN or StyleGAN2 generator.
    """
    path = Path(path).expanduser()
    state = _read(path)
    try:
        options = _options(state)
        renamed = from_genforce(state)
        with torch.device("meta"):
            network = StyleGAN2Generator(**options) if _START in state else StyleGAN1Generator(**options)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        reason = ascii(str(error)[:200])[1:-1]
        raise CheckpointError(
            f"{path} holds no StyleGAN or StyleGAN2 generator of genforce ({reason}); give genforce's own "
            "file"
        ) from error
    kind = "StyleGAN2" if _START in state else "StyleGAN"
    expected = network.state_dict()
    filters = {key: fir_filter(FIR) for key in expected if key.endswith("resample_filter")}
    renamed = {**renamed, **filters}
    wrong = [
        key
        for key in sorted({*expected, *renamed})
        if key not in expected or key not in renamed or expected[key].shape != renamed[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit the {kind} it describes in {len(wrong)} tensors "
            f"({', '.join(ascii(key[:60])[1:-1] for key in wrong[:_LISTED])}); download it again"
        )
    network.requires_grad_(False)
    network.load_state_dict({key: value.float() for key, value in renamed.items()}, assign=True)
    return network.eval()


def from_genforce(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A genforce state dict under the names and in the conventions of our networks; the fixed filters are
    left out.

    StyleGAN2: genforce stores the doubling convolutions flipped, style biases without their 1, and leading
    axes of size 1. StyleGAN: its mapping network has no gain on the biases. Raises ValueError for a key
    without counterpart and for a StyleGAN that has not grown to its full size.
    """
    if "synthesis.lod" in state and float(state["synthesis.lod"]) != 0:
        raise ValueError(
            f"synthesis.lod is {float(state['synthesis.lod'])}, not the 0 of a finished training"
        )
    rename = _stylegan2_entry if _START in state else _stylegan_entry
    kept = {key: value for key, value in state.items() if not key.endswith((".kernel", ".lod"))}
    return dict(rename(key, value) for key, value in kept.items())


def _stylegan2_entry(key: str, value: Tensor) -> tuple[str, Tensor]:
    if key == _START:
        return "synthesis.b4.const", value[0]
    if shared := _mapping_name(key):
        return shared, value
    match = re.fullmatch(r"synthesis\.(layer|output)(\d{1,2})\.(.+)", key)
    if not match:
        raise ValueError(f"unknown key {key[:60]}")
    index, rest = int(match[2]), match[3]
    conv = match[1] == "layer"  # 0, then two per block: conv0 (odd) and conv1
    block = (index + 1) // 2 if conv else index
    layer = f"synthesis.b{4 << block}.{f'conv{1 - index % 2}' if conv else 'torgb'}"
    if rest == "noise":
        return f"{layer}.noise_const", value[0, 0]
    if rest == "style.bias":
        return f"{layer}.affine.bias", value + 1
    if rest == "weight" and layer.endswith("conv0"):
        value = value.flip((2, 3))
    return f"{layer}.{rest.replace('style.', 'affine.')}", value


def _stylegan_entry(key: str, value: Tensor) -> tuple[str, Tensor]:
    if shared := _mapping_name(key):
        # our activation has a gain of sqrt 2 on weights and bias, theirs on the weights alone
        return shared, value / math.sqrt(2) if shared.endswith("bias") else value
    return key, value


def _mapping_name(key: str) -> str | None:
    if key == "truncation.w_avg":
        return "mapping.w_avg"
    return key.replace("mapping.dense", "mapping.fc") if key.startswith("mapping.dense") else None


def _options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The constructor arguments that the shapes tell. Raises KeyError or IndexError where one is missing."""
    blocks = _count(state, r"synthesis\.output\d+\.weight")
    layers = _count(state, r"mapping\.dense\d+\.weight")
    if not blocks or blocks > 12:
        raise ValueError(f"it has {blocks} resolutions")
    size = 2 << blocks
    last = len(state[f"synthesis.layer{2 * blocks - (2 if _START in state else 1)}.bias"])
    start = state[_START if _START in state else "synthesis.layer0.const"]
    z_dim, w_dim = state["mapping.dense0.weight"].shape[1], state["truncation.w_avg"].shape[0]
    channels = {"channel_base": last * size, "channel_max": start.shape[1]}
    if _START not in state:
        return {"z_dim": z_dim, "w_dim": w_dim, "image_size": size, "num_layers": layers, **channels}
    return {
        "z_dim": z_dim,
        "w_dim": w_dim,
        "img_resolution": size,
        "mapping_kwargs": {"num_layers": layers},
        "synthesis_kwargs": channels,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def _read(path: Path) -> dict[str, Tensor]:
    """The generator's tensors."""
    if is_special(path):
        raise CheckpointError(f"{path} is a pipe or device, not a file; give genforce's own file")
    try:
        content = read_torch(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; check the path of the checkpoint") from error
    except MemoryError:
        raise
    except Exception as error:  # the reader raises whatever it stumbles over in foreign bytes
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which is never run; give genforce's own file"
        ) from error
    found = entries(content)
    state = next((entries(found[name]) for name in _WRAPPERS if isinstance(found.get(name), dict)), None)
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(
            f"{path} has no tensors under {' or '.join(_WRAPPERS)}; give genforce's own file"
        )
    try:
        return {key: plain_tensor(value) for key, value in state.items()}
    except UnsafeFile as refusal:
        raise CheckpointError(f"{path} {refusal}") from refusal
