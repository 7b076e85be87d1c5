"""CHOCO-SGD: gossip with compressed messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.columns import add
from raysim.core.interfaces import Rule, Topology
from raysim.core.local import Local
from raysim.core.plugin import ConfigError
from raysim.core.sending import BITS, Sender
from raysim.core.server import Server
from raysim.core.transforms import Compressor
from raysim.rules.own import adapt, begin, kept, mean_model, own


@dataclass(frozen=True)
class ChocoSGD(Rule):
    """CHOCO-SGD: neighbours keep public estimates of each other's models and exchange compressed corrections.

    In a round: x_i ← local training of x_i;  x_i ← x_i + γ (s_i - x̂_i);  q_i = C(x_i - x̂_i), sent to the neighbours;
    x̂_i ← x̂_i + q_i;  s_i ← s_i + Σ_j w_ij q_j. So s_i = Σ_j w_ij x̂_j, with a single row kept in place of one for every
    neighbour. All x̂_i start at zero. This is the order of the authors' code (epfml/ChocoSGD, parallel_choco_v); the
    first paper compresses before it averages. There a layer is compressed at a time, here the whole model.

    Without compressor and with γ = 1 it is Gossip in the order combine-then-adapt.

    Paper: Koloskova, Stich, Jaggi, Decentralized Stochastic Optimization and Gossip Algorithms with Compressed
    Communication, 2019, https://arxiv.org/abs/1902.00340; Koloskova, Lin, Stich, Jaggi, Decentralized Deep Learning
    with Arbitrary Communication Compression, 2020, https://arxiv.org/abs/1907.09356.

    Args:
        topology: who averages with whom; the same graph in every round.
        compressor: C, a contraction, or the estimates drift away; None sends x_i - x̂_i in full.
        consensus: γ, in (0, 1]. Strong compression needs a small one; 0.9 is the default of the authors' code.
    """

    own_models: ClassVar[bool] = True
    everyone: ClassVar[bool] = True

    topology: Topology
    compressor: Compressor | None = None
    consensus: Annotated[float, Field(gt=0, le=1)] = 0.9

    def fit(self, clients: int, cohort: int, local: Local) -> None:
        """The topology's say; weighted sums of estimates can only be kept up to date for fixed weights."""
        self.topology.fit(clients)
        if self.compressor is not None and self.compressor.remembers:
            raise ConfigError(
                f"ChocoSGD compresses x - x̂, which already holds what earlier messages left out; "
                f"{type(self.compressor).__name__} would add it again. Write the compressor inside it alone."
            )
        if self.topology.varies:
            raise ConfigError(
                f"ChocoSGD needs the same mixing matrix in every round, but {type(self.topology).__name__} changes "
                "it. Choose a topology that stays."
            )

    def round(self, clients: Clients, server: Server) -> Server:
        """One exchange: each edge carries one compressed row."""
        begin(clients, server)
        clients.run(correct, self.compressor, self.consensus)
        bits_C = None if self.compressor is None else clients.reports[BITS][np.argsort(clients.ids)]
        clients.mix("message", self.topology.mixing(clients.number, server.round), bits_C)
        clients.run(receive)
        return server.at(mean_model(clients))


def correct(cohort: Cohort, compressor: Compressor | None, consensus: float) -> None:
    """Train, move towards the neighbours' estimates, and say how the own estimate is to change."""
    adapt(cohort)
    x_CP, estimate_CP = own(cohort), kept(cohort, "estimate")
    message_CP = kept(cohort, "message")
    torch.sub(kept(cohort, "mixed"), estimate_CP, out=message_CP)
    add(x_CP, message_CP, consensus)
    torch.sub(x_CP, estimate_CP, out=message_CP)
    if compressor is not None:
        sent_CP, bits = compressor.apply(message_CP.clone(), Sender.of(cohort, "compressor"))
        message_CP.copy_(sent_CP)
        cohort.report(BITS, torch.as_tensor(bits, dtype=torch.float64).expand(len(cohort)))
    estimate_CP.add_(message_CP)


def receive(cohort: Cohort) -> None:
    """The mixed messages bring s = Σ_j w_ij x̂_j up to date."""
    own(cohort, "mixed").add_(own(cohort, "message"))
