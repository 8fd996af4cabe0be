"""PPA's final selection: of an identity's reconstructions, those count that the target recognises under
strong random views.

Struppek et al. 2022, Sec. 4.3: what only fools the target (an adversarial example) does not survive being
cropped and mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.parts.random_crops import NUMBERS, random_crop
from midre_exp.attack import Transforms, apply
from midre_exp.data.transforms.random_crop import require_range
from midre_exp.errors import ConfigError
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import WhiteBoxVictim

_SEEN_AT_ONCE = 10  # batches: the target takes less memory than the generator


class FinalSelection:
    """How often and how the target sees each reconstruction: ``views`` random boxes, resized to the size
    before, some mirrored.

    ``scale``, ``ratio``, ``flip_p`` as in ``attacks.parts.random_crops.random_crop``; every view is one draw
    for all items, so that all of them, of whatever identity, are compared under the same boxes. ``batch``:
    images synthesised at once, which bounds memory and never changes a result. Raises ConfigError.
    """

    def __init__(
        self, *, views: int, scale: Sequence[float], ratio: Sequence[float], flip_p: float, batch: int
    ):
        for name, value in (("views", views), ("batch", batch)):
            if value < 1:
                raise ConfigError(f"attack.selection.{name}={value} must be at least 1")
        if not 0 <= flip_p <= 1:
            raise ConfigError(f"attack.selection.flip_p={flip_p} must lie in [0, 1]")
        self.views = views
        self.scale = require_range("attack.selection.scale", scale, top=1.0)
        self.ratio = require_range("attack.selection.ratio", ratio)
        self.flip_p = flip_p
        self.batch = batch

    @torch.no_grad()
    def robustness(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        steps: Transforms,
        *,
        common: ItemRNG,
        runtime: Runtime,
    ) -> Tensor:
        """The target's mean probability of each item's label over the views, [n] on the CPU.

        ``labels`` int64 [n], ``latents`` [n, ...]; images go through ``steps`` before the views and are not
        clipped. ``common`` is one stream.
        """
        at_once = min(self.batch, runtime.chunk)
        part = min(_SEEN_AT_ONCE * at_once, runtime.chunk)
        found = []
        for first in runtime.bar(range(0, len(labels), part), "final selection, batches"):
            codes = latents[first : first + part].to(runtime.device).split(at_once)
            images = torch.cat([apply(steps, prior.generate(some)) for some in codes])
            wanted = labels[first : first + part].to(runtime.device)
            total = torch.zeros(len(wanted), device=runtime.device)
            for view in range(self.views):
                numbers = common.uniform("selection", NUMBERS, step=view)
                seen = random_crop(images, numbers, scale=self.scale, ratio=self.ratio, flip_p=self.flip_p)
                total += victim.confidence(seen, wanted)
            found.append(total / self.views)
        return torch.cat(found).cpu()
