"""SlowMo: momentum between rounds, in units of the clients' step size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from raysim.core.clients import Clients
from raysim.core.interfaces import Rule
from raysim.core.plugin import BelowOne, Positive
from raysim.core.server import Server
from raysim.rules.averaging import local_update


@dataclass(frozen=True)
class SlowMo(Rule):
    """Slow momentum: what a round of local training changed is one gradient of an outer momentum method.

    y = Σ_i w_i y_i after local training from x;  u ← β u + (x - y) / γ;  x ← x - α γ u, where γ is the clients' step
    size in this round and u starts at zero.

    Dividing by γ keeps the memory right when γ changes from round to round: with a constant γ this is heavy-ball
    momentum on the pseudo-gradient. What clients do with their own momentum between rounds is the paper's buffer
    strategy: ``Local.keep_state=False`` resets it, ``True`` maintains it (averaging it is not offered).

    The updates as in fairscale, whose defaults these are (alpha=1, beta=0.5); the paper uses beta of 0.4 to 0.8.

    Paper: Wang, Tantia, Ballas, Rabbat, SlowMo: Improving Communication-Efficient Distributed SGD with Slow Momentum,
    2020, https://arxiv.org/abs/1910.00643.

    Args:
        alpha: slow step size, above 0.
        beta: slow momentum, in [0, 1).
        weighting: w_i "uniform", or by number of "examples".
    """

    alpha: Positive = 1.0
    beta: BelowOne = 0.5
    weighting: Literal["uniform", "examples"] = "uniform"

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down x, up one row per client."""
        change_P = clients.mean(local_update, server.x_P, uniform=self.weighting == "uniform")
        u_P = self.beta * server.state.get("slow", torch.zeros_like(change_P)) - change_P / clients.lr
        return server.at(server.x_P - self.alpha * clients.lr * u_P, slow=u_P)
