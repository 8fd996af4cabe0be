"""Network pickles in NVIDIA's layout, with random weights and any size: to try a setup without ffhq.pkl. Only
writes.

Objects are pickled under the names that NVIDIA's code has, without that code.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.nvidia import OFFICIAL_NAMES
from midre_exp.seeding import derive
from midre_exp.store.files import write_atomic


class Foreign:
    """Pickled as a call of ``function(*arguments)``, like any object with ``__reduce__``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def stand_in(module: str, name: str) -> Any:
    """A function that pickle writes as the global ``module.name``, whether or not that exists."""

    def function(*arguments: Any) -> None: ...

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    return function


RECONSTRUCT = stand_in("torch_utils.persistence", "_reconstruct_persistent_obj")


class EasyDict(dict[str, Any]):
    """NVIDIA's dictionary of keyword arguments, as pickle names it."""


EasyDict.__module__ = "dnnlib.util"


@contextmanager
def _importable(*stand_ins: Any) -> Iterator[None]:
    """Make pickle find the stand-ins where they claim to be, and take them away again."""
    leaves = {s.__module__ for s in stand_ins}
    parents = {leaf.rsplit(".", 1)[0] for leaf in leaves} - set(sys.modules)
    before = {name: sys.modules.get(name) for name in leaves | parents}
    sys.modules.update({name: types.ModuleType(name) for name in before})
    for s in stand_ins:
        setattr(sys.modules[s.__module__], s.__name__, s)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def official(module: nn.Module, **more: Any) -> Foreign:
    """``module`` as NVIDIA's files hold a network; ``more`` goes into its state, or replaces what is
    there.
    """
    state = dict(vars(module))
    state["_modules"] = {name: official(child) for name, child in module.named_children()}
    state["act_gain"] = np.sqrt(2)  # such NumPy numbers are among the attributes
    state["_init_args"], state["_init_kwargs"] = (), {}
    return Foreign(
        RECONSTRUCT,
        {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit('module source was run')",
            "class_name": OFFICIAL_NAMES.get(type(module), type(module).__name__),
            "state": {**state, **more},
        },
    )


def pickled(content: Any, *stand_ins: Any, protocol: int = 4) -> bytes:
    """The bytes of a pickle of ``content``, in which ``stand_ins`` may occur besides those of
    ``official``.
    """
    with _importable(RECONSTRUCT, EasyDict, *stand_ins):
        return pickle.dumps(content, protocol=protocol)


def write_stylegan2(path: Path, *, image_size: int, channels: int = 4, seed: int = 0) -> None:
    """A StyleGAN2 of ``image_size`` px with every layer of the published ones, latents of 16 numbers and
    ``channels`` channels, as ffhq.pkl holds it: ``G``, ``D`` and ``G_ema``. Its images are noise.

    Raises StoreError when the file cannot be written.
    """
    width = {"channel_base": channels * image_size, "channel_max": channels}
    generating: dict[str, Any] = {
        "z_dim": 16,
        "c_dim": 0,
        "w_dim": 16,
        "img_resolution": image_size,
        "img_channels": 3,
        "mapping_kwargs": EasyDict(num_layers=8),
        "synthesis_kwargs": EasyDict(width, num_fp16_res=4, conv_clamp=256),
    }
    discriminator_options: dict[str, Any] = {
        "c_dim": 0,
        "img_resolution": image_size,
        "img_channels": 3,
        **width,
        "num_fp16_res": 4,
        "conv_clamp": 256,
        "epilogue_kwargs": EasyDict(mbstd_group_size=4),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "fixture", "stylegan2"))
        generator, discriminator = (
            StyleGAN2Generator(**generating).eval(),
            StyleGAN2Discriminator(**discriminator_options).eval(),
        )
    drawing = official(generator, _init_kwargs=EasyDict(generating))
    content = {
        "G": drawing,
        "D": official(discriminator, _init_kwargs=EasyDict(discriminator_options)),
        "G_ema": drawing,
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", max_size=None),
        "augment_pipe": None,
    }
    write_atomic(path, pickled(content))
