"""Inner product manipulation: the honest mean, turned round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysim.core.plugin import Positive
from raysim.core.sending import Hostile
from raysim.core.transforms import Attack


@dataclass(frozen=True)
class InnerProduct(Attack):
    """Inner product manipulation: all hostile clients send -scale μ, μ the mean of what the honest ones send.

    A small scale is hard to tell from honest rows and gives robust rules a mean with the wrong sign; a large one turns
    a plain mean round: m hostile of n clients do so from scale (n - m)/m on. Followed by a sign compressor they vote
    against the sign of the honest mean. The honest clients of the cohort weigh the same in μ, which is taken before
    any transform. In a cohort without honest clients there is nothing to know: they send zeros.

    The attacker knows what it could not: a round in which a hostile client takes part trains every client twice.

    Paper: Xie, Koyejo, Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation, 2019,
    https://arxiv.org/abs/1903.03936.

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
        scale: length of the lie over that of the honest mean, above 0.
    """

    watches = ("mean",)

    hostile: Hostile
    scale: Positive = 0.1

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """The opposite of the honest mean, the same for all."""
        return (known["mean"] * -self.scale).expand_as(rows_HP)
