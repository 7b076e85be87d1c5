"""Two small convolutional networks: one like LeNet, and the one of the cross-framework benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import Count
from raysim.models.shapes import image


@dataclass(frozen=True)
class CNN(Model):
    """A network like LeNet: twice 5 x 5 convolution, ReLU and 2 x 2 max-pooling, then two linear layers.

    Convolutions are without padding where both sides have 16 pixels or more; smaller images, down to 4 x 4,
    are padded by 2, so that a convolution keeps their size.

    Paper: after LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition,
    1998, https://doi.org/10.1109/5.726791

    Args:
        channels: output channels of the two convolutions.
        hidden: width of the hidden linear layer.
    """

    channels: tuple[Count, Count] = (16, 32)
    hidden: Count = 64

    def build(self, data: Dataset) -> nn.Module:
        """A chain of layers for the data's images."""
        inputs, height, width = image(data, "CNN", smallest=4)
        padding = 0 if min(height, width) >= 16 else 2
        first, second = self.channels
        side = lambda pixels: ((pixels + 2 * padding - 4) // 2 + 2 * padding - 4) // 2
        return nn.Sequential(
            nn.Conv2d(inputs, first, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * side(height) * side(width), self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, data.outputs),
        )


@dataclass(frozen=True)
class FedCNN(Model):
    """The convolutional network of pfl-research's CIFAR-10 benchmark, with 1,626,442 parameters there.

    3 x 3 convolutions with 32 and 64 channels, each followed by ReLU, 2 x 2 max-pooling, dropout 0.25, a
    linear layer of 128 with ReLU, dropout 0.5, and the output layer. Weights start from Glorot's uniform
    distribution, biases from zero.

    Paper: Granqvist et al., pfl-research: simulation framework for accelerating research in Private Federated
    Learning, 2024, https://arxiv.org/abs/2404.06430
    """

    def build(self, data: Dataset) -> nn.Module:
        """A chain of layers for the data's images."""
        inputs, height, width = image(data, "FedCNN", smallest=6)
        pooled = ((height - 4) // 2) * ((width - 4) // 2)
        net = nn.Sequential(
            nn.Conv2d(inputs, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * pooled, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, data.outputs),
        )
        for layer in net:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        return net
