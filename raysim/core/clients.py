"""Clients: a rule's handle on this round's cohort, and the ledger of what it sends.

The exchange calls are the only places where data passes between clients and server, so they do the accounting: each
client uploads its row, 32 bits a number, and downloads every shared tensor it has not had this round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from raysim.core.cohort import Cohort, Table
from raysim.core.cohorts import Plan
from raysim.core.host import Partial
from raysim.core.mixing import Mixing
from raysim.core.plugin import ConfigError
from raysim.core.reduction import Tree

ROWS_LIMIT = 4 << 30  # bytes of client rows that `rows` will gather in one place


class Fleet(Protocol):
    """Hosts, in this process or in Ray actors."""

    def exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
    ) -> list[Partial]:
        """Run a client function on every host's part of the plan; parts in the order of the plan."""
        ...

    def mix(self, name: str, mixing: Mixing) -> int:
        """Replace clients' rows by weighted sums of their neighbours'; returns their width."""
        ...

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """Rows of some clients, in that order."""
        ...

    def evaluate(self, x_P: Tensor) -> tuple[float, float | None]:
        """Mean loss and accuracy on the test set."""
        ...


class Clients:
    """This round's cohort.

    Args:
        fleet: the hosts.
        plan: cohort, blocks and weights (number of examples).
        P: parameters of the model, to refuse gathers that cannot fit before they start.
        total: clients of the experiment; None where the cohort is all of them.
    """

    def __init__(self, fleet: Fleet, plan: Plan, P: int, total: int | None = None) -> None:
        self._fleet, self._plan, self._P = fleet, plan, P
        self._total = len(plan.ids_C) if total is None else total
        self._sent: list[Tensor] = []
        self.reports: dict[str, np.ndarray] = {}
        self.notes: dict[str, float] = {}
        self.bits_up = 0
        self.bits_down = 0

    @property
    def round(self) -> int:
        """This round, from 0."""
        return self._plan.round

    @property
    def ids(self) -> np.ndarray:
        """The cohort, in its fixed order."""
        return self._plan.ids_C

    @property
    def weights(self) -> np.ndarray:
        """Number of examples of each client of the cohort."""
        return self._plan.weight_C

    @property
    def number(self) -> int:
        """Number of clients in the cohort."""
        return len(self._plan.ids_C)

    @property
    def lr(self) -> float:
        """Step size of the clients' local training in this round."""
        return self._plan.lr

    @property
    def total(self) -> int:
        """Number of clients in the experiment, in this cohort or not."""
        return self._total

    def mean(
        self, function: Callable[..., Any], *shared: Any, uniform: bool = False, measure: bool = False
    ) -> Any:
        """Mean over the cohort of the rows that ``function(cohort, *shared)`` returns.

        Args:
            function: a client function; may return several tensors of rows as a tuple.
            shared: values for all clients; tensors are counted as downloads, of a ``Table`` one row.
            uniform: weigh all clients alike rather than by their number of examples.
            measure: look, but send nothing and change nothing: no bits, and rows that clients keep stay as they are.

        Returns:
            The mean row [P], or a tuple of means.
        """
        weight_C = np.ones(self.number) if uniform else self._plan.weight_C
        plan = replace(self._plan, weight_C=weight_C / weight_C.sum())
        return self._reduced(function, shared, plan, "mean", measure)

    def sum(self, function: Callable[..., Any], *shared: Any, measure: bool = False) -> Any:
        """Plain sum over the cohort of the rows that ``function`` returns."""
        return self._reduced(function, shared, self._plan, "sum", measure)

    def rows(
        self, function: Callable[..., Any], *shared: Any, width: int | None = None, measure: bool = False
    ) -> Any:
        """All rows [C, width] in the order of ``ids``, for rules that cannot do with a sum.

        Args:
            function: a client function.
            shared: values for all clients.
            width: numbers in a row, where it is not P.
            measure: look, but send nothing and change nothing.

        Raises:
            ConfigError: they would take more than 4 GB in one place.
        """
        need = self.number * (width or self._P) * 4
        if need > ROWS_LIMIT:
            raise ConfigError(
                f"Gathering the rows of {self.number} clients needs {need / 1e9:.1f} GB in one place, above the limit "
                f"of {ROWS_LIMIT / 1e9:.1f} GB. Use a smaller cohort or model, or a rule that works on sums."
            )
        partials = self._exchange(function, shared, self._plan, "rows", measure)
        columns = zip(*[block for p in partials for block in p.rows], strict=True)
        return _unwrap(tuple(torch.cat([torch.as_tensor(r).cpu() for r in column]) for column in columns))

    def run(self, function: Callable[..., Any], *shared: Any, look: bool = False) -> Any:
        """Run ``function`` on the clients and send nothing back: they change their own rows.

        Args:
            function: a client function.
            shared: values for all clients.
            look: return the uniform mean of the rows that it returns, to look at while they are in the cache: nobody
                sends anything for it.
        """
        if not look:
            self._exchange(function, shared, self._plan, "none")
            return None
        plan = replace(self._plan, weight_C=np.full(self.number, 1 / self.number))
        return self._reduced(function, shared, plan, "mean", sends=False)

    def mix(self, name: str, matrix_CC: csr_array, bits_C: np.ndarray | None = None) -> None:
        """Rows ``name`` that clients keep become W times them: x_i <- sum_j w_ij x_j, each edge one message.

        Args:
            name: of the rows; every client must have them.
            matrix_CC: W; its k-th row and column belong to the cohort's k-th lowest id.
            bits_C: bits that each client's row takes to send, in increasing order of ids; None for 32 a number.
        """
        mixing = Mixing.of(matrix_CC, np.sort(self.ids))
        width = self._fleet.mix(name, mixing)
        bits_C = np.full(self.number, 32 * width) if bits_C is None else bits_C
        bits = int(np.dot(mixing.messages(), bits_C))
        self.bits_up, self.bits_down = self.bits_up + bits, self.bits_down + bits

    def best(
        self, score: Callable[..., Tensor], name: str, *shared: Any, groups: np.ndarray | None = None
    ) -> Any:
        """The client with the lowest score, and its row ``name``; or the best of every group.

        Args:
            score: client function that returns a score for each client, [k]; lower is better, ties go to the lower id.
            name: of the rows that clients keep.
            shared: values for all clients.
            groups: group of each client, in the order of ``ids``; None for a single group.

        Returns:
            ids [G], rows [G, P] and scores [G] of the winners, by increasing group.
        """
        score_C = self.rows(_as_rows, score, *shared, width=1)[:, 0].numpy()
        group_C = np.zeros(self.number, np.int64) if groups is None else groups
        order = np.lexsort((self.ids, score_C, group_C))
        first = np.r_[True, np.diff(group_C[order]) != 0]
        winners = order[first]
        return self.ids[winners], self.fetch(name, self.ids[winners]), score_C[winners]

    def fetch(self, name: str, ids: np.ndarray) -> Tensor:
        """Rows ``name`` that these clients keep, sent to the server, [len(ids), P]."""
        rows_KP = self._fleet.fetch(name, ids)
        self.bits_up += 32 * rows_KP.numel()
        return rows_KP

    def note(self, name: str, value: float) -> None:
        """A number about the whole round for its metrics."""
        self.notes[name] = float(value)

    def _reduced(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
        sends: bool = True,
    ) -> Any:
        tree = Tree(plan.blocks)
        for partial in self._exchange(function, shared, plan, reduce, measure, sends):
            for node, value in partial.nodes.items():
                tree.add(node, tuple(torch.as_tensor(v).cpu() for v in value))
        return _unwrap(tree.total())

    def _exchange(
        self,
        function: Callable[..., Any],
        shared: tuple[Any, ...],
        plan: Plan,
        reduce: str,
        measure: bool = False,
        sends: bool = True,
    ) -> list[Partial]:
        partials = self._fleet.exchange(function, shared, plan, reduce, measure)
        if measure:
            return partials
        for value in shared:
            tensor, share = (value.rows_GP, len(value.rows_GP)) if isinstance(value, Table) else (value, 1)
            if isinstance(tensor, Tensor) and not any(tensor is sent for sent in self._sent):
                self._sent.append(tensor)
                self.bits_down += 32 * (tensor.numel() // share) * self.number
        self.bits_up += 32 * partials[0].width * self.number * sends
        for name in partials[0].reports:
            self.reports[name] = np.concatenate([p.reports[name] for p in partials])
        return partials

    def measured(self) -> dict[str, float]:
        """Weighted mean over the cohort of every per-client report, in float64 and in the cohort's order; and notes."""
        weight = self._plan.weight_C / self._plan.weight_C.sum()
        means = {
            name: float(np.dot(value.astype(np.float64), weight)) for name, value in self.reports.items()
        }
        return means | self.notes


def _as_rows(cohort: Cohort, score: Callable[..., Tensor], *shared: Any) -> Tensor:
    return score(cohort, *shared).unsqueeze(1)


def _unwrap(value: tuple[Any, ...]) -> Any:
    return value[0] if len(value) == 1 else value
