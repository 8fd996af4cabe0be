"""What PPA, IF-GMI and MIRROR ask of a prior: a generator whose latents first become a code for each of its
layers.

Codes pass through the network in full precision with its stored noise, so that a image is a function of its
codes alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.priors.base import Prior
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.layers import Rendering
from midre_exp.priors.stylegan.mapping import MappingNetwork
from midre_exp.priors.stylegan.stylegan1 import StyleGAN1Generator

_EXACT = Rendering("const", force_fp32=True, fused_modconv=False)  # unfused: no gradients of weights


class StylePrior(Prior):
    """Base of priors around a style generator: latents z [n, z_dim] -> codes [n, num_ws, w_dim] -> raw
    images, nominally in [-1, 1].

    A subclass calls ``take`` once, in its constructor. ``num_ws`` counts the codes of an image,
    ``num_blocks`` the blocks that ``run_blocks`` can be cut between.
    """

    z_dim: int
    w_dim: int
    num_ws: int
    num_blocks: int
    generator: StyleGAN2Generator | StyleGAN1Generator
    discriminator: StyleGAN2Discriminator | None

    def take(
        self, generator: StyleGAN2Generator | StyleGAN1Generator, discriminator: StyleGAN2Discriminator | None
    ) -> None:
        """Make these the networks of the prior; without a discriminator nothing tells how real an image
        is.
        """
        self.generator, self.discriminator = generator, discriminator
        self.z_dim = self.latent_dim = generator.z_dim
        self.w_dim, self.num_ws = generator.w_dim, generator.num_ws
        if isinstance(generator, StyleGAN2Generator):
            self.image_size = generator.img_resolution
            self.num_blocks = len(generator.synthesis.blocks)
        else:
            self.num_blocks = generator.num_ws // 2
            self.image_size = 2 << self.num_blocks

    def freeze(self) -> None:
        """As of any prior; StyleGAN2's synthesis then draws in the form for fixed weights, differentiable
        once.
        """
        super().freeze()
        if isinstance(self.generator, StyleGAN2Generator):
            self.generator.synthesis.freeze()

    @property
    def w_avg(self) -> Tensor:
        """The mean code [w_dim]. Raises ConfigError for a network that has none."""
        mapping: MappingNetwork = self.generator.mapping
        if "w_avg" not in dict(mapping.named_buffers()):
            raise ConfigError(
                "attack.prior.pretrained has no mean code w_avg, which truncation needs; use psi=1"
            )
        return mapping.w_avg

    def codes(self, z: Tensor, *, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Codes [n, num_ws, w_dim] of latents [n, z_dim], the first ``cutoff`` (None: all) pulled to the mean
        code, fully at psi 0.
        """
        ws: Tensor = self.generator.mapping(z)
        return self.truncate(ws, psi=psi, cutoff=cutoff)

    def truncate(self, codes: Tensor, *, psi: float, cutoff: int | None) -> Tensor:
        """``codes``, in any form that ``layerwise`` takes, truncated as in ``codes``: [n, num_ws, w_dim]."""
        ws = self.layerwise(codes)
        if psi == 1:
            return ws
        near = torch.lerp(self.w_avg, ws[:, :cutoff], psi)
        return torch.cat((near, ws[:, near.shape[1] :]), 1)

    def layerwise(self, codes: Tensor) -> Tensor:
        """Codes [n, w_dim], [n, 1, w_dim] or [n, num_ws, w_dim] as [n, num_ws, w_dim]. Raises ConfigError for
        another shape.
        """
        ws = codes[:, None] if codes.ndim == 2 else codes
        if ws.ndim != 3 or ws.shape[1] not in (1, self.num_ws) or ws.shape[2] != self.w_dim:
            raise ConfigError(
                f"codes have shape {list(codes.shape)}; give [n, {self.w_dim}] or [n, 1 or {self.num_ws}, "
                f"{self.w_dim}]"
            )
        return ws.expand(-1, self.num_ws, -1)

    def synthesise(self, codes: Tensor) -> Tensor:
        """Images float32 [n, 3, s, s], nominally in [0, 1] but not clamped, of codes in any form that
        ``layerwise`` takes.
        """
        raw: Tensor
        if isinstance(self.generator, StyleGAN2Generator):
            raw = self.generator.synthesis(self.layerwise(codes), noise_mode="const", force_fp32=True)
        else:
            raw = self.generator.synthesis(self.layerwise(codes), noise_mode="const")
        return self.as_picture(raw)

    def run_blocks(
        self,
        codes: Tensor,
        features: Tensor | None = None,
        image: Tensor | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``SynthesisNetwork.run_blocks`` on codes in any form: features, and the raw image so far, after
        block ``stop`` - 1.

        Raises ConfigError as there, and for the first StyleGAN, which has no such blocks.
        """
        if not isinstance(self.generator, StyleGAN2Generator):
            raise ConfigError(
                "attack ifgmi optimises between the blocks of StyleGAN2, and attack.prior.pretrained is a "
                "StyleGAN of 2019; "
                "give a StyleGAN2 file, ffhq.pkl for example"
            )
        return self.generator.synthesis.run_blocks(
            self.layerwise(codes), features, image, start=start, stop=stop, how=_EXACT
        )

    @staticmethod
    def as_picture(raw: Tensor) -> Tensor:
        """A generator's image, nominally in [-1, 1], as one nominally in [0, 1]; a target that normalises by
        0.5/0.5 undoes it.
        """
        return (raw + 1) / 2

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images as of ``synthesise``. ``latents`` are z [n, z_dim], not truncated, or codes [n, 1 or num_ws,
        w_dim]; no labels.
        """
        return self.synthesise(self.codes(latents) if latents.ndim == 2 else latents)

    def realism(self, images: Tensor) -> Tensor:
        """The discriminator's scores [n] of images in [0, 1], each scored by itself.

        A batch would otherwise enter through its deviation, and the score of an image depend on how images
        are split into batches. Raises ConfigError for a prior without a discriminator.
        """
        if self.discriminator is None:
            raise ConfigError(
                "attack.prior.pretrained holds no discriminator, so nothing tells how real images are; "
                "give NVIDIA's pickle or set that weight to 0"
            )
        scores: Tensor = self.discriminator(images * 2 - 1, force_fp32=True, alone=True)
        return scores.squeeze(1)
