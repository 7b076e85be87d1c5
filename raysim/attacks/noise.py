"""Noise in place of what was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from raysim.core import streams
from raysim.core.plugin import NonNegative
from raysim.core.sending import Hostile
from raysim.core.transforms import Attack


@dataclass(frozen=True)
class Noise(Attack):
    """Hostile clients send Gaussian noise: z_i ~ N(0, std² I) in place of x_i, or x_i + z_i.

    Every client draws its own, anew in every message. With std=0 they send zeros, as clients that have failed do.

    Paper: Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries: Byzantine Tolerant Gradient
    Descent, 2017, https://arxiv.org/abs/1703.02757.

    Args:
        hostile: which clients: a fraction of all, drawn once for the experiment, or their numbers.
        std: standard deviation of every number, at least 0.
        add: add the noise to the row rather than send it alone.
    """

    hostile: Hostile
    std: NonNegative
    add: bool = False

    def lie(self, rows_HP: Tensor, key_H: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        """Noise, with or without the row."""
        noise_HP = streams.normal(key_H, rows_HP.shape[1]).to(rows_HP).mul_(self.std)
        return noise_HP.add_(rows_HP) if self.add else noise_HP
