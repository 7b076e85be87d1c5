"""Stochastic gradient descent: plain, with heavy-ball or Nesterov momentum, with weight decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core.columns import Coefficient, add, decay_and_add, is_zero
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import BelowOne, ConfigError, NonNegative, Rate


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, in the form of torch.optim.SGD.

    With g the gradient plus ``weight_decay`` times x: v <- mu v + g, then x <- x - lr v, or with Nesterov's
    momentum x <- x - lr (g + mu v). v starts at zero.

    As server optimiser: ``SGD(lr=1)`` is FedAvg, ``SGD(lr, momentum=0.9)`` is FedAvgM and
    ``SGD(lr=0.7, momentum=0.9, nesterov=True)`` the outer step of DiLoCo.

    Paper: Robbins, Monro, A Stochastic Approximation Method, 1951, https://doi.org/10.1214/aoms/1177729586;
    momentum as in Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep
    learning, 2013, https://proceedings.mlr.press/v28/sutskever13.html

    Args:
        lr: step size, above 0, or a schedule over rounds.
        momentum: mu, share of the velocity kept from step to step, in [0, 1).
        nesterov: look ahead along the velocity; needs momentum.
        weight_decay: factor of x added to the gradient, at least 0.
    """

    lr: Rate
    momentum: BelowOne = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0

    def check(self) -> None:
        """Nesterov's form only differs where there is momentum."""
        if self.nesterov and is_zero(self.momentum):
            raise ConfigError(
                "SGD.nesterov needs momentum, got momentum=0.0. Write momentum=0.9, or nesterov=False."
            )

    def init(self, x_CP: Tensor) -> Rows:
        """A velocity of zero, where there is momentum."""
        return {} if is_zero(self.momentum) else {"velocity": torch.zeros_like(x_CP)}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: Coefficient) -> None:
        """One step; a single pass over memory without momentum and weight decay."""
        if not is_zero(self.weight_decay):
            add(grad_CP, x_CP, self.weight_decay)
        if "velocity" not in state:
            add(x_CP, grad_CP, -lr)
            return
        decay_and_add(state["velocity"], grad_CP, self.momentum)
        if self.nesterov:
            add(grad_CP, state["velocity"], self.momentum)
            add(x_CP, grad_CP, -lr)
        else:
            add(x_CP, state["velocity"], -lr)

    def accumulates(
        self, x_CP: Tensor, state: Rows, lr: Coefficient
    ) -> tuple[Tensor, Coefficient, Coefficient] | None:
        """The parameters where there is no momentum, else the velocity if only the gradient enters it.

        With columns of numbers (see ``core/population.py``) only the parameters.
        """
        if "velocity" not in state:
            decay = not is_zero(self.weight_decay)
            return x_CP, 1 - lr * self.weight_decay if decay else 1.0, -lr
        if any(isinstance(a, Tensor) for a in (lr, self.momentum, self.weight_decay)):
            return None
        if self.nesterov or self.weight_decay > 0:
            return None
        return state["velocity"], self.momentum, 1.0

    def settle(self, x_CP: Tensor, state: Rows, lr: Coefficient) -> None:
        """Move along the velocity, where there is one."""
        if "velocity" in state:
            add(x_CP, state["velocity"], -lr)
