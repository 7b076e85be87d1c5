"""Linear regression on Gaussian inputs of a given spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import SquaredError
from raysim.core.plugin import ConfigError, Count, NonNegative, Positive


@dataclass(frozen=True)
class GaussianRegression(Data):
    """Linear regression, y = <w, x> + noise with x ~ N(0, diag(λ_1, ..., λ_d)) and w ~ N(0, I).

    The curvature is H = diag(λ_i), up to the deviation of so many examples, and for SGD and MaSS (see ``Constants``)
    L1 = 2 max λ_i + Σ λ_i and κ̃ = d + 2. Without noise a model fits all examples exactly.

    The model to use is ``Linear(bias=False)``. ``optimum`` is the minimiser over the training set, solved in float64
    from the float32 data, in the order of that layer's weight.

    Args:
        eigenvalues: λ_i, one for each coordinate, above 0.
        examples: training examples, at least as many as coordinates.
        test: test examples; their targets have no noise.
        noise: standard deviation of the Gaussian noise on the training targets.
        seed: which w and which examples.

    Paper: none; least squares. The spectrum (1, 2^-9) is a toy problem of Liu, Belkin, Accelerating SGD with momentum
    for over-parameterized learning, 2018 (ICLR 2020), https://arxiv.org/abs/1810.13395
    """

    eigenvalues: tuple[Positive, ...] = (1.0, 2**-9)
    examples: Count = 10_000
    test: Count = 1000
    noise: NonNegative = 0.0
    seed: int = 0

    def check(self) -> None:
        """As many examples as coordinates, or there were many minimisers."""
        if not self.eigenvalues:
            raise ConfigError(
                "GaussianRegression.eigenvalues must not be empty, got (). Write one per coordinate."
            )
        if self.examples < len(self.eigenvalues):
            raise ConfigError(
                f"GaussianRegression.examples must be at least the number of eigenvalues, {len(self.eigenvalues)}, for "
                f"a single minimiser, got {self.examples}."
            )

    def load(self) -> Dataset:
        """The examples and the exact minimiser."""
        w = self._normal("optimum", len(self.eigenvalues)).double()
        x_train, y_train = self._examples("train", self.examples, w)
        x_test, y_test = self._examples("test", self.test, w)
        y_train += self.noise * self._normal("noise", self.examples, 1)
        optimum = torch.linalg.lstsq(x_train.double(), y_train.double()).solution.flatten()
        return Dataset(
            x_train=x_train.numpy(),
            y_train=y_train.numpy(),
            x_test=x_test.numpy(),
            y_test=y_test.numpy(),
            loss=SquaredError(),
            outputs=1,
            optimum=optimum.numpy(),
        )

    def _normal(self, purpose: str, *shape: int) -> Tensor:
        return streams.normal(streams.key(self.seed, "gaussian", purpose), *shape)

    def _examples(self, part: str, number: int, w: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [number, d] and targets without noise [number, 1]."""
        x = self._normal(part, number, len(w)) * torch.tensor(self.eigenvalues).sqrt()
        return x, (x.double() @ w).float().unsqueeze(-1)
