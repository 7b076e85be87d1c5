"""A densely connected network for small images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from raysim.core import vision
from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import Count
from raysim.models.norms import check_norm, group_normalised, stem
from raysim.models.shapes import image


@dataclass(frozen=True)
class DenseNet121(Model):
    """A densely connected network of 121 layers with group normalisation and a first layer for CIFAR.

    The layers are torchvision's. The first convolution is 3 x 3 with stride 1 and no max-pooling follows it,
    so images of 32 x 32 pixels keep their size up to the first transition.

    Paper: Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, 2016,
    https://arxiv.org/abs/1608.06993; normalisation: Wu, He, Group Normalization, 2018,
    https://arxiv.org/abs/1803.08494

    Args:
        norm: "group"; batch normalisation has no meaning over clients.
        groups: groups of channels normalised together, a divisor of 32.
    """

    norm: str = "group"
    groups: Count = 32

    def check(self) -> None:
        """Every layer has a multiple of 32 channels."""
        check_norm("DenseNet121", self.norm, self.groups, channels=32)

    def build(self, data: Dataset) -> nn.Module:
        """Layers of torchvision as a chain (its own forward function writes over its input)."""
        channels, _, _ = image(data, "DenseNet121", smallest=8)
        net = vision.models().densenet121(num_classes=data.outputs)
        net.features.conv0 = stem(channels, 64)
        net.features.pool0 = nn.Identity()
        group_normalised(net, self.groups)
        return nn.Sequential(net.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
