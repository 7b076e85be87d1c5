"""The sign of a number to which noise was added: one bit, and differential privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field as Limits
from torch import Tensor

from raysim.compressors.sign import signs_of
from raysim.core import streams
from raysim.core.code import Code, Field
from raysim.core.plugin import ConfigError, Positive
from raysim.core.sending import Sender
from raysim.core.transforms import Compressor


@dataclass(frozen=True)
class DPSign(Compressor):
    """Differentially private sign (dp-sign): +1 with probability Φ(g / σ), else -1, for every number g of a row.

    σ = (Δ / ε) √(2 ln(1.25 / δ)), and Φ is the normal distribution: it is the sign of g + N(0, σ²), and drawn so. The
    noise alone makes one message (ε, δ)-differentially private by the Gaussian mechanism; taking the sign adds nothing
    to what the receiver learns. The privacy is that of a single message: over several rounds it adds up, which this
    class does not account for.

    Δ is the most that a row can change in length when the data changes that is to be protected. Nothing here enforces
    it: for one example of a batch of B, with example gradients clipped to C, it is 2C/B; for all of a client's data,
    with ``Clip(norm=S)`` before this in the uplink, it is 2S.

    A row takes one bit a number.

    Paper: Jin, Huang, He, Dai, Wu, Stochastic-Sign SGD for Federated Learning with Theoretical Guarantees, 2020,
    https://arxiv.org/abs/2002.10940; the noise is that of Dwork, Roth, The Algorithmic Foundations of Differential
    Privacy, 2014, https://doi.org/10.1561/0400000042.

    Args:
        epsilon: ε, above 0 and below 1, where the bound on the noise holds.
        delta: δ, above 0 and below 1; far below one over the number of those protected.
        sensitivity: Δ, above 0, in the unit of the numbers sent.
    """

    epsilon: Positive
    delta: Annotated[float, Limits(gt=0, lt=1)]
    sensitivity: Positive

    def check(self) -> None:
        """The Gaussian mechanism's bound is proved for ε below 1 only."""
        if self.epsilon >= 1:
            raise ConfigError(
                "DPSign.epsilon must be below 1, for a message with σ = (Δ/ε) √(2 ln(1.25/δ)) is known to be private "
                f"there only, got {self.epsilon}. Choose one below 1, or set the noise by a smaller sensitivity and "
                "account for it with a tool such as dp-accounting."
            )

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.sensitivity / self.epsilon * math.sqrt(2 * math.log(1.25 / self.delta))

    def encode(self, rows_CP: Tensor, sender: Sender) -> Code:
        """The signs of the noised numbers."""
        noise_CP = streams.normal(sender.key("noise"), rows_CP.shape[1])
        return {"signs": Field(noise_CP.mul_(self.sigma).add_(rows_CP) >= 0, 1)}

    def decode(self, code: Code, sender: Sender) -> Tensor:
        """±1."""
        return signs_of(code)
