"""The networks that convergence theory is about: wide, without biases, their last layer frozen as it was drawn.

They are chains of ``nn.Linear``, which the engine trains in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import Count
from raysim.models.shapes import features


@dataclass(frozen=True)
class DeepReLU(Model):
    """Deep over-parameterised ReLU network, f(W; x) = V σ(W_L σ(W_{L-1} ... σ(W_1 x))) with σ = ReLU and no biases.

    All hidden layers have m neurons. Entries of every W_l start as N(0, 2/m) and are trained; entries of V are drawn
    from N(0, 1/outputs) and stay. Theory wants inputs of length 1 (``UnitSphere``) and the squared loss.

    Paper: Deng, Kamani, Mahdavi, Local SGD Optimizes Overparameterized Neural Networks in Polynomial Time, 2022,
    https://arxiv.org/abs/2107.10868; the set-up is that of Allen-Zhu, Li, Song, A Convergence Theory for Deep Learning
    via Over-Parameterization, 2019, https://arxiv.org/abs/1811.03962

    Args:
        width: neurons m of every hidden layer.
        depth: hidden layers L.
    """

    width: Count = 256
    depth: Count = 2

    def build(self, data: Dataset) -> nn.Module:
        """Flatten, L trained layers with ReLU, and V."""
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = features(data, "DeepReLU")
        for _ in range(self.depth):
            layers += [_linear(torch.randn(self.width, inputs) * (2 / self.width) ** 0.5), nn.ReLU()]
            inputs = self.width
        v = torch.randn(data.outputs, self.width) / data.outputs**0.5
        return nn.Sequential(*layers, _linear(v, frozen=True))


@dataclass(frozen=True)
class TwoLayer(Model):
    """Two-layer ReLU network of kernel theory, f(x) = s Σ_j a_j max(0, w_j·x) with a_j = ±1 frozen and no biases.

    w_j ~ N(0, I) at the start, and only they are trained. With s = 1/√m the network moves as its tangent kernel does,
    K(x, x') = <x, x'> (π - arccos <x, x'>) / (2π) on the unit sphere; with s = 1/m it is the mean-field network. Each
    output has signs of its own.

    Paper: Su, Yang, On Learning Over-parameterized Neural Networks: A Functional Approximation Perspective, 2019,
    https://arxiv.org/abs/1905.10826

    Args:
        width: hidden neurons m.
        scale: the factor s, "1/sqrt(m)" or "1/m".
        signs: a_j by fair coins ("random"), half of them +1 ("balanced"), or all +1 ("positive").
    """

    width: Count = 1024
    scale: Literal["1/sqrt(m)", "1/m"] = "1/sqrt(m)"
    signs: Literal["random", "balanced", "positive"] = "random"

    def build(self, data: Dataset) -> nn.Module:
        """Flatten, the neurons, and their frozen signs times the scale."""
        w = torch.randn(self.width, features(data, "TwoLayer"))
        a = self._signs(data.outputs) * self.width ** (-0.5 if self.scale == "1/sqrt(m)" else -1.0)
        return nn.Sequential(nn.Flatten(), _linear(w), nn.ReLU(), _linear(a, frozen=True))

    def _signs(self, outputs: int) -> Tensor:
        """±1, [outputs, width]."""
        if self.signs == "positive":
            return torch.ones(outputs, self.width)
        if self.signs == "random":
            return 2.0 * torch.randint(0, 2, (outputs, self.width)) - 1
        order = torch.stack([torch.randperm(self.width) for _ in range(outputs)])
        return 1 - 2.0 * (order % 2)


def _linear(weight: Tensor, *, frozen: bool = False) -> nn.Linear:
    """The map x -> W x with this W."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=not frozen)
    return layer
