"""Small sweeps that tests share, and optimisers that misbehave."""

import os
import time
from dataclasses import dataclass

import torch

import raysim as rs
from raysim.optimizers import SGD

TEXT = """
data: {name: Digits, test: 100}
partition: {name: IID, clients: 3}
model: {name: Linear}
local: {optimizer: {name: SGD, lr: 0.1}, steps: 2, batch_size: 8}
rounds: 3
sweep:
  over: {local.optimizer.lr: {log_grid: [1e-2, 1, 3]}}
  seeds: 2
"""


def tiny(**changes):
    """Three clients, three rounds, two steps each."""
    fields = {
        "data": rs.data.Digits(test=100),
        "partition": rs.partitions.IID(clients=3),
        "model": rs.models.Linear(),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=8),
        "rounds": 3,
    }
    return rs.Simulation(**(fields | changes))


def training(optimizer, **changes):
    """The same with another optimiser."""
    return tiny(local=rs.Local(optimizer=optimizer, steps=2, batch_size=8), **changes)


@dataclass(frozen=True)
class Brittle(SGD):
    """SGD that breaks at one step size.

    Args:
        breaks: that step size.
    """

    breaks: float = 2.0

    def update(self, x_CP, grad_CP, state, lr):
        if (torch.as_tensor(lr) == self.breaks).any():
            raise RuntimeError(f"broken at {self.breaks}")
        super().update(x_CP, grad_CP, state, lr)

    def accumulates(self, x_CP, state, lr):
        """Not in one pass with the gradient: update is to be called."""


@dataclass(frozen=True)
class Counting(Brittle):
    """The same, and it leaves a line in a file for every run that starts.

    Args:
        file: to append to.
        pause: seconds that each start takes.
    """

    file: str = ""
    pause: float = 0.0

    def init(self, x_CP):
        if len(x_CP) == 1:  # once a run, to see what the state looks like
            time.sleep(self.pause)
            with open(self.file, "a") as file:
                file.write(f"{os.getpid()} {self.lr}\n")
        return super().init(x_CP)
