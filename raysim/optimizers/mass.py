"""MaSS: Nesterov's momentum with a compensation term, which makes it converge fast with mini-batches too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from raysim.core.columns import Coefficient, add, is_zero
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import BelowOne, ConfigError, NonNegative, Rate

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class MaSS(Optimizer):
    """MaSS, momentum-added stochastic solver: accelerated SGD for models that can fit all their data.

    w' = u - η1 g(u), then u' = (1 + γ) w' - γ w + η2 g(u): Nesterov's momentum and, with the same gradient, a small
    step back. Nesterov's own method (η2 = 0) can diverge with mini-batches, or gain nothing over SGD; on least squares
    with an exact fit, this one provably gains.

    The model, where gradients are taken and the loss is measured, is u; w = u at the start. The state is the velocity v
    of SGD's form, of which u - w = (η2 - γ η1) v, so that with η1 = lr, η2 = secondary lr and g the gradient plus
    ``weight_decay`` times x a step is v <- γ v + g, x <- x - lr (g + (γ - secondary) v). With secondary=0 that is
    ``SGD(lr, momentum=γ, nesterov=True)``.

    γ and η2 are given as ``momentum`` and ``secondary``, or as ``alpha`` and ``kappa``, the form in which the method is
    tuned: γ = (1 - alpha) / (1 + alpha), secondary = (1 - 1/kappa) / (1 + alpha). The authors train a ResNet-32 with
    alpha=0.05, kappa=2. ``Constants`` has the optimal values for least squares and each batch size.

    A step size below that of the step before makes a row start anew, w = u (as the authors do whenever they cut it);
    a larger one keeps u - w. A schedule that falls in every round thus ends the momentum in every round, where it would
    have been kept at all: by a server, or with ``Local(keep_state=True)``. Use ``Step`` there.

    Paper: Liu, Belkin, Accelerating SGD with momentum for over-parameterized learning, 2018 (ICLR 2020),
    https://arxiv.org/abs/1810.13395

    Args:
        lr: step size η1, above 0, or a schedule over rounds.
        momentum: γ, in [0, 1).
        secondary: η2 / η1, in [0, 1), in place of an absolute step size so that it follows a schedule.
        alpha: in (0, 1]; small for much momentum, at best 1 / √(condition number times kappa).
        kappa: statistical condition number κ̃ at the batch size, 1 (full batches) or more.
        weight_decay: factor of x added to the gradient, at least 0.
    """

    lr: Rate
    momentum: BelowOne | None = None
    secondary: BelowOne | None = None
    alpha: Annotated[float, Field(gt=0, le=1)] | None = None
    kappa: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    weight_decay: NonNegative = 0.0

    def check(self) -> None:
        """One pair of coefficients, and one only."""
        pairs = {name: getattr(self, name) for name in ("momentum", "secondary", "alpha", "kappa")}
        given = {name: value for name, value in pairs.items() if value is not None}
        if set(given) in ({"momentum", "secondary"}, {"alpha", "kappa"}):
            return
        got = ", ".join(f"{name}={value}" for name, value in given.items()) or "none of them"
        raise ConfigError(
            f"MaSS needs either momentum and secondary or alpha and kappa, got {got}. Write alpha=0.05, kappa=2, or "
            "momentum=0.9, secondary=0.5."
        )

    def coefficients(self) -> tuple[Coefficient, Coefficient]:
        """γ and η2 / η1, from whichever pair was given."""
        if self.alpha is not None and self.kappa is not None:
            return (1 - self.alpha) / (1 + self.alpha), (1 - 1 / self.kappa) / (1 + self.alpha)
        assert self.momentum is not None
        assert self.secondary is not None
        return self.momentum, self.secondary

    def init(self, x_CP: Tensor) -> Rows:
        """A velocity of zero and, per row, the step size of the step before: none yet, so nothing is below it."""
        return {"velocity": torch.zeros_like(x_CP), "lr": x_CP.new_full((len(x_CP), 1), math.inf)}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """One step, in three passes over memory; overwrites the gradient."""
        if not is_zero(self.weight_decay):
            add(grad_CP, x_CP, self.weight_decay)
        gamma, secondary = self.coefficients()
        velocity_CP = state["velocity"]
        _decay_and_add(velocity_CP, grad_CP, gamma * _kept(state["lr"], lr))
        if not is_zero(gamma - secondary):
            add(grad_CP, velocity_CP, gamma - secondary)
        add(x_CP, grad_CP, -lr)


def _kept(last_C1: Tensor, lr: float | Tensor) -> Tensor:
    """What a change of the step size leaves of each row's velocity, and note the new one.

    0 after a cut; otherwise old over new, since u - w, which stays, is the velocity times the step size.
    """
    new_C1 = torch.zeros_like(last_C1).add_(lr)
    kept_C1 = torch.where(new_C1 < last_C1, 0, last_C1 / new_C1.clamp(min=TINY))
    last_C1.copy_(new_C1)
    return kept_C1


def _decay_and_add(x_CP: Tensor, y_CP: Tensor, a_C1: Tensor) -> None:
    """Accumulate: x <- a x + y with a column, in one pass where torch.compile admits it (``columns.py`` says why)."""
    if x_CP.is_contiguous():
        torch.addcmul(y_CP, x_CP, a_C1, out=x_CP)
    else:
        x_CP.mul_(a_C1).add_(y_CP)
