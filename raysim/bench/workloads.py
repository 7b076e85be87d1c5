"""The workloads: one local epoch of SGD in stored order, averaged by examples, on data of MNIST's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from raysim.compressors import Feedback, TopK
from raysim.core import streams
from raysim.core.execution import Execution
from raysim.core.interfaces import Optimizer, Rule
from raysim.core.local import Local
from raysim.core.placement import Placement
from raysim.data import Arrays
from raysim.data.partitions import Explicit
from raysim.models import Custom
from raysim.optimizers import SGD, Armijo
from raysim.rules import Averaging, Gossip, Leader
from raysim.simulation import Simulation
from raysim.topologies import Ring


@dataclass(frozen=True)
class Workload:
    """What is simulated.

    Args:
        network: makes the network.
        shape: of one input.
        clients: registered clients.
        per_client: examples of each.
        batch: batch size.
        cohort: clients per round.
        rounds: measured rounds.
        momentum: of every client, kept from round to round if above 0.
        steps: local steps, None for one epoch.
        rule: makes the aggregation rule.
        uplink: what becomes of rows that leave a client.
        optimizer: makes the clients' optimiser; None for SGD(0.05, momentum).
    """

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    clients: int
    per_client: int
    batch: int
    cohort: int
    rounds: int
    momentum: float = 0.0
    steps: int | None = None
    rule: Callable[[], Rule] = Averaging
    uplink: tuple[Any, ...] = ()
    optimizer: Callable[[], Optimizer] | None = None


def mlp(hidden: int) -> Callable[[], nn.Module]:
    """784 - hidden - 10."""
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def cnn() -> nn.Module:
    """conv5x5-16, pool, conv5x5-32, pool, fc 64, fc 10."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def tiny() -> nn.Module:
    """2,010 parameters, 8 KB: small enough that only overhead remains."""
    return nn.Sequential(nn.Flatten(), nn.Linear(200, 10))


WORKLOADS = {
    "mlp": Workload(mlp(64), (784,), 1_000, 60, 20, 100, 30),
    "cnn": Workload(cnn, (1, 28, 28), 1_000, 60, 20, 100, 10),
    "many": Workload(mlp(32), (784,), 10_000, 6, 6, 1_000, 20),
    "full": Workload(mlp(64), (784,), 1_000, 60, 20, 1_000, 10, momentum=0.9),
    "gossip": Workload(mlp(64), (784,), 1_000, 60, 20, 1_000, 10, 0.9, rule=lambda: Gossip(topology=Ring())),
    "leader": Workload(mlp(64), (784,), 1_000, 60, 20, 1_000, 10, 0.9, rule=lambda: Leader(groups=10)),
    "topk": Workload(mlp(64), (784,), 1_000, 60, 20, 1_000, 10, 0.9, uplink=(Feedback(TopK(fraction=0.01)),)),
    "plain": Workload(mlp(64), (784,), 1_000, 60, 20, 1_000, 10),
    "search": Workload(mlp(64), (784,), 1_000, 60, 20, 1_000, 10, optimizer=lambda: Armijo(lr=1.0)),
    "ring": Workload(mlp(32), (784,), 10_000, 6, 6, 10_000, 5, rule=lambda: Gossip(topology=Ring())),
    "null": Workload(tiny, (200,), 1_000, 2, 2, 1_000, 50, steps=0),
    "registered": Workload(tiny, (200,), 100_000, 2, 2, 1_000, 20),
}


def arrays(w: Workload) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels: uniform with unit variance, ten classes."""
    n, width = w.clients * w.per_client, int(np.prod(w.shape))
    x = torch.empty(n, width)
    for a in range(0, n, 4096):  # in pieces, for the hash works in 64-bit integers
        rows = torch.arange(a, min(n, a + 4096))
        x[rows] = (streams.uniform(streams.key(0, "bench", rows), width) - 0.5) * 12**0.5
    return x.numpy().reshape(n, *w.shape), streams.integers(streams.key(0, "labels"), 10, n).numpy()


def simulation(w: Workload, actors: int, form: str, block: int | None, warm: int) -> Simulation:
    """The workload as an experiment with ``warm`` rounds more than it measures."""
    x, y = arrays(w)
    shares = [np.arange(c * w.per_client, (c + 1) * w.per_client) for c in range(w.clients)]
    optimizer = w.optimizer() if w.optimizer else SGD(lr=0.05, momentum=w.momentum)
    steps: dict[str, Any] = {"epochs": 1} if w.steps is None else {"steps": w.steps}
    return Simulation(
        data=Arrays(x_train=x, y_train=y, x_test=x[:1000], y_test=y[:1000]),
        partition=Explicit(indices=shares),
        model=Custom(w.network),
        local=Local(optimizer, batch_size=w.batch, shuffle=False, keep_state=w.momentum > 0, **steps),
        rule=w.rule(),
        uplink=w.uplink,
        cohort=w.cohort,
        rounds=w.rounds + warm,
        evaluate_every=w.rounds + warm,
        execution=Execution(form=form, block=block),  # type: ignore[arg-type]
        placement=Placement(actors=actors),
    )
