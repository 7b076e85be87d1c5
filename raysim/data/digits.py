"""Scikit-learn's handwritten digits: real data that needs no file and no network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from raysim.core import streams
from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import CrossEntropy
from raysim.core.plugin import Count
from raysim.data.apportion import apportion

_SHIFT = 1.0  # pixels
_TURN = math.radians(15)
_CLASSES = 10


@dataclass(frozen=True)
class Digits(Data):
    """Handwritten digits, 1,797 real grey images of 8x8 pixels in 10 classes, that come with scikit-learn.

    A fixed choice of test images, balanced over the classes, is set apart; 1,437 remain to train on.
    ``copies`` makes the training set larger: every image then occurs ``copies`` times, once as it is and
    otherwise shifted by up to one pixel and turned by up to 15 degrees, so ``copies=20`` gives 28,740
    examples, about 29 for each of 1,000 clients. Version v of training image i is example 1437 v + i. Inputs
    are [n, 1, 8, 8], normalised by the mean and standard deviation of the unmoved training images; the test
    images are never moved.

    Args:
        copies: versions of each training image in all, 1 or more; 1 is the images alone.
        test: images kept for the test, 10 to 1000.

    Paper: Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    https://archive.ics.uci.edu/ml/datasets/optical+recognition+of+handwritten+digits
    """

    copies: Count = 1
    test: Annotated[int, Field(ge=10, le=1000)] = 360

    def load(self) -> Dataset:
        """The images; the same for every seed of an experiment."""
        from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

        flat, label = load_digits(return_X_y=True)
        x = torch.from_numpy(np.asarray(flat, np.float32)).view(-1, 1, 8, 8) / 16
        y = np.asarray(label, np.int64)
        kept = _test_images(y, self.test)
        x_train, x_test = x[~kept], x[kept]
        mean, std = x_train.double().mean().float(), x_train.double().std(correction=0).float()
        versions = [x_train] + [_moved(x_train, version) for version in range(1, self.copies)]
        return Dataset(
            x_train=((torch.cat(versions) - mean) / std).numpy(),
            y_train=np.tile(y[~kept.numpy()], self.copies),
            x_test=((x_test - mean) / std).numpy(),
            y_test=y[kept.numpy()],
            loss=CrossEntropy(),
            outputs=_CLASSES,
        )


def _test_images(y: np.ndarray, number: int) -> Tensor:
    """Which images are the test's: the same share of every class, at random, [n] bool."""
    quota = apportion(number, np.bincount(y, minlength=_CLASSES))
    order = streams.permutation(streams.key("digits", "test"), len(y)).numpy()
    kept = torch.zeros(len(y), dtype=torch.bool)
    for label in range(_CLASSES):
        kept[order[y[order] == label][: quota[label]]] = True
    return kept


def _moved(x: Tensor, version: int) -> Tensor:
    """Every image [n, 1, 8, 8] shifted and turned about its centre in its own way, sampled bilinearly."""
    image = torch.arange(len(x))
    draw = 2 * streams.uniform(streams.key("digits", "moved", version, image), 3) - 1
    angle = _TURN * draw[:, 0]
    shift = _SHIFT * draw[:, 1:, None] * 2 / x.shape[-1]  # the image spans -1 to 1
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    grid = F.affine_grid(torch.cat([turn, shift], -1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
