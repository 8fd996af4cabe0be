"""The mapping network of StyleGAN2-ADA: latents, and labels if any, to codes; truncation towards the mean
code.

For inference: the running mean of the codes is read, never updated.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.priors.stylegan.layers import FullyConnectedLayer, require
from midre_exp.priors.stylegan.ops import normalize_2nd_moment


class MappingNetwork(nn.Module):
    """Latents z [n, z_dim], with labels c [n, c_dim] if conditional, to codes w.

    ``num_ws`` None gives codes [n, w_dim], otherwise [n, num_ws, w_dim]; ``w_avg_beta`` None leaves out the
    running mean and with it truncation. z_dim 0 maps the labels alone.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ):
        super().__init__()
        require("num_layers", num_layers, 1, 64)
        if not (isinstance(lr_multiplier, (int, float)) and lr_multiplier > 0):
            raise ConfigError(f"lr_multiplier={lr_multiplier!r} is not usable; give a positive number")
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers = num_layers
        embedded = (w_dim if embed_features is None else embed_features) if c_dim else 0
        hidden = w_dim if layer_features is None else layer_features
        widths = [z_dim + embedded, *[hidden] * (num_layers - 1), w_dim]
        for width in widths:
            require("mapping width", width, 1)
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embedded)
        for i, (narrow, wide) in enumerate(pairwise(widths)):
            layer = FullyConnectedLayer(narrow, wide, activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Codes; the first ``truncation_cutoff`` per image (None: all) are pulled to the mean code, fully at
        psi 0.

        Raises ConfigError when labels are missing or when the network has no mean code to truncate to.
        """
        parts = []
        if self.z_dim:
            if z is None:
                raise ConfigError(f"z is missing; give latents [n, {self.z_dim}]")
            parts.append(normalize_2nd_moment(z.float()))
        if self.c_dim:
            if c is None:
                raise ConfigError(f"c is missing; this network is conditional, give labels [n, {self.c_dim}]")
            parts.append(normalize_2nd_moment(self.embed(c.float())))
        w = torch.cat(parts, 1)
        for i in range(self.num_layers):
            w = self.get_submodule(f"fc{i}")(w)
        if self.num_ws is None:
            return w
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        if "w_avg" not in self._buffers:
            raise ConfigError(
                f"truncation_psi={truncation_psi}, but the network has no mean code w_avg; use 1"
            )
        near = torch.lerp(self.w_avg, ws[:, :truncation_cutoff], truncation_psi)
        return torch.cat([near, ws[:, near.shape[1] :]], 1)
