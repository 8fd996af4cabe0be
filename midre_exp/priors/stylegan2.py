"""The StyleGAN2 prior of PPA, IF-GMI and MIRROR: published weights, or one trained on public images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts
from midre_exp.priors.base import needed
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.discriminator import Discriminator
from midre_exp.priors.stylegan.files import load_networks
from midre_exp.priors.stylegan.generator import Generator
from midre_exp.priors.stylegan.layers import Rendering
from midre_exp.priors.stylegan.training import Ada, Recipe, train_stylegan2
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim


class StyleGAN2Prior(StylePrior):
    """A StyleGAN2 with its discriminator, or, with ``pretrained``, the generator of a published file.

    ``pretrained``: path of NVIDIA's pickle, genforce's checkpoint (StyleGAN as well) or IF-GMI's converted
    weights. The networks are then what the file says; of the sizes here only ``image_size`` must be the
    file's. Without it: channels at resolution r are min(channel_base / r, channel_max), ``mapping_lr`` slows
    the mapping network, ``group_size`` images share the discriminator's minibatch deviation, ``conv_clamp``
    bounds features (null: nothing does), and the rest is ``Recipe``; ``ada`` has the entries of ``Ada``.
    Raises ConfigError for sizes and counts that cannot be, CheckpointError for a file that is none of these.
    """

    def __init__(
        self,
        *,
        pretrained: str | None,
        image_size: int,
        z_dim: int,
        w_dim: int,
        mapping_layers: int,
        mapping_lr: float,
        channel_base: int,
        channel_max: int,
        conv_clamp: float | None,
        group_size: int,
        steps: int,
        batch_size: int,
        lr: float,
        betas: Sequence[float],
        r1_gamma: float,
        r1_every: int,
        path_weight: float,
        path_every: int,
        mixing: float,
        noise: str,
        ema: float,
        mirror: bool,
        ada: Mapping[str, Any] | None,
    ):
        super().__init__()
        self.pretrained = pretrained
        if pretrained is not None:
            self.take(*load_networks(pretrained, conv_clamp=conv_clamp))
            if self.image_size != image_size:
                raise ConfigError(
                    f"attack.prior.image_size={image_size}, but {pretrained} draws {self.image_size} pixels; set it to {self.image_size}"
                )
            return
        require_counts("attack.prior", z_dim=z_dim, w_dim=w_dim, mapping_layers=mapping_layers)
        require_counts("attack.prior", channel_base=channel_base, channel_max=channel_max)
        require_counts("attack.prior", group_size=group_size, batch_size=batch_size)
        if batch_size % min(group_size, batch_size):
            raise ConfigError(
                f"attack.prior.batch_size={batch_size} does not divide into groups of attack.prior.group_size={group_size}; "
                "make it a multiple"
            )
        self.recipe = Recipe(
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            betas=betas,
            r1_gamma=r1_gamma,
            r1_every=r1_every,
            path_weight=path_weight,
            path_every=path_every,
            mixing=mixing,
            noise=Rendering(noise).noise_mode,
            ema=ema,
            mirror=mirror,
            ada=_ada(ada),
        )
        channels: dict[str, Any] = {"channel_base": channel_base, "channel_max": channel_max}
        generator = Generator(
            z_dim=z_dim,
            w_dim=w_dim,
            img_resolution=image_size,
            mapping_kwargs={"num_layers": mapping_layers, "lr_multiplier": mapping_lr},
            synthesis_kwargs={**channels, "conv_clamp": conv_clamp},
        )
        discriminator = Discriminator(
            img_resolution=image_size,
            conv_clamp=conv_clamp,
            epilogue_kwargs={"mbstd_group_size": group_size},
            **channels,
        )
        self.take(generator, discriminator)

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train on ``public``; with ``pretrained`` there is nothing to do. The victim plays no part.

        Returns the final losses and what else is reported, nothing for published weights. Raises ConfigError
        for images of another size, and as ``train_stylegan2``.
        """
        if self.pretrained is not None:
            return {}
        public = needed(public)
        height, width = public.images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ConfigError(
                f"attack.prior.image_size={self.image_size}, but the public images have {height}x{width} pixels; "
                "make them equal"
            )
        assert isinstance(self.generator, Generator)
        assert self.discriminator is not None  # both made by the constructor
        return train_stylegan2(
            self.generator,
            self.discriminator,
            public,
            self.recipe,
            seed=seed,
            work=work,
            runtime=runtime,
        )


def _ada(node: Mapping[str, Any] | None) -> Ada | None:
    if node is None:
        return None
    if set(node) != {"target", "images"} or not node["images"] >= 1:
        raise ConfigError(
            f"attack.prior.ada={dict(node)} is not usable; give target and images, at least 1, or null"
        )
    return Ada(target=node["target"], images=node["images"])
