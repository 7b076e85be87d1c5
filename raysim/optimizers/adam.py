"""Adam, and AdamW with its decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core.columns import Coefficient, add, is_zero, one_minus_power, root_into, subtract_quotient
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import BelowOne, NonNegative, Positive, Rate


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam: steps scaled coordinate by coordinate with running means of the gradient and of its square.

    m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g², x <- x - lr m' / (sqrt(v') + eps), where m'
    and v' are m / (1 - beta1^t) and v / (1 - beta2^t) at step t (counted for each row), or without bias
    correction m and v. The defaults are those of torch.optim.Adam.

    As server optimiser, FedAdam of Reddi et al. (2020, https://arxiv.org/abs/2003.00295) with their tau is
    ``Adam(lr, beta1=0.9, beta2=0.99, eps=tau, initial=tau**2, bias_correction=False)``.

    Paper: Kingma, Ba, Adam: A Method for Stochastic Optimization, 2014, https://arxiv.org/abs/1412.6980

    Args:
        lr: step size, above 0, or a schedule over rounds.
        beta1: share of m kept from step to step, in [0, 1).
        beta2: share of v kept from step to step, in [0, 1).
        eps: added to the root, above 0.
        weight_decay: factor of x added to the gradient, at least 0 (and scaled with it: see AdamW).
        bias_correction: divide by 1 - beta^t, which undoes a start from zero.
        initial: value that v starts from, at least 0.
    """

    lr: Rate
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    bias_correction: bool = True
    initial: NonNegative = 0.0

    def init(self, x_CP: Tensor) -> Rows:
        """Zero mean, squares at ``initial`` and, for bias correction, a step counter per row."""
        return _start(x_CP, self.initial, self.bias_correction)

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """One step; overwrites the gradient."""
        if not is_zero(self.weight_decay):
            add(grad_CP, x_CP, self.weight_decay)
        _step(x_CP, grad_CP, state, lr, self.beta1, self.beta2, self.eps)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: x <- (1 - lr weight_decay) x before every step of Adam.

    The defaults are those of torch.optim.AdamW. DiLoCo's inner optimiser is
    ``AdamW(lr=4e-4, beta2=0.95, weight_decay=0.1)``.

    Paper: Loshchilov, Hutter, Decoupled Weight Decay Regularization, 2017, https://arxiv.org/abs/1711.05101

    Args:
        lr: step size, above 0, or a schedule over rounds.
        beta1: share of the running mean of gradients kept from step to step, in [0, 1).
        beta2: share of the running mean of squares kept from step to step, in [0, 1).
        eps: added to the root, above 0.
        weight_decay: rate at which x shrinks, in units of lr, at least 0.
    """

    lr: Rate
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01

    def init(self, x_CP: Tensor) -> Rows:
        """Zero mean and squares, and a step counter per row."""
        return _start(x_CP, 0.0, counter=True)

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """One step; overwrites the gradient."""
        if not is_zero(self.weight_decay):
            x_CP.mul_(1 - lr * self.weight_decay)
        _step(x_CP, grad_CP, state, lr, self.beta1, self.beta2, self.eps)


def _start(x_CP: Tensor, initial: Coefficient, counter: bool) -> Rows:
    rows = {"mean": torch.zeros_like(x_CP), "square": torch.zeros_like(x_CP).add_(initial)}
    return rows | {"step": x_CP.new_zeros(len(x_CP), 1)} if counter else rows


def _step(
    x_CP: Tensor,
    grad_CP: Tensor,
    state: Rows,
    lr: Coefficient,
    beta1: Coefficient,
    beta2: Coefficient,
    eps: Coefficient,
) -> None:
    """Both running means, then the step.

    The bias corrections go into the denominator:
    (m / c1) / (sqrt(v / c2) + eps) = m / (sqrt(v) c1 / sqrt(c2) + eps c1).
    """
    mean_CP, square_CP = state["mean"], state["square"]
    mean_CP.lerp_(grad_CP, 1 - beta1)
    square_CP.lerp_(grad_CP.mul_(grad_CP), 1 - beta2)
    root_into(grad_CP, square_CP)
    if "step" in state:
        step_C1 = state["step"].add_(1)
        c1_C1, c2_C1 = one_minus_power(beta1, step_C1), one_minus_power(beta2, step_C1)
        grad_CP.mul_(c1_C1 * c2_C1.rsqrt()).add_(c1_C1 * eps)
    else:
        grad_CP.add_(eps)
    subtract_quotient(x_CP, mean_CP, grad_CP, lr)
