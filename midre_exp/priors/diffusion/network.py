"""The noise predictor of a diffusion prior and its noise levels, both of the library diffusers, which is an
extra and takes seconds to load: so it is loaded where such a prior is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

#: Groups of a group norm where the channels allow as many.
_GROUPS = 32


def make_unet(
    *,
    image_size: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    num_labels: int,
) -> nn.Module:
    """A U-Net from noisy images [n, 3, s, s], levels [n] and labels int64 [n] below ``num_labels`` to their
    noise; ``width * multipliers`` channels by resolution, each half of the one before, ``attention`` at those
    of so many pixels and in the middle, time and label as scale and shift of each block's second norm.
    """
    from diffusers import UNet2DModel

    sizes = [image_size >> place for place in range(len(multipliers))]
    unet: Any = UNet2DModel  # whose library has no types
    made: nn.Module = unet(
        sample_size=image_size,
        block_out_channels=tuple(width * times for times in multipliers),
        layers_per_block=blocks,
        down_block_types=tuple(f"{'Attn' * (size in attention)}DownBlock2D" for size in sizes),
        up_block_types=tuple(f"{'Attn' * (size in attention)}UpBlock2D" for size in reversed(sizes)),
        attention_head_dim=width,
        norm_num_groups=math.gcd(width, _GROUPS),
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=num_labels,
    )
    return made


class NoiseLevels:
    """Linear noise levels 1 to ``count`` (Ho et al. 2020), and the ways back from them (DDIM, Song et al.
    2021). Images are in [-1, 1].
    """

    def __init__(self, count: int, beta: Sequence[float]):
        from diffusers import DDIMScheduler

        options = {"num_train_timesteps": count, "beta_start": beta[0], "beta_end": beta[1]}
        scheduler: Any = DDIMScheduler  # whose library has no types
        self.count = count
        self._drawing = scheduler(**options, clip_sample=True, set_alpha_to_one=True)
        self._unclipped = scheduler(**options, clip_sample=False, set_alpha_to_one=True)
        self._tail = scheduler(**options, clip_sample=False, set_alpha_to_one=False)

    def noised(self, images: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """Images [n, 3, s, s] with so much of ``noise`` as their levels int64 [n] say."""
        mixed: Tensor = self._drawing.add_noise(images, noise, levels - 1)
        return mixed

    def drawing_levels(self, steps: int) -> list[int]:
        """The levels of a way back from pure noise to images in ``steps`` steps, highest first."""
        return [self.count - self.count * number // steps for number in range(steps)]

    def drawn(
        self, noisy: Tensor, noise: Tensor, level: int, steps: int, *, clip: bool
    ) -> tuple[Tensor, Tensor]:
        """Images after a step of that way, which adds no noise, and the images that the predicted ``noise``
        makes of them at once, both [n, 3, s, s]; ``clip``: the latter to [-1, 1].
        """
        scheduler = self._drawing if clip else self._unclipped
        scheduler.num_inference_steps = steps
        moved, image = scheduler.step(noise, level - 1, noisy, return_dict=False)
        return moved, image

    def tail(self, noisy: Tensor, noise: Tensor, number: int, steps: int, fresh: Tensor) -> Tensor:
        """Images [n, 3, s, s] after step ``number`` (the last is 1) of a way back of ``steps`` steps from
        pure noise, each of which adds as much ``fresh`` noise as sampling the levels one by one would.
        """
        self._tail.num_inference_steps = steps
        place = self.count // steps * (number - 1) + 1
        moved: Tensor = self._tail.step(
            noise, place, noisy, eta=1.0, variance_noise=fresh, return_dict=False
        )[0]
        return moved
