"""The constants of data that decide how fast SGD and MaSS are on least squares, and the best MaSS for each batch size.

For the loss ½ (<w, x> - y)² with an exact fit, and H = E[x xᵀ]:

- L and μ are the largest eigenvalue of H and the smallest that is not zero;
- L1 is the smallest c with E[||x||² x xᵀ] ≼ c H;
- κ̃, the statistical condition number, is the smallest c with E[(xᵀ H⁻¹ x) x xᵀ] ≼ c H.

Batches of m examples, drawn independently, turn them into L_m = L1/m + (1 - 1/m) L, κ_m = L_m / μ and
κ̃_m = κ̃/m + (1 - 1/m). With several outputs, x is a matrix with one row per output: ||x||² becomes x xᵀ between the
two factors, and everything else stays.

Paper: Liu, Belkin, Accelerating SGD with momentum for over-parameterized learning, 2018 (ICLR 2020),
https://arxiv.org/abs/1810.13395
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from raysim.core.plugin import ConfigError, Plugin, Positive
from raysim.optimizers.mass import MaSS


@dataclass(frozen=True)
class Constants(Plugin):
    """What the data of a least-squares problem say about SGD and MaSS at every batch size.

    A batch size is a number of independent examples, 1 or more; ``math.inf`` stands for all data.

    Paper: Liu, Belkin, Accelerating SGD with momentum for over-parameterized learning, 2018 (ICLR 2020),
    https://arxiv.org/abs/1810.13395

    Args:
        L: largest eigenvalue of H, above 0.
        L1: smallest c with E[||x||² x xᵀ] ≼ c H, at least L.
        mu: smallest eigenvalue of H that is not zero, above 0 and at most L.
        kappa_tilde: statistical condition number κ̃, at least 1.
    """

    L: Positive
    L1: Positive
    mu: Positive
    kappa_tilde: Positive

    def check(self) -> None:
        """The order that these constants have for any data."""
        if not (self.mu <= self.L <= self.L1 and self.kappa_tilde >= 1):
            raise ConfigError(
                "Constants must have mu <= L <= L1 and kappa_tilde >= 1, as those of any data do, got "
                f"mu={self.mu}, L={self.L}, L1={self.L1}, kappa_tilde={self.kappa_tilde}. `estimate_constants` "
                "measures them."
            )

    def at(self, batch_size: float) -> tuple[float, float, float]:
        """L_m, κ_m and κ̃_m of batches of that size."""
        if not batch_size >= 1:
            raise ConfigError(
                f"The batch size must be at least 1, got {batch_size}. Write math.inf for full batches."
            )
        L_m = (
            self.L + (self.L1 - self.L) / batch_size
        )  # written so that rounding keeps the order of the constants
        return L_m, L_m / self.mu, 1 + (self.kappa_tilde - 1) / batch_size

    def mass(self, batch_size: float) -> MaSS:
        """MaSS with the optimal coefficients for batches of that size: lr = 1 / L_m, alpha = 1 / √(κ_m κ̃_m)."""
        L_m, kappa_m, kappa_tilde_m = self.at(batch_size)
        return MaSS(lr=1 / L_m, alpha=1 / math.sqrt(kappa_m * kappa_tilde_m), kappa=kappa_tilde_m)

    def sgd_rate(self, batch_size: float) -> float:
        """1 - 1/κ_m: the factor per step that bounds E||w - w*||² for SGD with step size 1 / L_m."""
        return 1 - 1 / self.at(batch_size)[1]

    def mass_rate(self, batch_size: float) -> float:
        """1 - 1/√(κ_m κ̃_m): the same, up to a constant factor, for ``mass(batch_size)``; for data never above SGD's."""
        _, kappa_m, kappa_tilde_m = self.at(batch_size)
        return 1 - 1 / math.sqrt(kappa_m * kappa_tilde_m)

    def critical_sizes(self) -> tuple[float, float]:
        """The batch sizes where MaSS stops to gain linearly and where it stops to gain: the two of L1 / L and κ̃."""
        low, high = sorted((self.L1 / self.L, self.kappa_tilde))
        return low, high


def estimate_constants(features: Tensor | np.ndarray, cutoff: float = 1e-6) -> Constants:
    """The constants of a sample of data, taken as the distribution itself.

    Everything happens in the whitened coordinates z = H^(-1/2) x, where L1 and κ̃ are the largest eigenvalues of
    E[||x||² z zᵀ] and E[||z||² z zᵀ]. H is decomposed as it is, or through the Gram matrix of the examples where that
    is smaller, so that time is of order n d min(n, d) and memory some copies of the data: no matrix per example.

    The constants of a few examples are not those of the distribution: take at least 10 d of them. With no more examples
    than features, all independent, κ̃ of the sample is just its size; and where real data has directions that few
    examples touch, those decide μ and κ̃, and a larger cutoff leaves them out.

    Args:
        features: inputs [n, d], or [n, outputs, d] as from ``tangent_features``.
        cutoff: eigenvalues of H up to this share of the largest count as zero.

    Returns:
        L, L1, mu and kappa_tilde, computed in float64.

    Raises:
        ConfigError: the features are not such an array, not finite or all zero.
    """
    x = torch.as_tensor(features).to(torch.float64)
    if x.dim() not in (2, 3) or x.numel() == 0 or not torch.isfinite(x).all() or not x.any():
        raise ConfigError(
            "estimate_constants needs finite features of shape [n, d] or [n, outputs, d], not all zero, got shape "
            f"{list(x.shape)}. Flatten inputs to one row per example, and leave out examples that are not numbers."
        )
    x_nod = x.unsqueeze(1) if x.dim() == 2 else x
    curvature_r, z_nor = _whitened(x_nod, cutoff)
    L = curvature_r[-1].item()
    return Constants(
        L=L,
        L1=max(_largest(x_nod, z_nor), L),  # which it is, but for rounding
        mu=curvature_r[0].item(),
        kappa_tilde=max(_largest(z_nor, z_nor), 1.0),
    )


def tangent_features(model: nn.Module, x: Tensor | np.ndarray, chunk: int | None = None) -> Tensor:
    """The gradient of every output by all trainable parameters, example by example, [n, outputs, P] in float64.

    They are the features of the network's linearisation at its parameters, f(x) + <∇f(x), w>, so that
    ``estimate_constants`` of them gives the constants of training that linear model. They take 8 n outputs P bytes.

    Args:
        model: the network; looked at in evaluation mode, and left as it is.
        x: inputs, [n, ...].
        chunk: examples under way at once, to save memory; None for all.
    """
    model = copy.deepcopy(model).eval()
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def outputs(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, parameters, (one.unsqueeze(0),)).flatten()

    rows = vmap(jacrev(outputs), in_dims=(None, 0), chunk_size=chunk)(named, torch.as_tensor(x))
    return torch.cat([part.flatten(2) for part in rows.values()], 2).to(torch.float64)


def _whitened(x_nod: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues of H that are not zero, rising, and the features in those directions at variance 1, [n, o, r]."""
    n, outputs, d = x_nod.shape
    rows = x_nod.flatten(0, 1)
    if d <= len(rows):
        value, vector = torch.linalg.eigh(rows.T @ rows / n)
        kept = value > cutoff * value[-1]
        z = rows @ (vector[:, kept] * value[kept].rsqrt())
    else:  # rows = √n U Λ^½ Vᵀ, of which the Gram matrix gives U and Λ
        value, vector = torch.linalg.eigh(rows @ rows.T / n)
        kept = value > cutoff * value[-1]
        z = vector[:, kept] * math.sqrt(n)
    return value[kept], z.view(n, outputs, -1)


def _largest(a_nod: Tensor, z_nor: Tensor) -> float:
    """Largest eigenvalue of E[zᵀ (a aᵀ) z]."""
    weighted = a_nod @ a_nod.mT @ z_nor
    return torch.linalg.eigvalsh(z_nor.flatten(0, 1).T @ weighted.flatten(0, 1) / len(z_nor))[-1].item()
