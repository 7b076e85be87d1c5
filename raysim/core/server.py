"""The server: the shared model between rounds, and what a rule keeps beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raysim.core.interfaces import Optimizer
from raysim.core.plugin import at_round


@dataclass(frozen=True)
class Server:
    """The shared model and the rule's own state, never changed, only replaced.

    Args:
        x_P: parameters of the shared model, float32 [P].
        round: rounds done so far.
        state: named tensors that a rule keeps (optimiser state, control variates).
    """

    x_P: Tensor
    round: int = 0
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, x_P: Tensor, **state: Tensor) -> Server:
        """The server after a round that ended at ``x_P``, with these entries of its state replaced."""
        return replace(self, x_P=x_P, state={**self.state, **state})

    def step(self, optimizer: Optimizer | None, grad_P: Tensor, **state: Tensor) -> Server:
        """One step of a server optimiser along a pseudo-gradient; ``None`` is plain ``x <- x - grad``.

        The optimiser's state is kept under ``optimizer.<name>``; its step size may be a schedule over rounds.
        """
        if optimizer is None:
            return self.at(self.x_P - grad_P, **state)
        x_1P = self.x_P.clone().unsqueeze(0)
        rows = optimizer.init(x_1P)
        for name, value in rows.items():
            kept = self.state.get(f"optimizer.{name}")
            rows[name] = value if kept is None else kept.clone().unsqueeze(0)
        optimizer.update(x_1P, grad_P.clone().unsqueeze(0), rows, at_round(optimizer.lr, self.round))
        kept = {f"optimizer.{name}": value[0] for name, value in rows.items()}
        return self.at(x_1P[0], **kept, **state)

    @property
    def finite(self) -> bool:
        """Whether every parameter is a finite number."""
        return math.isfinite(self.x_P.sum(dtype=torch.float64).item())  # one pass, and nothing allocated
