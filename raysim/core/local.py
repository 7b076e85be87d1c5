"""What a client does in a round: which optimiser, for how long, on which batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.core.interfaces import Objective, Optimizer
from raysim.core.plugin import ConfigError, Count, CountOrZero, Plugin


@dataclass(frozen=True)
class Local(Plugin):
    """Local training: ``steps`` mini-batch steps, or ``epochs`` passes over the client's own data.

    An epoch visits every example once, in batches of ``batch_size`` (the last one may be smaller), in an order drawn
    anew for each epoch. Steps walk through such epochs. ``batch_size=None`` makes every step a full-batch step, in
    stored order: no randomness at all.

    Paper: none; the local loop of every method.

    Args:
        optimizer: the clients' optimiser; its step size may be a schedule over rounds.
        steps: local steps per round (0: clients send back what they got, for measuring overhead).
        epochs: local passes per round, in place of ``steps``.
        batch_size: examples per step, or None for the client's whole data.
        shuffle: draw the order of each epoch; False reads in stored order.
        keep_state: clients keep their optimiser state (momentum) from round to round.
        objective: what they minimise on each batch; None for the plain loss.
    """

    optimizer: Optimizer
    steps: CountOrZero | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    shuffle: bool = True
    keep_state: bool = False
    objective: Objective | None = None

    def check(self) -> None:
        """Exactly one of steps and epochs."""
        if (self.steps is None) == (self.epochs is None):
            got = "neither" if self.steps is None else f"steps={self.steps} and epochs={self.epochs}"
            raise ConfigError(f"Local needs either steps or epochs, got {got}. Keep the one you mean.")

    def steps_of(self, sizes_C: np.ndarray) -> np.ndarray:
        """Local steps of clients with that many examples."""
        if self.steps is not None:
            return np.full(len(sizes_C), self.steps, np.int64)
        assert self.epochs is not None
        per_epoch = 1 if self.batch_size is None else -(-sizes_C // self.batch_size)
        return np.broadcast_to(self.epochs * per_epoch, sizes_C.shape).astype(np.int64)
