"""What theory says of an experiment's batch sizes: the constants of least squares, or of a network's linearisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from raysim.core.interfaces import Dataset, Optimizer
from raysim.core.losses import SquaredError
from raysim.optimizers.constants import Constants, estimate_constants, tangent_features
from raysim.optimizers.mass import MaSS
from raysim.optimizers.sgd import SGD
from raysim.rules import Averaging
from raysim.simulation import Simulation

EXAMPLES = 20_000  # of least squares
SAMPLE = 256  # of a network's training set
MEMORY = 1 << 30  # bytes of tangent features at most
CUTOFF = 1e-3  # of a network's curvature: below, the directions of a sample are its own
EXACT = 1e-6  # share of the targets' squares that a linear model with an exact fit leaves: rounding


@dataclass(frozen=True)
class Theory:
    """Constants of the training data, and what one axis of an experiment makes of them.

    Args:
        constants: L, L1, μ and κ̃.
        exact: whether the experiment is least squares, of which the theory speaks; else the constants are those of the
            network's linearisation at its initial parameters, on a sample, with squared loss.
        batch: examples in a step for each unit of the axis.
    """

    constants: Constants
    exact: bool
    batch: float = 1.0

    def critical(self, optimizer: Optimizer) -> tuple[float, ...]:
        """m1* and m2* of MaSS, m* = L1/L of everything else, in units of the axis."""
        c = self.constants
        sizes = c.critical_sizes() if isinstance(optimizer, MaSS) else (c.L1 / c.L,)
        return tuple(max(1.0, 1 + (size - 1) / self.batch) for size in sizes)

    def mass(self, value: float, like: MaSS) -> MaSS:
        """MaSS with the best coefficients for that value of the axis, and ``like``'s weight decay."""
        best = self.constants.mass(value * self.batch)
        return MaSS(lr=best.lr, alpha=best.alpha, kappa=best.kappa, weight_decay=like.weight_decay)

    def lr(self, value: float) -> float:
        """1 / L_m, the step size of the bounds for SGD and MaSS."""
        return 1 / self.constants.at(value * self.batch)[0]


def theory(simulation: Simulation, along: str) -> Theory | None:
    """The constants of an experiment's training inputs; None where there is no such theory.

    Args:
        simulation: the experiment.
        along: "batch_size", or "clients" where each takes a single step a round and as large a share of them takes
            part; with local steps, or along them, a round is not a step on a batch.
    """
    data, shards = simulation.load()
    batch = _batch(simulation, along, shards.number)
    if batch is None or not _plain(simulation):
        return None
    found = _constants(simulation.initial_model(data), data)
    return None if found is None else Theory(found[0], found[1], batch)


def _plain(simulation: Simulation) -> bool:
    """Whether it trains as the theory says: SGD or MaSS as they are, on the loss, with nothing done to updates."""
    optimizer, rule = simulation.local.optimizer, simulation.rule
    plain = isinstance(optimizer, MaSS) or (isinstance(optimizer, SGD) and optimizer.momentum == 0)
    decay = getattr(optimizer, "weight_decay", 0)
    averages = isinstance(rule, Averaging) and rule.server is None
    changed = simulation.uplink or simulation.downlink or simulation.local.objective
    return plain and decay == 0 and averages and not changed


def _batch(simulation: Simulation, along: str, clients: int) -> float | None:
    """Examples in a step for each unit of the axis; None where a round is no step on a batch."""
    local = simulation.local
    if along == "batch_size":
        cohort = simulation.cohort_size(clients)
        return float(cohort) if local.steps == 1 or cohort == 1 else None
    if (
        along == "clients"
        and local.steps == 1
        and local.batch_size
        and not isinstance(simulation.cohort, int)
    ):
        return local.batch_size * (simulation.cohort or 1.0)
    return None


def _constants(module: nn.Module, data: Dataset) -> tuple[Constants, bool] | None:
    """Of the inputs themselves for a linear model with squared loss, else of the tangent features of a sample."""
    x = data.x_train
    if not np.issubdtype(x.dtype, np.floating):
        return None
    layers = [layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear) and isinstance(data.loss, SquaredError):
        rows = x[:EXAMPLES].reshape(min(len(x), EXAMPLES), -1)
        if layers[0].bias is not None:
            rows = np.hstack([rows, np.ones_like(rows[:, :1])])
        exact = _fits(rows, data.y_train[: len(rows)].reshape(len(rows), -1))
        return (estimate_constants(rows), True) if exact else None
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
    sample = min(SAMPLE, len(x), MEMORY // (8 * data.outputs * parameters))
    if sample < 16:
        return None
    every = len(x) // sample
    return estimate_constants(tangent_features(module, x[::every][:sample], chunk=16), CUTOFF), False


def _fits(rows: np.ndarray, y: np.ndarray) -> bool:
    """Whether a linear model meets all targets, as it must for SGD to get to the end with a fixed step size."""
    rows, y = rows.astype(np.float64), y.astype(np.float64)
    residual = y - rows @ np.linalg.lstsq(rows, y)[0]
    return bool(np.square(residual).sum() <= EXACT * np.square(y).sum())
