"""Steps along the gradient whose size is read off the loss: stochastic Polyak steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raysim.core.columns import add
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import Positive, Rate
from raysim.optimizers.armijo import SMALL, no_loss


@dataclass(frozen=True)
class PolyakStep(Optimizer):
    """Stochastic Polyak steps (SPS_max): what the loss is above its minimum, over the squared gradient, up to a cap.

    With f the loss on the step's batch and g = ∇f(x): η = min(cap, (f(x) - minimum) / (c ||g||²)), x <- x - η g.
    The cap is ``lr``; or with ``growth``, ``lr`` for a client's first step and growth times its last η afterwards,
    which keeps η from jumping.

    f includes what a rule adds to the loss, of which ``minimum`` then has to be the least value too; the constant of a
    proximal term is left out of f, so that with such rules η comes out too small. A row with ||g|| < 1e-8 or a loss
    below the minimum stays where it is. Metric "step": η of the round's last step.

    The authors' theory has c = 1/2 for strongly convex functions, and their networks c = 0.2 and growth = 2**(b/n) with
    b of n examples in a batch.

    Paper: Loizou, Vaswani, Laradji, Lacoste-Julien, Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for
    Fast Convergence, 2021 (first 2020), https://arxiv.org/abs/2002.10542

    Args:
        lr: cap on η, above 0, or a schedule over rounds; with ``growth`` of a client's first step alone (with
            ``Local.keep_state`` its first of all, without the first of every round).
        c: the divisor's constant, above 0; larger takes shorter steps.
        minimum: the least loss that any batch can have: zero under interpolation.
        growth: cap over the last η, at least 1, or None for a cap of ``lr`` throughout.
    """

    reported: ClassVar[tuple[str, ...]] = ("step",)

    lr: Rate
    c: Positive = 0.5
    minimum: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None

    def init(self, x_CP: Tensor) -> Rows:
        """No step remembered."""
        return {"step": x_CP.new_zeros(len(x_CP), 1)}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """The step's size depends on the loss."""
        raise no_loss(self)

    def step(self, objective: Any, x_CP: Tensor, state: Rows, lr: float | Tensor) -> Tensor:
        """One step, every row its own size."""
        loss_C, grad_CP = objective.value_and_grad(x_CP)
        square_C1, last_C1 = grad_CP.square().sum(1, keepdim=True), state["step"]
        above_C1 = loss_C.unsqueeze(1) - self.minimum
        moves_C1 = (square_C1 >= SMALL**2) & (above_C1 > 0)
        step_C1 = above_C1 / (self.c * square_C1)
        later_C1 = (last_C1 > 0) & (self.growth is not None)
        cap_C1 = torch.where(later_C1, (1.0 if self.growth is None else self.growth) * last_C1, lr)
        step_C1 = torch.minimum(step_C1, cap_C1)
        last_C1.copy_(torch.where(moves_C1, step_C1, last_C1))
        add(x_CP, grad_CP, torch.where(moves_C1, -step_C1, 0))
        return loss_C
