"""A multi-layer perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import Count
from raysim.models.shapes import features

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


@dataclass(frozen=True)
class MLP(Model):
    """A multi-layer perceptron: linear layers with an activation between any two, on the flattened input.

    It is a plain ``nn.Sequential``, which the engine trains in place (with "relu" or "tanh").

    Paper: none; the textbooks' feed-forward network.

    Args:
        hidden: width of each hidden layer, from input to output; () leaves a linear model.
        activation: what follows every hidden layer.
    """

    hidden: tuple[Count, ...] = (64,)
    activation: Literal["relu", "tanh", "gelu"] = "relu"

    def build(self, data: Dataset) -> nn.Module:
        """Flatten, then the layers."""
        layers: list[nn.Module] = [nn.Flatten()]
        width = features(data, "MLP")
        for hidden in self.hidden:
            layers += [nn.Linear(width, hidden), _ACTIVATIONS[self.activation]()]
            width = hidden
        return nn.Sequential(*layers, nn.Linear(width, data.outputs))
