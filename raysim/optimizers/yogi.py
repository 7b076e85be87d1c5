"""Yogi."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core.columns import root_into, subtract_quotient
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import BelowOne, NonNegative, Positive, Rate


@dataclass(frozen=True)
class Yogi(Optimizer):
    """Yogi: Adam whose running square moves by at most (1 - beta2) g² per step, however large it is.

    m <- beta1 m + (1 - beta1) g, v <- v - (1 - beta2) sign(v - g²) g², x <- x - lr m / (sqrt(v) + eps),
    without bias correction.

    As server optimiser, FedYogi of Reddi et al. (2020, https://arxiv.org/abs/2003.00295) with their tau is
    ``Yogi(lr, beta1=0.9, beta2=0.99, eps=tau, initial=tau**2)``.

    Paper: Zaheer, Reddi, Sachan, Kale, Kumar, Adaptive Methods for Nonconvex Optimization, 2018,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization

    Args:
        lr: step size, above 0, or a schedule over rounds.
        beta1: share of m kept from step to step, in [0, 1).
        beta2: 1 - beta2 is the share of g² by which v moves, beta2 in [0, 1).
        eps: added to the root, above 0.
        initial: value that v starts from, at least 0.
    """

    lr: Rate
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    eps: Positive = 1e-3
    initial: NonNegative = 1e-6

    def init(self, x_CP: Tensor) -> Rows:
        """Zero mean, squares at ``initial``."""
        return {"mean": torch.zeros_like(x_CP), "square": torch.zeros_like(x_CP).add_(self.initial)}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """One step, with one temporary; overwrites the gradient."""
        mean_CP, square_CP = state["mean"], state["square"]
        mean_CP.lerp_(grad_CP, 1 - self.beta1)
        grad_CP.mul_(grad_CP)
        towards_CP = (grad_CP - square_CP).sign_().mul_(1 - self.beta2)
        square_CP.addcmul_(towards_CP, grad_CP)
        root_into(grad_CP, square_CP)
        subtract_quotient(x_CP, mean_CP, grad_CP.add_(self.eps), lr)
