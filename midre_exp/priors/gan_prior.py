"""What the priors of GMI, KedMI and PLG-MI share: two networks, trained here or read from published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, LearningRate
from midre_exp.plan.validate import require_counts
from midre_exp.priors.base import Prior
from midre_exp.priors.gan.training import require_optimiser
from midre_exp.weights.state_dict import load_checkpoint


@dataclass(kw_only=True, eq=False, repr=False)
class GanPrior(Prior):
    """Base of priors around a small generator, and the options that all of them have; sources of the values
    are in the yaml of each.
    """

    image_size: Count  # px; a power of two from 16
    latent_dim: Count  # numbers in a latent, standard normal
    width: Count  # channels of the generator at its highest resolution, doubled per level
    batch_size: Count  # public images per step; the incomplete last batch of an epoch is left out
    lr: LearningRate  # of Adam, both networks
    betas: tuple[BelowOne, BelowOne]  # of Adam, both networks
    ema: BelowOne  # decay per generator step of the average that replaces the generator's weights; 0: none
    pretrained: Mapping[str, str | None]  # network -> path of published weights; all None: training

    required_files: ClassVar[tuple[str, ...]]  #: networks without whose published file none is loaded
    generator: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        """Raise ConfigError, naming the key, for numbers that cannot be and for incomplete files."""
        require_counts("attack.prior", latent_dim=self.latent_dim, width=self.width)
        require_optimiser(batch_size=self.batch_size, lr=self.lr, betas=self.betas, ema=self.ema)
        files = self.published_files
        if files and not set(self.required_files) <= set(files):
            raise ConfigError(
                f"attack.prior.pretrained needs the path of {' and '.join(self.required_files)}, or null for "
                f"every network to train; it has only {', '.join(files)}"
            )

    @property
    def published_files(self) -> dict[str, str]:
        """The given paths of published weights by network."""
        return {name: path for name, path in self.pretrained.items() if path is not None}

    def load_published(self) -> bool:
        """Load the published files; False if none is given. Raises CheckpointError for one that does not
        fit.
        """
        for name, path in self.published_files.items():
            load_checkpoint(self.get_submodule(name), path)
        return bool(self.published_files)

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] in (0, 1) of latents [n, latent_dim]; the labels play no part."""
        images: Tensor = self.generator(latents)
        return images
