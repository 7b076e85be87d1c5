"""The stack of a population: T trials' clients as rows, client after client, trial after trial.

A row is one client of one trial. Data, batches and random keys are the client's, the same in every trial, as in
separate runs; rows kept from round to round belong to client and trial, under the number client * T + trial. Rows stand
client by client, so that those of clients with fewer steps still end the stack, and a block is a rectangle: some
clients times some trials.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysim.core.cohort import Cohort
from raysim.core.cohorts import Plan
from raysim.core.host import Host, Partial
from raysim.core.interfaces import Optimizer
from raysim.core.local import Local
from raysim.core.population import varied
from raysim.core.state import State
from tuning.population.values import NotStackable, PerTrial, Varied, rows_of


@dataclass(frozen=True)
class Stacking(Plan):
    """The cohort of a stack: every client once for each trial, cut into blocks.

    Args:
        base: one trial's cohort.
        trials: numbers of the trials, [T].
        cuts: where a block's trials begin and end; where they are all in one block, 0 and T.
        every: rows kept from round to round are numbered client * every + trial.
    """

    base: Plan = None  # type: ignore[assignment]
    trials: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    cuts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    every: int = 1

    @property
    def pieces(self) -> int:
        """Blocks that share some clients and have different trials."""
        return len(self.cuts) - 1

    @property
    def kept_ids(self) -> np.ndarray:
        """Under which numbers the rows' own rows are kept."""
        return (self.base.ids_C[:, None] * self.every + self.trials).reshape(-1)

    @classmethod
    def of(cls, base: Plan, trials: np.ndarray, rows: int, every: int) -> Stacking:
        """The stack of these trials in blocks of about ``rows`` rows."""
        T, C = len(trials), len(base.ids_C)
        pieces = -(-T // rows)
        cuts = np.arange(pieces + 1) * T // pieces
        if pieces == 1:
            blocks = -(-C // max(1, rows // T))
            bounds = np.arange(blocks + 1) * C // blocks * T
        else:
            bounds = np.append((np.arange(C)[:, None] * T + cuts[:-1]).reshape(-1), C * T)
        ids, weight = np.repeat(base.ids_C, T), np.repeat(base.weight_C, T)
        return cls(base.round, ids, weight, bounds, 0, len(bounds) - 1, base.lr, base, trials, cuts, every)

    def rectangle(self, block: int) -> tuple[int, int, int, int]:
        """First and last client, first and last trial of a block (last: one beyond)."""
        T, piece = len(self.trials), block % self.pieces
        begin, end = int(self.bounds[block]), int(self.bounds[block + 1])
        first, last = (0, T) if self.pieces == 1 else (int(self.cuts[piece]), int(self.cuts[piece + 1]))
        return begin // T, -(-end // T), first, last


class TrialRows(State):
    """Rows kept for the clients of every trial by itself."""

    def rows(self, name: str, fill_P: Tensor) -> Tensor:
        """As for one experiment; what every trial begins with must be the same."""
        if fill_P.dim() == 2:
            if name not in self._out and name not in self._host.rows.tensors and not _alike(fill_P):
                raise NotStackable(f"the rows {name!r} that clients keep begin differently in every trial")
            fill_P = fill_P[0]
        return super().rows(name, fill_P)


def _alike(rows_CP: Tensor) -> bool:
    return bool((rows_CP == rows_CP[:1]).all())


class StackedCohort(Cohort):
    """One block of a stack: k rows that a client function takes for k clients.

    Args:
        host: where they live.
        plan: the stack.
        block: number of the block.
        measure: for a measurement.
        numbers: the local optimiser and its step size in this round, merged.
    """

    def __init__(
        self, host: Host, plan: Stacking, block: int, measure: bool, numbers: tuple[Any, Any]
    ) -> None:
        begin, end = int(plan.bounds[block]), int(plan.bounds[block + 1])
        super().__init__(host, plan, begin, end, measure)
        self.state = TrialRows(host, plan.kept_ids[begin:end], measure)
        a, b, first, last = plan.rectangle(block)
        self.clients, self.trials = b - a, (first, last)
        optimizer, lr = numbers
        self._made: dict[int, Tensor] = {}
        self._rows: list[Tensor] = []
        self._others = ", ".join(optimizer.fields) if isinstance(optimizer, Varied) else ""
        self._stepping, self._lr = self.value(optimizer), self.value(lr)
        if isinstance(self._lr, Tensor):  # for optimisers and rules that look at theirs
            self._stepping = varied(self._stepping, lr=self._lr)

    def value(self, value: Any) -> Any:
        """A merged value as the block's rows need it."""
        rows = rows_of(value, *self.trials, self.clients)
        if isinstance(value, PerTrial):
            self._made[id(rows)] = value.value_T[slice(*self.trials)]
            self._rows.append(rows)  # while they live, so does their identity
        return rows

    @property
    def lr(self) -> Any:
        """Step size of local training in this round: a number, or a column."""
        return self._lr

    @property
    def local(self) -> Local:
        """What local training is.

        Raises:
            NotStackable: trials' optimisers differ, which whoever looks at them would have to know.
        """
        if self._others:
            raise NotStackable(f"the rule looks at the local optimiser, whose {self._others} differs")
        return varied(self._host.local, optimizer=self._stepping)

    @property
    def _optimizer(self) -> Optimizer:
        return self._stepping

    def _start(self, start: Tensor) -> Tensor | None:
        """The trials' own vectors, where rows are made of these."""
        return self._made.get(id(start), start if start.dim() == 1 else None)


class Sums:
    """What the blocks of a stack return, trial by trial.

    Args:
        plan: the stack.
        reduce: "mean" sums the rows by weight, "sum" plainly, "rows" keeps them, "none" drops them.
        device: where the rows are.
    """

    def __init__(self, plan: Stacking, reduce: str, device: torch.device) -> None:
        self.plan, self.reduce, self.device = plan, reduce, device
        self.sums: list[list[Tensor]] = [[] for _ in range(plan.pieces)]
        self.rows: list[tuple[Tensor, ...]] = []
        self.reports: dict[str, list[Tensor]] = {}
        self.shapes: list[torch.Size] = []

    def add(self, block: int, result: Any, reports: dict[str, Tensor]) -> None:
        """A block's rows and reports."""
        a, b, first, last = self.plan.rectangle(block)
        rows = (b - a) * (last - first)
        for name, value_C in reports.items():
            if value_C.shape != (rows,):
                raise NotStackable(f"metric {name!r} has shape {tuple(value_C.shape)} for {rows} rows")
            self.reports.setdefault(name, []).append(value_C)
        if self.reduce == "none":
            return
        parts = result if isinstance(result, tuple) else (result,)
        if any(p.dim() != 2 or len(p) != rows for p in parts):
            raise NotStackable(f"clients return {[tuple(p.shape) for p in parts]} for {rows} rows")
        self.shapes = [p.shape[1:] for p in parts]
        if self.reduce == "rows":
            self.rows.append(tuple(p.clone() for p in parts))
            return
        a, b, first, last = self.plan.rectangle(block)
        sums = self.sums[block % self.plan.pieces]
        if not sums:
            sums += [p.new_zeros(last - first, *p.shape[1:]) for p in parts]
        weight = torch.from_numpy(self.plan.base.weight_C[a:b]).to(self.device, torch.float32)
        if self.reduce == "sum":
            weight = torch.ones_like(weight)
        for total, part in zip(sums, parts, strict=True):
            total.view(-1).addmv_(part.reshape(b - a, -1).t(), weight)

    def partials(self, keeps: bool) -> list[Partial]:
        """Every trial's part; ``keeps``: whether clients keep rows from round to round."""
        T, width = len(self.plan.trials), sum(s.numel() for s in self.shapes)
        told = {name: torch.cat(v).cpu().numpy().reshape(-1, T) for name, v in self.reports.items()}
        partials = [
            Partial(reports={n: v[:, t].copy() for n, v in told.items()}, width=width, keeps=keeps)
            for t in range(T)
        ]
        if self.reduce == "rows":
            columns = [torch.cat(parts) for parts in zip(*self.rows, strict=True)]
            for t, partial in enumerate(partials):
                partial.rows = [tuple(rows[t::T] for rows in columns)]
        elif self.reduce != "none":
            sums = [torch.cat(pieces) for pieces in zip(*self.sums, strict=True)]
            for t, partial in enumerate(partials):
                partial.nodes = {(0, 0): tuple(part[t] for part in sums)}
        return partials
