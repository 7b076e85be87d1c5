"""The clients' side of a rule: k clients at once, wherever they live.

A rule's client function gets a ``Cohort`` (one block) and the shared values the rule passed, and returns rows [k, P].
It must not write to shared tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raysim.core.batches import Batch, whole
from raysim.core.cohorts import Plan
from raysim.core.plugin import at_round

if TYPE_CHECKING:
    from raysim.core.host import Host


class State:
    """Rows that belong to a block's clients and outlive the round. Rows handed out may be written in place."""

    def __init__(self, host: Host, ids_C: np.ndarray) -> None:
        self._host, self._ids_C = host, ids_C
        self._out: dict[str, tuple[Tensor, Tensor | None]] = {}

    def rows(self, name: str, fill_P: Tensor) -> Tensor:
        """Rows ``name`` [C, len(fill_P)]; a client that has none yet starts with ``fill_P``."""
        if name not in self._out:
            self._out[name] = self._host.rows.checkout(self._ids_C, name, fill_P)
        return self._out[name][0]

    def commit(self) -> None:
        """Write copies back to the host's store."""
        for name, (rows, slots) in self._out.items():
            if slots is not None:
                self._host.rows.write(name, rows, slots)


class Cohort:
    """One block of this round's clients.

    Args:
        host: where they live.
        plan: the host's part of the round.
        begin: first of the block's clients in the plan.
        end: one past the last.
    """

    def __init__(self, host: Host, plan: Plan, begin: int, end: int) -> None:
        self._host, self._plan, self._begin = host, plan, begin
        self.round, self.ids_C, self.weight_C = plan.round, plan.ids_C[begin:end], plan.weight_C[begin:end]
        self.state = State(host, self.ids_C)
        self.reports: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids_C)

    def train(self, start: Tensor) -> Tensor:
        """Local training from ``start`` ([P] for all, or rows [C, P]); returns the trained rows, free to change.

        The rows live in a buffer of the host that the next block's training reuses.
        """
        return self._train(start, change=False)

    def update(self, start: Tensor) -> Tensor:
        """What local training from ``start`` changes, ``train(start) - start``, in fewer passes over memory."""
        return self._train(start, change=True)

    @torch.no_grad()
    def _train(self, start: Tensor, change: bool) -> Tensor:
        host, local = self._host, self._host.local
        optimizer, lr = local.optimizer, at_round(local.optimizer.lr, self.round)
        x_CP = host.buffer(len(self))
        fill = self._fill() if local.keep_state else {}
        kept = {name: self.state.rows(f"optimizer.{name}", f) for name, f in fill.items()}
        shared = start if start.dim() == 1 else None

        def attempt(a: int, b: int) -> Tensor:
            x = x_CP[a:b]
            batches = host.batches(self._plan, self._begin + a, self._begin + b)
            if change and shared is not None:
                loss_C = host.trainer.change(x, shared, batches, optimizer, lr)
                if loss_C is not None:
                    return loss_C
            begin = start if shared is not None else start[a:b]
            x.copy_(begin)
            state = {n: r[a:b].clone() if copies else r[a:b] for n, r in kept.items()}
            rows = state if local.keep_state else optimizer.init(x)
            loss_C = host.trainer.train(x, rows, batches, optimizer, lr, shared)
            for name, value in state.items() if copies else ():
                kept[name][a:b].copy_(value)
            if change:
                x.sub_(begin)
            return loss_C

        # On a GPU memory may run out half way: rows that are kept must survive the retry.
        copies = host.device.type != "cpu"
        pieces = [host.shrinking(attempt, a, b) for a, b in host.stacks(len(self))]
        if local.steps != 0:
            self.report("train_loss", torch.cat([loss_C for piece in pieces for loss_C in piece]))
        return x_CP

    def _fill(self) -> dict[str, Tensor]:
        """The optimiser's state before the first step, one row."""
        probe = torch.zeros(1, self._host.task.P, device=self._host.device)
        return {name: rows[0] for name, rows in self._host.local.optimizer.init(probe).items()}

    @torch.no_grad()
    def gradient(self, at: Tensor) -> Tensor:
        """Full local gradient [C, P] at ``at`` ([P] or rows), without dropout."""
        return self._host.trainer.gradient(self._stack(at), self.data())[1].clone()

    @torch.no_grad()
    def loss(self, at: Tensor) -> Tensor:
        """Full local loss [C] at ``at`` ([P] or rows)."""
        return self._host.task.value(self._stack(at), self.data())

    def data(self) -> Batch:
        """All examples of each client."""
        return whole(self._host.examples, self.ids_C)

    def report(self, name: str, value_C: Tensor) -> None:
        """A number per client for this round's metrics, where its weighted mean appears."""
        self.reports[name] = value_C

    def _stack(self, at: Tensor) -> Tensor:
        return at.expand(len(self), -1).contiguous() if at.dim() == 1 else at


ClientFunction = Callable[..., Tensor]
