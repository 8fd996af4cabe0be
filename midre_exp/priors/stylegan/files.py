"""Opens whatever file of a style generator a user has: NVIDIA's pickle, genforce's checkpoint, or IF-GMI's
converted weights.

Which one it is, its content tells. Nothing of a file is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.genforce import load_genforce
from midre_exp.priors.stylegan.nvidia import load_pickle
from midre_exp.priors.stylegan.stylegan1 import StyleGAN1Generator
from midre_exp.store.files import is_special
from midre_exp.weights.restricted_pickle import UnsafeFile
from midre_exp.weights.state_dict import require_usable
from midre_exp.weights.torch_file import entries, plain_tensor, read_torch

_ZIP = b"PK"
_LEGACY = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of torch.save before the zip format: its number, pickled
)
_WRAPPER = "state_dict"
_LISTED = 4


def load_networks(
    path: str | Path, *, conv_clamp: float | None
) -> tuple[StyleGAN2Generator | StyleGAN1Generator, StyleGAN2Discriminator | None]:
    """The generator to draw with, and the discriminator if the file has one: on the CPU, in eval mode,
    without gradients.

    ``conv_clamp`` is the one number that converted weights do not tell. Raises CheckpointError when the file
    is missing, damaged or none of the three, or its network is conditional, not of colour images or not
    finite.
    """
    path = Path(path).expanduser()
    networks = _networks(path, conv_clamp)
    for network in networks:
        if network is not None:
            require_usable(path, network.state_dict())
    return networks


def _networks(
    path: Path, conv_clamp: float | None
) -> tuple[StyleGAN2Generator | StyleGAN1Generator, StyleGAN2Discriminator | None]:
    if not _is_torch(path):
        networks = load_pickle(path)
        if "G_ema" not in networks:
            raise CheckpointError(f"{path} has no G_ema, the generator to draw with; give NVIDIA's own file")
        generator, discriminator = networks["G_ema"], networks.get("D")
        assert isinstance(generator, StyleGAN2Generator)  # the reader made it
        assert discriminator is None or isinstance(discriminator, StyleGAN2Discriminator)
        if generator.c_dim or not generator.z_dim or generator.img_channels != 3:
            raise CheckpointError(
                f"{path} draws {generator.img_channels} channels from {generator.z_dim} latents and "
                f"{generator.c_dim} labels; "
                "give a generator of colour images without labels, ffhq.pkl for example"
            )
        return generator, discriminator
    if (state := _converted(path)) is not None:
        return _build(path, state, conv_clamp), None
    return load_genforce(path), None


def _is_torch(path: Path) -> bool:
    """Whether a file was written by torch.save; of a file that cannot be read the pickle reader says why."""
    if is_special(path):
        return False
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY))
    except OSError:
        return False
    return start.startswith(_ZIP) or start == _LEGACY


def _converted(path: Path) -> dict[Any, Any] | None:
    """What a torch file has under ``state_dict``; None if there is no such entry."""
    try:
        content = read_torch(path)
    except MemoryError:
        raise
    except Exception as error:  # the reader raises whatever it stumbles over in foreign bytes
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors, which is never run; give the published file"
        ) from error
    state = entries(content).get(_WRAPPER)
    return entries(state) if isinstance(state, dict) else None


def _build(path: Path, state: Mapping[Any, Any], conv_clamp: float | None) -> StyleGAN2Generator:
    """The generator whose sizes the shapes of ``state`` tell. Raises CheckpointError unless its tensors are
    exactly these.
    """
    named = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    try:
        tensors = {key: plain_tensor(value) for key, value in named.items()}
    except UnsafeFile as refusal:
        raise CheckpointError(f"{path} {refusal}") from refusal
    try:
        with torch.device("meta"):
            network = StyleGAN2Generator(**_sizes(tensors, conv_clamp))
    except (KeyError, IndexError, ValueError, ConfigError) as error:
        reason = ascii(str(error)[:200])[1:-1]
        raise CheckpointError(
            f"{path} holds no StyleGAN2 generator under {_WRAPPER} ({reason}); give IF-GMI's converted file"
        ) from error
    expected = network.state_dict()
    wrong = [
        key if isinstance(key, str) else f"({type(key).__name__})"
        for key in [*expected, *(key for key in state if key not in expected)]
        if key not in expected or key not in tensors or expected[key].shape != tensors[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit the generator it describes in {len(wrong)} tensors "
            f"({', '.join(ascii(key[:60])[1:-1] for key in wrong[:_LISTED])}); convert it again"
        )
    network.requires_grad_(False)
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return network.eval()


def _sizes(state: Mapping[str, Tensor], conv_clamp: float | None) -> dict[str, Any]:
    """The constructor arguments that NVIDIA's key names and their shapes tell. Raises KeyError, IndexError or
    ValueError.
    """
    found = (re.fullmatch(r"synthesis\.b(\d{1,5})\.torgb\.weight", key) for key in state)
    size = max((int(match[1]) for match in found if match), default=0)
    if not size:
        raise ValueError("it has no synthesis.b4.torgb.weight")
    last = state[f"synthesis.b{size}.torgb.weight"].shape
    return {
        "z_dim": state["mapping.fc0.weight"].shape[1],
        "w_dim": state["mapping.w_avg"].shape[0],
        "img_resolution": size,
        "img_channels": last[0],
        "mapping_kwargs": {
            "num_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", key) is not None for key in state)
        },
        "synthesis_kwargs": {
            "channel_base": last[1] * size,
            "channel_max": state["synthesis.b4.const"].shape[0],
            "conv_clamp": conv_clamp,
        },
    }
