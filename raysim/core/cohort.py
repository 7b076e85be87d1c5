"""The clients' side of a rule: k clients at once, wherever they live.

A rule's client function gets a ``Cohort`` (one block) and the shared values the rule passed, and returns rows [k, P].
It must not write to shared tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.batches import Batch, whole
from raysim.core.cohorts import Plan
from raysim.core.local_training import Training
from raysim.core.plugin import at_round
from raysim.core.population import cut
from raysim.core.state import State
from raysim.core.terms import Pull, Term

if TYPE_CHECKING:
    from raysim.core.host import Host
    from raysim.core.interfaces import Optimizer
    from raysim.core.local import Local


@dataclass(frozen=True)
class Table:
    """Rows of which every client receives one: its group's leader, say.

    Args:
        rows_GP: the rows.
        group_N: which of them each client gets, by client id.
    """

    rows_GP: Tensor
    group_N: np.ndarray


class Cohort:
    """One block of this round's clients.

    Args:
        host: where they live.
        plan: the host's part of the round.
        begin: first of the block's clients in the plan.
        end: one past the last.
        measure: for a measurement, which leaves the clients' rows as they are.
    """

    def __init__(self, host: Host, plan: Plan, begin: int, end: int, measure: bool = False) -> None:
        self._host, self._plan, self._begin = host, plan, begin
        self.round, self.ids_C, self.weight_C = plan.round, plan.ids_C[begin:end], plan.weight_C[begin:end]
        self.state = State(host, self.ids_C, measure)
        self.reports: dict[str, Tensor] = {}
        self._deliveries: list[Callable[[tuple[Tensor, ...]], Any]] = []

    def __len__(self) -> int:
        return len(self.ids_C)

    @property
    def P(self) -> int:
        """Parameters of the model."""
        return self._host.task.P

    @property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the model's parameters, which lie in a row one after the other."""
        return self._host.task.shapes

    @property
    def total(self) -> int:
        """Number of clients in the experiment."""
        return self._host.examples.shards.number

    @property
    def seed(self) -> int:
        """Seed of the experiment."""
        return self._host.seed

    @property
    def device(self) -> torch.device:
        """Where rows live."""
        return self._host.device

    @property
    def local(self) -> Local:
        """What local training is."""
        return self._host.local

    @property
    def lr(self) -> float:
        """Step size of local training in this round."""
        return at_round(self._host.local.optimizer.lr, self.round)

    @property
    def _optimizer(self) -> Optimizer:
        return self._host.local.optimizer

    def _start(self, start: Tensor) -> Tensor | None:
        """What ``Trainer.change`` takes for this start; None if it does not."""
        return start if start.dim() == 1 else None

    @property
    def steps_C(self) -> np.ndarray:
        """Local steps that each client takes in a round."""
        return self._host.local.steps_of(self._host.examples.shards.sizes_N[self.ids_C])

    @property
    def relative_size_C(self) -> np.ndarray:
        """Number of examples of each client over the mean of all clients, in this cohort or not."""
        sizes_N = self._host.examples.shards.sizes_N
        return sizes_N[self.ids_C] / sizes_N.mean()

    def key(self, purpose: str) -> Tensor:
        """A random key for each client, [C], for one purpose of this round (see ``core/streams.py``)."""
        ids = torch.from_numpy(self.ids_C).to(self._host.device)
        return streams.key(self._host.seed, self.round, "client", ids, purpose)

    def train(
        self,
        start: Tensor,
        *,
        term: Term | None = None,
        pull: Pull | None = None,
        inplace: bool = False,
        lr: float | None = None,
        optimizer: Optimizer | None = None,
    ) -> Tensor:
        """Local training; returns the trained rows, free to change.

        Args:
            start: where clients start, [P] for all or rows [C, P].
            term: what is added to every client's loss (see ``core/terms.py``).
            pull: a move after every step.
            inplace: train in the rows ``start`` themselves. Otherwise the result lies in a buffer of the host that the
                next block's training reuses.
            lr: step size, where it is not ``self.lr``.
            optimizer: in place of the local one, with state of the same names.
        """
        x_CP = start if inplace else self._host.buffer(len(self))
        return self._train(start, term, pull, x_CP, change=False, lr=lr, optimizer=optimizer)

    def update(
        self,
        start: Tensor,
        *,
        term: Term | None = None,
        lr: float | None = None,
        optimizer: Optimizer | None = None,
    ) -> Tensor:
        """What local training from ``start`` changes, ``train(start) - start``, in fewer passes over memory."""
        x_CP = self._host.buffer(len(self))
        return self._train(start, term, None, x_CP, change=True, lr=lr, optimizer=optimizer)

    @torch.no_grad()
    def _train(
        self,
        start: Tensor,
        term: Term | None,
        pull: Pull | None,
        x_CP: Tensor,
        change: bool,
        lr: float | None = None,
        optimizer: Optimizer | None = None,
    ) -> Tensor:
        host = self._host
        fill = self._fill() if host.local.keep_state else {}
        call = Training(
            host=host,
            trainer=host.trainer if optimizer is None else host.trainer.uncompiled(),
            batches=lambda a, b: host.batches(self._plan, self._begin + a, self._begin + b),
            start=start,
            direct=self._start(start) if change and term is None else None,
            x_CP=x_CP,
            kept={name: self.state.rows(f"optimizer.{name}", f) for name, f in fill.items()},
            optimizer=optimizer or self._optimizer,
            lr=self.lr if lr is None else lr,
            term=term,
            pull=pull,
            change=change,
        )
        told = call.run(len(self))
        for name, value_C in told.items() if host.local.steps != 0 else ():
            self.report(name, value_C)
        return x_CP

    def _fill(self) -> dict[str, Tensor]:
        """The optimiser's state before the first step, one row."""
        probe = torch.zeros(1, self._host.task.P, device=self._host.device)
        return {name: rows[0] for name, rows in cut(self._optimizer, 0, 1).init(probe).items()}

    @torch.no_grad()
    def gradient(self, at: Tensor, step: int | None = None) -> Tensor:
        """Gradient [C, P] of each client's loss at ``at`` ([P] or rows).

        Args:
            at: where.
            step: on the batch of this local step of the round, with the inputs that the objective makes of it at
                ``at``; None for all of the client's examples as they are, without dropout and objective.
        """
        at_CP = self._stack(at)
        batch = self.data() if step is None else self._host.trainer.perturbed(at_CP, self._batch(step))
        loss_C, grad_CP = self._host.trainer.gradient(at_CP, batch)
        if step is not None:
            self.report("train_loss", loss_C)
        return grad_CP.clone()

    def _batch(self, step: int) -> Batch:
        batches = self._host.batches(self._plan, self._begin, self._begin + len(self))
        assert batches.active(step) == len(self), "every client must take this step"
        return batches.at(step)

    @torch.no_grad()
    def loss(self, at: Tensor) -> Tensor:
        """Full local loss [C] at ``at`` ([P] or rows), on the examples as they are, whatever the objective."""
        return self._host.trainer.value(self._stack(at), self.data())

    def data(self) -> Batch:
        """All examples of each client."""
        return whole(self._host.examples, self.ids_C)

    def of(self, table: Table) -> Tensor:
        """Each client's row of a table [k, P]."""
        return table.rows_GP[torch.from_numpy(table.group_N[self.ids_C]).to(table.rows_GP.device)]

    def unshared(self, rows_CP: Tensor, others: tuple[Any, ...] = ()) -> Tensor:
        """Rows free to change: a copy where they lie in memory of the clients' own rows or of these other values."""
        kept = [*self._host.rows.tensors.values(), *self.state.handed()]
        kept += [v.rows_GP if isinstance(v, Table) else v for v in others if isinstance(v, (Table, Tensor))]
        shared = rows_CP.untyped_storage().data_ptr() in {t.untyped_storage().data_ptr() for t in kept}
        return rows_CP.clone() if shared or rows_CP.stride(0) == 0 else rows_CP

    def on_delivery(self, callback: Callable[[tuple[Tensor, ...]], Any]) -> None:
        """What clients do once their rows are sent: called with the parts as the server receives them from each.

        For what both sides must agree on, such as control variates: on the way rows may be compressed or clipped.
        """
        self._deliveries.append(callback)

    def delivered(self, result: Any) -> None:
        """The client function's rows are on their way, as they are or as transforms left them."""
        for callback in self._deliveries:
            callback(result if isinstance(result, tuple) else (result,))

    def report(self, name: str, value_C: Tensor) -> None:
        """A number per client for this round's metrics, where its weighted mean appears."""
        self.reports[name] = value_C

    def _stack(self, at: Tensor) -> Tensor:
        return at.expand(len(self), -1).contiguous() if at.dim() == 1 else at
