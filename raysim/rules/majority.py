"""Majority votes: clients send a sign for every coordinate, the server answers with what most of them sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.channel import Message
from raysim.core.clients import Clients
from raysim.core.code import FLOAT
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule
from raysim.core.local import Local
from raysim.core.plugin import ConfigError, Rate, at_round
from raysim.core.server import Server
from raysim.core.transforms import Compressor
from raysim.rules.plain import is_plain, one_gradient


@dataclass(frozen=True)
class MajorityVote(Rule):
    """SignSGD with majority vote, and Stochastic-Sign SGD: one bit a coordinate up, the vote down.

    Client m sends v_m = vote(g_m(x)), ±1 for every coordinate;  s = sign(Σ_m v_m);  x ← x - η s.

    With plain signs (``Sign(scale="none")``) the vote is that of signSGD, which counts how many gradients are positive,
    not how positive: gradients -1, -1 and 5 vote for minus. With ``StochasticSign`` the votes' sum is Σ_m g_m / b in
    the mean, so it leans towards the sign of the mean gradient: with b ≥ every |g_m| a coordinate's vote is wrong with
    probability at most exp(-(Σ_m g_m / b)² / (2M)), and takes |Σ_m g_m| / b hostile clients beside the M honest ones
    for its mean to turn. With ``DPSign`` each client's message is private.

    With ``feedback`` the server remembers what its answer left out, and clients nothing: ĝ = (1/M) Σ_m v_m;
    p = (||ĝ + e||₁ / P) sign(ĝ + e);  e ← ĝ + e - p;  x ← x - η p. A majority of few stochastic signs does not lean by
    exactly their mean, and settles beside the optimum; the mean of votes, which p follows, has no such bias. Of
    magnitudes that plain signs left out it knows nothing either.

    Votes weigh the same whatever a client's number of examples. One exchange a round: each client's gradient on the
    batch of its only local step (all of its data where ``batch_size=None``), which goes through the experiment's uplink
    before the vote. ``Local.optimizer`` takes no step. After the model itself, in the first round, every client of the
    experiment hears every answer, in place of ``Simulation.downlink``: one bit a coordinate, two where it may be zero,
    and 32 for the scale of p. The metric "vote_margin" is the mean of |Σ_m v_m| / M over the coordinates, 1 where all
    are of one mind.

    Paper: Bernstein, Wang, Azizzadenesheli, Anandkumar, signSGD: Compressed Optimisation for Non-Convex Problems, 2018,
    https://arxiv.org/abs/1802.04434; Jin, Huang, He, Dai, Wu, Stochastic-Sign SGD for Federated Learning with
    Theoretical Guarantees, 2020, https://arxiv.org/abs/2002.10940.

    Args:
        vote: what clients make of their gradients. Votes other than ±1 (a scale, top-k) count as they are.
        lr: η, above 0, or a schedule over rounds: how far every coordinate moves.
        ties: the sign of zero in the server's answer: "zero", or ±1 at "random".
        feedback: whether the server remembers what its answer left out.
    """

    own_downlink: ClassVar[bool] = True
    compresses: ClassVar[bool] = True

    vote: Compressor
    lr: Rate
    ties: Literal["zero", "random"] = "zero"
    feedback: bool = False

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """One gradient a round, and an optimiser that has nothing to say about it."""
        one_gradient(type(self).__name__, local)
        if not is_plain(local.optimizer):
            raise ConfigError(
                "MajorityVote moves by MajorityVote.lr along a vote on gradients, and would ignore what "
                f"{local.optimizer!r} does to them. Use SGD(lr=...) without weight decay there."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: down the last answer, up a vote per client."""
        x_P = Message(server.x_P, self._bits(server))
        sum_P = clients.sum(first_gradient, x_P, compressor=self.vote)
        clients.note("vote_margin", sum_P.abs().mean().item() / clients.number)
        lr, coin = at_round(self.lr, server.round), clients.key("ties") if self.ties == "random" else None
        if not self.feedback:
            return server.at(server.x_P - lr * sign(sum_P, coin))
        wanted_P = sum_P / clients.number + server.state.get("error", torch.zeros_like(sum_P))
        answer_P = wanted_P.abs().mean() * sign(wanted_P, coin)
        return server.at(server.x_P - lr * answer_P, error=wanted_P - answer_P)

    def models(self, cohort: Cohort, server: Server) -> Tensor:
        """Each client's own step, x - η g_m: there are no models to combine."""
        return server.x_P - at_round(self.lr, server.round) * first_gradient(cohort, server.x_P)

    def _bits(self, server: Server) -> int:
        """Of what clients need to have the model: all of it at first, later the last answer."""
        P = len(server.x_P)
        if server.round == 0:
            return FLOAT * P
        return P * (2 if self.ties == "zero" else 1) + FLOAT * self.feedback


def first_gradient(cohort: Cohort, x_P: Tensor) -> Tensor:
    """Gradient at x on the batch of the round's only local step, [C, P]."""
    return cohort.gradient(x_P, step=0)


def sign(sum_P: Tensor, coin: Tensor | None) -> Tensor:
    """-1, 0 or +1; with a key for the coins, ±1 in place of 0."""
    if coin is None:
        return sum_P.sign()
    heads_P = (streams.bits(coin, len(sum_P)) < 0).to(sum_P.device)
    return torch.where(sum_P == 0, torch.where(heads_P, 1.0, -1.0), sum_P.sign())
