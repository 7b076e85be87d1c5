"""Adagrad."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core.columns import subtract_quotient
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import NonNegative, Positive, Rate


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad: steps scaled coordinate by coordinate with the sum of all squared gradients so far.

    v <- v + g², x <- x - lr g / (sqrt(v) + eps). The defaults are those of torch.optim.Adagrad.

    As server optimiser, FedAdagrad of Reddi et al. (2020, https://arxiv.org/abs/2003.00295) with their tau
    (and without momentum) is ``Adagrad(lr, eps=tau, initial=tau**2)``.

    Paper: Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization,
    2011, https://jmlr.org/papers/v12/duchi11a.html

    Args:
        lr: step size, above 0, or a schedule over rounds.
        eps: added to the root, above 0.
        initial: value that v starts from, at least 0.
    """

    lr: Rate
    eps: Positive = 1e-10
    initial: NonNegative = 0.0

    def init(self, x_CP: Tensor) -> Rows:
        """The sum of squares, at ``initial``."""
        return {"square": torch.zeros_like(x_CP).add_(self.initial)}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """One step, with one temporary."""
        square_CP = state["square"].addcmul_(grad_CP, grad_CP)
        subtract_quotient(x_CP, grad_CP, square_CP.sqrt().add_(self.eps), lr)
