"""Steps along the gradient whose size a backtracking search finds: stochastic Armijo line search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raysim.core.columns import add, some
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.plugin import ConfigError, Count, Positive, Rate

SMALL = 1e-8  # gradients below this norm are left alone, as in the authors' code
LAST = 1e-6  # the step where no trial was accepted, as in the authors' code


@dataclass(frozen=True)
class Armijo(Optimizer):
    """Stochastic line search (SLS): gradient steps, each as long as the loss on its own batch allows.

    With f the loss on the step's batch, g = ∇f(x) and α' the result of the client's last search:
    α = min(growth α', max_step), or min(lr, max_step) in its first search;
    while f(x - α g) > f(x) - sigma α ||g||²: α <- backtrack α;
    x <- x - scale α g, and α is remembered.

    Batch, dropout and adversarial inputs stay the same throughout a search, and f includes whatever a rule adds to the
    loss. On an L-smooth f, α ends at least at min(backtrack 2 (1 - sigma) / L, first trial). A search takes
    1 + log(growth) / log(1 / backtrack) evaluations of f on average where α keeps its level (1.8 by default), beside
    the gradient. Every client searches for itself; metrics "step" (α of the round's last step) and "evaluations" (of f
    in the round).

    Two corner cases are those of the authors' code: a row with ||g|| < 1e-8 stays where it is (and keeps α', without
    growth), and a row for which all ``tries`` fail moves by at most 1e-6 g and remembers the α it would have tried
    next. In float32 a loss far above zero that no longer changes in its first six digits leaves a search with nothing
    but rounding to look at: α then falls, and recovers with ``growth``.

    The authors' settings are backtrack=0.9 and growth=2**(1/n) with n batches in an epoch.

    CSGD-ASSS, compressed SGD with memory feedback, is this with scale < 1 in ``Local(steps=1, keep_state=True)``, rule
    ``Averaging`` and ``Feedback(TopK(fraction))`` as uplink: the memory delays what is sent, for which unscaled steps
    are too long and diverge. The smaller the fraction that is sent, the smaller ``scale`` has to be.

    Paper: Vaswani, Mishkin, Laradji, Schmidt, Gidel, Lacoste-Julien, Painless Stochastic Gradient: Interpolation,
    Line-Search, and Convergence Rates, 2019, https://arxiv.org/abs/1905.09997; ``scale``: Subramaniam, Magesh,
    Veeravalli, Adaptive Step-Size Methods for Compressed SGD, 2022, https://arxiv.org/abs/2207.10046

    Args:
        lr: first trial of a client's first search, above 0, or a schedule over rounds. With ``Local.keep_state`` that
            is the client's first search of all, and later rounds go on from the α it remembers; without, the first
            of every round.
        sigma: Armijo's constant, share of the decrease promised by the gradient that is asked for, in (0, 1).
        backtrack: factor of α after a failed trial, in (0, 1).
        growth: first trial over the last search's result, at least 1.
        max_step: cap on α, above 0, or None.
        tries: evaluations after which a search gives up, at least 1.
        scale: share of α that is stepped, in (0, 1].
    """

    searches: ClassVar[bool] = True
    reported: ClassVar[tuple[str, ...]] = ("step", "evaluations")
    counted: ClassVar[tuple[str, ...]] = ("evaluations",)

    lr: Rate
    sigma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    backtrack: Annotated[float, Field(gt=0, lt=1)] = 0.8
    growth: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.2
    max_step: Positive | None = None
    tries: Count = 100
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0

    def init(self, x_CP: Tensor) -> Rows:
        """No step remembered (zero), nothing evaluated."""
        return {name: x_CP.new_zeros(len(x_CP), 1) for name in self.reported}

    def update(self, x_CP: Tensor, grad_CP: Tensor, state: Rows, lr: float | Tensor) -> None:
        """A search needs the loss."""
        raise no_loss(self)

    def step(self, objective: Any, x_CP: Tensor, state: Rows, lr: float | Tensor) -> Tensor:
        """Search and step, every row for itself."""
        loss_C, grad_CP = objective.value_and_grad(x_CP)
        square_C1 = grad_CP.square().sum(1, keepdim=True)
        moves_C1 = square_C1 >= SMALL**2
        step_C1 = self._first(state["step"], moves_C1, lr)
        promised_C1 = self.sigma * square_C1
        left_A = moves_C1[:, 0].nonzero()[:, 0]
        for _ in range(self.tries):
            if len(left_A) == 0:
                break
            state["evaluations"][left_A] += 1
            worse_A = _worse(objective, x_CP, grad_CP, loss_C, step_C1, promised_C1, left_A)
            left_A = left_A[worse_A]
            step_C1[left_A] *= some(self.backtrack, left_A)
        state["step"].copy_(step_C1)
        step_C1[left_A] = step_C1[left_A].clamp(max=LAST)
        add(x_CP, grad_CP, torch.where(moves_C1, -self.scale * step_C1, 0))
        return loss_C

    def _first(self, last_C1: Tensor, moves_C1: Tensor, lr: float | Tensor) -> Tensor:
        """Where each row's search begins; for a row that will not search, what it remembers."""
        later_C1 = torch.where(moves_C1, self.growth * last_C1, last_C1)
        first_C1 = torch.where(last_C1 > 0, later_C1, lr)
        return first_C1 if self.max_step is None else first_C1.clamp_(max=self.max_step)


def _worse(
    objective: Any,
    x_CP: Tensor,
    grad_CP: Tensor,
    loss_C: Tensor,
    step_C1: Tensor,
    promised_C1: Tensor,
    left_A: Tensor,
) -> Tensor:
    """Which of the rows that still search lose less than promised by their trial step, [A]; only they are evaluated."""
    rows = (lambda t: t) if len(left_A) == len(x_CP) else (lambda t: t[left_A])
    trial_AP = torch.addcmul(rows(x_CP), rows(grad_CP), rows(step_C1), value=-1)
    value_A = objective.picked(left_A).value(trial_AP)
    enough_A = rows(loss_C) - rows(step_C1 * promised_C1)[:, 0]
    return ~(value_A <= enough_A)  # a loss that is not a number is worse than any


def no_loss(optimizer: Optimizer) -> ConfigError:
    """What a server, which has gradients alone, answers to an optimiser that asks for losses."""
    return ConfigError(
        f"{type(optimizer).__name__} needs the loss on the step's batch, but here it was only given a gradient. Use it "
        "as Local.optimizer, and SGD, Adam or another that needs no loss as server optimiser."
    )
