"""The compiled form: the local training of a block as one function, translated by ``torch.compile``.

Shapes are kept fixed so that one compilation serves a run: every batch is padded to the batch size, a client that has
finished its steps is held by a mask, and long trainings run as equal chunks of at most ``UNROLL`` steps. An objective
looks at the parameters of every step, so with one a chunk is a single step, and the objective itself is not compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from raysim.core.batches import Batch, Batches
from raysim.core.columns import Coefficient
from raysim.core.interfaces import Optimizer, Rows
from raysim.core.task import Task
from raysim.core.terms import Term

UNROLL = 8  # more steps in one function compile for minutes and run no faster


def train_compiled(
    task: Task,
    cache: dict[tuple, Callable],
    x_CP: Tensor,
    state: Rows,
    batches: Batches,
    optimizer: Optimizer,
    lr: Coefficient,
    term: Term | None = None,
    perturbed: Callable[[Tensor, Batch], Batch] | None = None,
) -> Tensor:
    """All local steps of a block; as ``Trainer.train``, but returns the summed losses."""
    steps, total_C = batches.steps, x_CP.new_zeros(len(x_CP))
    if steps == 0:
        return total_C
    chunk = 1 if perturbed else max(n for n in range(1, UNROLL + 1) if steps % n == 0)
    change = perturbed or (lambda x_CP, batch: batch)
    rate = _column(lr, x_CP)
    key = (optimizer, chunk)
    if key not in cache:
        cache[key] = torch.compile(functools.partial(_steps, task, optimizer), dynamic=False)
    rows = len(x_CP)
    added = None if term is None else (_column(term.scale, x_CP), _rows(term.linear, x_CP))
    for first in range(0, steps, chunk):
        kept = [batches.at(step, keep=True) for step in range(first, first + chunk)]
        stacked = [_padded(change(x_CP[: len(b.y_CB)], b), rows) for b in kept]
        active = None
        if batches.steps_C.min() < steps:
            active = torch.stack(
                [_active(batches, s, rows, x_CP.device) for s in range(first, first + chunk)]
            )
        x, new, loss_C = cache[key](x_CP, state, stacked, active, rate, added)
        x_CP.copy_(x)
        for name, value in new.items():
            state[name].copy_(value)
        total_C += loss_C
    return total_C


def _column(a: Coefficient, x_CP: Tensor) -> Tensor:
    return a if isinstance(a, Tensor) else torch.full((1, 1), a, device=x_CP.device)


def _rows(linear: Tensor | None, x_CP: Tensor) -> Tensor:
    return torch.zeros_like(x_CP) if linear is None else linear.expand_as(x_CP).contiguous()


def _active(batches: Batches, step: int, rows: int, device: torch.device) -> Tensor:
    return (torch.arange(rows, device=device) < batches.active(step)).unsqueeze(1)


def _padded(batch: Batch, rows: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The batch with idle clients put back in (they repeat the first one's examples; a mask drops their steps)."""
    fill = [*range(len(batch.y_CB)), *[0] * (rows - len(batch.y_CB))]
    if len(fill) == len(batch.y_CB):
        return batch.x_CB, batch.y_CB, batch.weight_CB, batch.key_C
    weight, key = batch.weight_CB, batch.key_C
    fixed = (None if weight is None else weight[fill], None if key is None else key[fill])
    return batch.x_CB[fill], batch.y_CB[fill], *fixed


def _steps(
    task: Task,
    optimizer: Optimizer,
    x_CP: Tensor,
    state: Rows,
    stacked: list,
    active: Tensor | None,
    lr: Tensor,
    added: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Rows, Tensor]:
    """A chunk of local steps as a pure function, for the compiler."""
    from raysim.core.training import BatchObjective

    total_C = torch.zeros_like(x_CP[:, 0])
    for k, parts in enumerate(stacked):
        x, rows = x_CP.clone(), {n: r.clone() for n, r in state.items()}
        term = None if added is None else Term(*added)
        objective = BatchObjective(task.stacked, task.stacked_value, Batch(*parts), term)
        loss_C = optimizer.step(objective, x, rows, lr)
        loss_C = loss_C if objective.loss_C is None else objective.loss_C
        if active is not None:
            x = torch.where(active[k], x, x_CP)
            rows = {n: torch.where(active[k], r, state[n]) for n, r in rows.items()}
            loss_C = torch.where(active[k, :, 0], loss_C, 0)
        x_CP, state, total_C = x, rows, total_C + loss_C
    return x_CP, state, total_C
