"""Random crops and mirror images, for a whole stack of clients in one gather."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from raysim.core import streams

PADDING = 4  # He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2: https://arxiv.org/abs/1512.03385


def crop_and_flip(x: Tensor, key_C: Tensor) -> Tensor:
    """Shift each image by up to 4 pixels in both directions and mirror it with probability one half.

    The same as padding with 4 pixels on all sides and cutting out the old size at a random place. The padding
    is 0, which after normalisation is the mean colour of the training set, not black.

    Args:
        x: images, [C, B, channels, height, width], normalised.
        key_C: one key per client, [C] int64; image b of client c depends on nothing else.

    Returns:
        Images of the same shape.
    """
    batch, (channels, height, width) = x.shape[-4], x.shape[-3:]
    top = streams.integers(streams.key(key_C, "crop row"), 2 * PADDING + 1, batch)
    left = streams.integers(streams.key(key_C, "crop column"), 2 * PADDING + 1, batch)
    flip = streams.integers(streams.key(key_C, "flip"), 2, batch).bool()
    row = top[..., None] + torch.arange(height, device=x.device)  # [C, B, height]
    column = torch.arange(width, device=x.device)
    column = left[..., None] + torch.where(flip[..., None], column.flip(0), column)  # [C, B, width]
    pixel = row[..., :, None] * (width + 2 * PADDING) + column[..., None, :]  # [C, B, height, width]
    padded = F.pad(x, (PADDING,) * 4).flatten(-2)  # [C, B, channels, all pixels]
    index = pixel.flatten(-2).unsqueeze(-2).expand(*pixel.shape[:-2], channels, height * width)
    return padded.gather(-1, index).view_as(x)
