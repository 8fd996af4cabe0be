"""Gaussian blur of a batch, each image by a width of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur float ``images`` [n, c, h, w], each by its ``sigma`` > 0 in pixels (float [n]), with reflection at
    the border.

    The kernel, ``kernel_size`` (odd) pixels wide, is sampled at whole pixels and sums to 1, as in
    torchvision's gaussian_blur; its two directions are applied one after the other, in full precision under
    autocast too.
    """
    n, channels, height, width = images.shape
    reach = kernel_size // 2
    offset = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (offset / sigma[:, None]) ** 2, 1).repeat_interleave(channels, 0)
    with torch.autocast(images.device.type, enabled=False):
        stacked = F.pad(images.float(), (reach, reach, reach, reach), mode="reflect")
        stacked = stacked.reshape(1, n * channels, height + 2 * reach, width + 2 * reach)
        # One group per image and channel, so that a single convolution has a kernel for each image.
        stacked = F.conv2d(stacked, kernel[:, None, :, None], groups=n * channels)
        stacked = F.conv2d(stacked, kernel[:, None, None, :], groups=n * channels)
    return stacked.view(n, channels, height, width).to(images.dtype)
