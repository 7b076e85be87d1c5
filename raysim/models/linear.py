"""A linear model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from raysim.core.interfaces import Dataset, Model
from raysim.models.shapes import features


@dataclass(frozen=True)
class Linear(Model):
    """A linear map of the flattened input, W x + b: linear, logistic or softmax regression, by the loss.

    Paper: none; the textbooks' first model.

    Args:
        bias: add b; without it the output of a zero input is zero.
    """

    bias: bool = True

    def build(self, data: Dataset) -> nn.Module:
        """Flatten and one linear layer."""
        return nn.Sequential(nn.Flatten(), nn.Linear(features(data, "Linear"), data.outputs, bias=self.bias))
