"""DiLoCo: many AdamW steps in every worker, one Nesterov step between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raysim.core.clients import Clients
from raysim.core.interfaces import Rule
from raysim.core.plugin import BelowOne, Rate, at_round
from raysim.core.server import Server
from raysim.rules.averaging import local_update


@dataclass(frozen=True)
class DiLoCo(Rule):
    """DiLoCo's outer optimiser: Nesterov SGD, in torch's form, on what the workers' training changed.

    Δ = mean of x - y_i over the workers, all alike;  v ← momentum v + Δ;  x ← x - lr (Δ + momentum v);  v starts at
    zero. It is Averaging with ``SGD(lr=0.7, momentum=0.9, nesterov=True)`` as server optimiser and uniform weights,
    under the recipe's name.

    The recipe's other half is the workers': AdamW whose state stays with its worker and is never averaged, and some
    500 steps a round. In YAML, with the numbers of OpenDiLoCo's code::

        rule: {name: DiLoCo, lr: 0.7, momentum: 0.9}
        local:
          optimizer: {name: AdamW, lr: 4e-4, beta1: 0.9, beta2: 0.95, weight_decay: 0.1}
          steps: 500
          keep_state: true

    Paper: Douillard, Feng, Rusu, Chhaparia, Donchev, Kuncoro, Ranzato, Szlam, Shen, DiLoCo: Distributed
    Low-Communication Training of Language Models, 2023, https://arxiv.org/abs/2311.08105.

    Args:
        lr: outer step size, above 0, or a schedule over rounds.
        momentum: share of the outer velocity kept from round to round, in [0, 1).
    """

    lr: Rate = 0.7
    momentum: BelowOne = 0.9

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x, up one row per worker."""
        gradient_P = -clients.mean(local_update, server.x_P, uniform=True)
        velocity_P = server.state.get("velocity", torch.zeros_like(gradient_P))
        velocity_P = torch.add(gradient_P, velocity_P, alpha=self.momentum)
        step_P = torch.add(gradient_P, velocity_P, alpha=self.momentum)
        x_P = torch.add(server.x_P, step_P, alpha=-at_round(self.lr, server.round))
        return server.at(x_P, velocity=velocity_P)
