"""Residual networks for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from raysim.core import vision
from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import Count
from raysim.models.norms import check_norm, group_normalised, stem
from raysim.models.shapes import image


@dataclass(frozen=True)
class ResNet(Model):
    """A residual network of 18 or 34 layers with group normalisation and a first layer for CIFAR.

    The layers are torchvision's. The first convolution is 3 x 3 with stride 1 and no max-pooling follows it,
    so images of 32 x 32 pixels keep their size up to the second stage.

    Paper: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, 2015,
    https://arxiv.org/abs/1512.03385; normalisation: Wu, He, Group Normalization, 2018,
    https://arxiv.org/abs/1803.08494

    Args:
        depth: layers with weights, 18 or 34.
        norm: "group"; batch normalisation has no meaning over clients.
        groups: groups of channels normalised together, a divisor of 64.
    """

    depth: Literal[18, 34] = 18
    norm: str = "group"
    groups: Count = 32

    def check(self) -> None:
        """Every layer has a multiple of 64 channels."""
        check_norm("ResNet", self.norm, self.groups, channels=64)

    def build(self, data: Dataset) -> nn.Module:
        """The network of torchvision with a new first layer and new norms."""
        channels, _, _ = image(data, "ResNet", smallest=2)
        models = vision.models()
        net = (models.resnet18 if self.depth == 18 else models.resnet34)(num_classes=data.outputs)
        net.conv1 = stem(channels, 64)
        net.maxpool = nn.Identity()
        return group_normalised(net, self.groups)
