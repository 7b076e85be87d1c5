"""Runs that never ran: metrics of known shape."""

import math

import numpy as np
import pandas as pd

from tuning.regimes import ledger

EXPERIMENT = """
name: law
data: {name: GaussianRegression, eigenvalues: [1.0, 0.5], examples: 200}
partition: {name: IID, clients: 1}
model: {name: Linear, bias: false}
local: {optimizer: {name: SGD, lr: 0.1}, steps: 1, batch_size: 1}
regimes: {values: [1, 2, 4, 8, 16, 32, 64], target: 0.01, seeds: 2, max_rounds: 5000, noise: false}
"""


def curve(needed, rounds, target=0.01, start=1.0):
    """Metrics of a run whose loss falls by the same factor in each round and is at the target after ``needed``."""
    done = np.arange(rounds + 1)
    loss = np.full(rounds + 1, start) if math.isinf(needed) else start * (target / start) ** (done / needed)
    if math.isnan(needed):
        loss, done = np.array([start, math.nan]), np.arange(2)
    return pd.DataFrame({"round": done, "loss": loss, "client_updates": done, "bits_up": 64.0 * done})


def parabola(lr, best, least):
    """Rounds that grow with the square of log lr / best; NaN, diverged, beyond four times the best."""
    return math.nan if lr > 4 * best else least * (1 + math.log(lr / best) ** 2)


def laws(monkeypatch, needed):
    """Replace runs by curves that reach the target after ``needed(simulation)`` rounds; what was asked for."""
    asked = []

    def run_all(simulations, tell=None):
        asked.append([s.local.optimizer.lr for s in simulations])
        return [curve(needed(s), s.rounds) for s in simulations]

    monkeypatch.setattr(ledger, "run_all", run_all)
    return asked
