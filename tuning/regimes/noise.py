"""The gradient noise scale: how many examples it takes until a batch's gradient is more signal than noise.

With G the gradient of the loss at a point and Σ the covariance of one example's gradient, a batch of B independent
examples has E||G_B||² = ||G||² + tr(Σ)/B. The (simple) noise scale is tr(Σ) / ||G||²: below it, doubling the batch
about halves the variance that limits a step; far above it, it only makes the step cost more.

Two batch sizes b < B give unbiased estimates of numerator and denominator,

    tr(Σ) = (||G_b||² - ||G_B||²) / (1/b - 1/B),    ||G||² = (B ||G_B||² - b ||G_b||²) / (B - b),

whose quotient is the estimate of the scale (itself biased, as quotients are). The same holds where the batch b is drawn
without replacement from the B examples.

Paper: McCandlish, Kaplan, Amodei, An Empirical Model of Large-Batch Training, 2018, https://arxiv.org/abs/1812.06162
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Probe, Rule
from raysim.core.plugin import ConfigError, Count
from raysim.core.server import Server
from raysim.simulation import Simulation

NO_BATCHES = (
    "The noise scale needs gradients of two batch sizes, but no client has more examples than a batch. Use a smaller "
    "batch_size."
)
TRACE, SQUARE = "gradient_noise", "gradient_square"


def split(small: float, b: float, large: float, B: float) -> tuple[float, float]:
    """tr(Σ) and ||G||² from squared norms of gradients.

    Args:
        small: mean of ||G_b||² over batches of ``b`` examples.
        b: examples in a small batch.
        large: ||G_B||² of a batch of ``B`` examples.
        B: examples in the large batch, more than ``b``.

    Raises:
        ConfigError: the batches are not of two sizes.
    """
    if not 0 < b < B:
        raise ConfigError(
            f"The noise scale needs gradients of two batch sizes, got {b:g} and {B:g} examples."
        )
    return (small - large) / (1 / b - 1 / B), (B * large - b * small) / (B - b)


@dataclass(frozen=True)
class NoiseScale(Probe):
    """tr(Σ) and ||G||² at the server's model, from each client's local batches and all of its examples.

    Σ is that of every client with more examples than a batch, from up to ``draws`` batches of this round's local
    training, all taken at the same point, against its full gradient; tr(Σ) is the mean over these clients. G is the
    gradient of the clients' mean loss, its square freed of noise as if all examples came from one distribution.

    Metrics: ``gradient_noise`` = tr(Σ) and ``gradient_square`` = ||G||². Either is unbiased and may be below zero.

    Paper: McCandlish, Kaplan, Amodei, An Empirical Model of Large-Batch Training, 2018,
    https://arxiv.org/abs/1812.06162

    Args:
        draws: batches at most.
    """

    draws: Count = 32

    def measure(self, clients: Clients, rule: Rule, server: Server) -> dict[str, float]:
        """One look at the model before the round."""
        sizes_N = np.zeros(clients.total)
        sizes_N[clients.ids] = clients.weights
        shared = server.x_P, self.draws, sizes_N
        grad_P, trace, share = clients.mean(_looked, *shared, uniform=True, measure=True)
        if float(share) == 0:
            raise ConfigError(NO_BATCHES)
        trace = float(trace) / float(share)
        noise = trace * float(np.mean(1 / clients.weights)) / clients.number  # of the mean gradient
        return {TRACE: trace, SQUARE: float(grad_P.double().square().sum()) - noise}


def _looked(cohort: Cohort, x_P: Tensor, draws: int, sizes_N: np.ndarray) -> tuple[Tensor, ...]:
    """Each client's full gradient, and its estimate of tr(Σ) where it has more examples than a batch."""
    full_CP = cohort.gradient(x_P)
    sizes_C, size = sizes_N[cohort.ids_C], cohort.local.batch_size or math.inf
    some_C = sizes_C > size
    whole = int(sizes_C.min() // size)  # batches before the one at an epoch's end, which may be smaller
    steps = range(max(1, min(draws, int(cohort.steps_C.min()), whole)))
    small_C = torch.stack([cohort.gradient(x_P, step).double().square().sum(1) for step in steps]).mean(0)
    large_C = full_CP.double().square().sum(1)
    trace_C = torch.zeros(len(cohort), dtype=torch.float64)
    for c in np.flatnonzero(some_C):
        trace_C[c] = split(float(small_C[c]), size, float(large_C[c]), float(sizes_C[c]))[0]
    known_C = torch.from_numpy(some_C)
    return full_CP, trace_C.to(full_CP).unsqueeze(1), known_C.to(full_CP).unsqueeze(1)


def along(simulation: Simulation, points: int = 8, draws: int = 64) -> np.ndarray:
    """Noise scales along a run: it is run once more, the same to the last bit, and looked at.

    A round has as many batches as local steps. Where those are few, a point is several looks one after the other, of
    which tr(Σ) and ||G||² are added up before they are divided.

    Args:
        simulation: the experiment, as long as the part of the run to look at; with mini-batches.
        points: parts of the run, evenly spread.
        draws: batches at each, where the run has them.

    Returns:
        tr(Σ) / ||G||² at each point where both estimates are above zero.

    Raises:
        ConfigError: why the noise scale cannot be measured.
    """
    _, shards = simulation.load()
    if int(shards.sizes_N.max()) <= (simulation.local.batch_size or math.inf):
        raise ConfigError(NO_BATCHES)
    looks = math.ceil(draws / max(1, simulation.local.steps or draws))
    every = max(1, simulation.rounds // (points * looks))
    seen = simulation.replaced(probes=(NoiseScale(draws),), evaluate_every=every).run(None).metrics
    rows = seen[[TRACE, SQUARE]].dropna().to_numpy(np.float64)
    sums = np.array([part.sum(0) for part in np.array_split(rows, min(points, len(rows)))])
    there = (sums > 0).all(1)
    if 2 * there.sum() < len(sums):
        raise ConfigError(
            "The gradient is too small beside its noise for so few batches. Use more local steps."
        )
    return sums[there, 0] / sums[there, 1]
