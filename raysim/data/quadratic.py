"""Least squares whose every curvature and optimum is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import SquaredError
from raysim.core.plugin import ConfigError, Count, NonNegative


@dataclass(frozen=True)
class Quadratic(Data):
    """Least squares where f_i(w) = ½ (w - w_i)ᵀ H_i (w - w_i) exactly, with known H_i and w_i.

    Client i holds X_i = √M Q_i H_i^½, with orthonormal columns Q_i of its own, and y_i = X_i w_i, so that
    X_iᵀ X_i / M = H_i. All H_i have the same random eigenvectors; their eigenvalues are spaced geometrically
    from 1 / condition to 1, each times exp(curvature_spread z) with z ~ N(0, 1) for every client and
    direction. The optima are w_i = w + heterogeneity u_i, with ||w|| = 1 and random u_i that have mean 0 and
    mean square length 1 (a single client has u = 0). The model to use is ``nn.Linear(dimension, 1,
    bias=False)``. Training and test set are the same arrays: the objective itself is what is looked at.
    ``groups`` is the client, ``optimum`` the minimiser of the mean over all examples, in the order of that
    layer's weight, solved in float64 from the float32 data.

    Args:
        clients: number of clients; partition them with ``ByGroup()``.
        dimension: number of parameters.
        examples: examples M per client, at least ``dimension``.
        condition: largest over smallest eigenvalue of H_i before the spread, 1 or more.
        heterogeneity: root mean square distance of the clients' optima from their mean.
        curvature_spread: how much the eigenvalues differ between clients, as the standard deviation of their
            logarithm; with 0 all H_i are equal and the common minimum is at w.
        seed: which problem.

    Paper: none. Linear least squares.
    """

    clients: Count = 10
    dimension: Count = 10
    examples: Count = 32
    condition: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    heterogeneity: NonNegative = 1.0
    curvature_spread: NonNegative = 0.0
    seed: int = 0

    def check(self) -> None:
        """As many examples as parameters, or H_i could not be had."""
        if self.examples < self.dimension:
            raise ConfigError(
                f"Quadratic.examples must be at least the dimension, {self.dimension}, for every client's "
                f"curvature to have full rank, got {self.examples}."
            )

    def load(self) -> Dataset:
        """The examples, client after client, and the exact minimiser."""
        design = self._normal("design", torch.arange(self.clients), self.examples, self.dimension)
        root = torch.linalg.qr(design).Q * (self.examples * self._curvatures()).sqrt()[:, None, :]
        x = (root @ self._directions().T).float()
        y = (x.double() @ self._optima()[:, :, None]).float()
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        x64, y64 = x.double(), y.double()
        optimum = torch.linalg.solve(x64.T @ x64, x64.T @ y64).flatten()
        owner = torch.arange(self.clients).repeat_interleave(self.examples)
        return Dataset(
            x_train=x.numpy(),
            y_train=y.numpy(),
            x_test=x.numpy(),
            y_test=y.numpy(),
            loss=SquaredError(),
            outputs=1,
            groups=owner.numpy(),
            optimum=optimum.numpy(),
        )

    def _normal(self, purpose: str, ids: Tensor, *shape: int) -> Tensor:
        """Standard normal float64; a client's numbers do not depend on how many clients there are."""
        return streams.normal(streams.key(self.seed, "quadratic", purpose, ids), *shape).double()

    def _directions(self) -> Tensor:
        """Eigenvectors of every H_i, as columns [dimension, dimension]."""
        return torch.linalg.qr(self._normal("directions", torch.tensor(0), self.dimension, self.dimension)).Q

    def _curvatures(self) -> Tensor:
        """Eigenvalues of every H_i, [clients, dimension]."""
        place = (
            torch.linspace(-1, 0, self.dimension, dtype=torch.float64)
            if self.dimension > 1
            else torch.zeros(1)
        )
        log_spread = self.curvature_spread * self._normal(
            "curvature", torch.arange(self.clients), self.dimension
        )
        return self.condition**place * log_spread.exp()

    def _optima(self) -> Tensor:
        """w_i of every client, [clients, dimension]."""
        centre = self._normal("centre", torch.tensor(0), self.dimension)
        offset = self._normal("offset", torch.arange(self.clients), self.dimension)
        offset = offset - offset.mean(0)
        length = offset.square().sum(-1).mean().sqrt()
        return centre / centre.norm() + self.heterogeneity * offset / length.clamp(min=1e-12)
