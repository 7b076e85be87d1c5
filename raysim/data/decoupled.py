"""Regression on one random coordinate at a time: where Nesterov's momentum fails with mini-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import SquaredError
from raysim.core.plugin import ConfigError, Count, Positive


@dataclass(frozen=True)
class ComponentDecoupled(Data):
    """Linear regression without noise whose inputs have one coordinate other than zero: x = σ_i z e_i.

    i is uniform over the d coordinates and z ~ N(0, 2); y = <w, x> with w ~ N(0, I). The curvature is
    H = diag(2 σ_i² / d), and for SGD and MaSS (see ``Constants``) L1 = 6 max σ_i² and κ̃ = 3 d. With d = 2, a step size
    of 1 / L1 and single examples, Nesterov's SGD diverges for momenta from 0.6.

    The model to use is ``Linear(bias=False)``. ``optimum`` is w.

    Args:
        scales: σ_i, one for each coordinate, above 0.
        examples: training examples.
        test: test examples.
        seed: which w and which examples.

    Paper: Liu, Belkin, Accelerating SGD with momentum for over-parameterized learning, 2018 (ICLR 2020),
    https://arxiv.org/abs/1810.13395
    """

    scales: tuple[Positive, ...] = (1.0, 2**-4.5)
    examples: Count = 10_000
    test: Count = 1000
    seed: int = 0

    def check(self) -> None:
        """At least one coordinate."""
        if not self.scales:
            raise ConfigError(
                "ComponentDecoupled.scales must not be empty, got (). Write one per coordinate."
            )

    def load(self) -> Dataset:
        """The examples, each with one coordinate."""
        w = streams.normal(streams.key(self.seed, "decoupled", "optimum"), len(self.scales)).double()
        x_train, x_test = self._inputs("train", self.examples), self._inputs("test", self.test)
        y_train, y_test = ((x.double() @ w).float().unsqueeze(-1) for x in (x_train, x_test))
        return Dataset(
            x_train=x_train.numpy(),
            y_train=y_train.numpy(),
            x_test=x_test.numpy(),
            y_test=y_test.numpy(),
            loss=SquaredError(),
            outputs=1,
            optimum=w.numpy(),
        )

    def _inputs(self, part: str, number: int) -> Tensor:
        """Inputs [number, d]."""
        place = streams.integers(streams.key(self.seed, "decoupled", part, "place"), len(self.scales), number)
        z = 2**0.5 * streams.normal(streams.key(self.seed, "decoupled", part), number)
        x = torch.zeros(number, len(self.scales))
        x[torch.arange(number), place] = z * torch.tensor(self.scales)[place]
        return x
