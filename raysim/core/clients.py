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
from torch import Tensor

from raysim.core.cohorts import Plan
from raysim.core.host import Partial
from raysim.core.plugin import ConfigError
from raysim.core.reduction import Tree

ROWS_LIMIT = 4 << 30  # bytes of client rows that `rows` will gather in one place


class Fleet(Protocol):
    """Hosts, in this process or in Ray actors."""

    def exchange(
        self, function: Callable[..., Any], shared: tuple[Any, ...], plan: Plan, reduce: str
    ) -> list[Partial]:
        """Run a client function on every host's part of the plan; parts in the order of the plan."""
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
    """

    def __init__(self, fleet: Fleet, plan: Plan, P: int) -> None:
        self._fleet, self._plan, self._P = fleet, plan, P
        self._sent: list[Tensor] = []
        self.reports: dict[str, np.ndarray] = {}
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

    def mean(self, function: Callable[..., Any], *shared: Any, uniform: bool = False) -> Any:
        """Mean over the cohort of the rows that ``function(cohort, *shared)`` returns.

        Args:
            function: a client function; may return several tensors of rows as a tuple.
            shared: values for all clients; tensors are counted as downloads.
            uniform: weigh all clients alike rather than by their number of examples.

        Returns:
            The mean row [P], or a tuple of means.
        """
        weight_C = np.ones(self.number) if uniform else self._plan.weight_C
        plan = replace(self._plan, weight_C=weight_C / weight_C.sum())
        return self._reduced(function, shared, plan, "mean")

    def sum(self, function: Callable[..., Any], *shared: Any) -> Any:
        """Plain sum over the cohort of the rows that ``function`` returns."""
        return self._reduced(function, shared, self._plan, "sum")

    def rows(self, function: Callable[..., Any], *shared: Any) -> Any:
        """All rows [C, P] in the order of ``ids``, for rules that cannot do with a sum.

        Raises:
            ConfigError: they would take more than 4 GB in one place.
        """
        need = self.number * self._P * 4
        if need > ROWS_LIMIT:
            raise ConfigError(
                f"Gathering the rows of {self.number} clients needs {need / 1e9:.1f} GB in one place, above the limit "
                f"of {ROWS_LIMIT / 1e9:.1f} GB. Use a smaller cohort or model, or a rule that works on sums."
            )
        partials = self._exchange(function, shared, self._plan, "rows")
        columns = zip(*[block for p in partials for block in p.rows], strict=True)
        return _unwrap(tuple(torch.cat([torch.as_tensor(r).cpu() for r in column]) for column in columns))

    def run(self, function: Callable[..., Any], *shared: Any) -> None:
        """Run ``function`` on the clients and send nothing back: they change their own rows."""
        self._exchange(function, shared, self._plan, "none")

    def _reduced(self, function: Callable[..., Any], shared: tuple[Any, ...], plan: Plan, reduce: str) -> Any:
        tree = Tree(plan.blocks)
        for partial in self._exchange(function, shared, plan, reduce):
            for node, value in partial.nodes.items():
                tree.add(node, tuple(torch.as_tensor(v).cpu() for v in value))
        return _unwrap(tree.total())

    def _exchange(
        self, function: Callable[..., Any], shared: tuple[Any, ...], plan: Plan, reduce: str
    ) -> list[Partial]:
        partials = self._fleet.exchange(function, shared, plan, reduce)
        for value in shared:
            if isinstance(value, Tensor) and not any(value is sent for sent in self._sent):
                self._sent.append(value)
                self.bits_down += 32 * value.numel() * self.number
        self.bits_up += 32 * partials[0].width * self.number
        for name in partials[0].reports:
            self.reports[name] = np.concatenate([p.reports[name] for p in partials])
        return partials

    def measured(self) -> dict[str, float]:
        """Weighted mean over the cohort of every per-client report, in float64 and in the cohort's order."""
        weight = self._plan.weight_C / self._plan.weight_C.sum()
        return {name: float(np.dot(value.astype(np.float64), weight)) for name, value in self.reports.items()}


def _unwrap(value: tuple[Any, ...]) -> Any:
    return value[0] if len(value) == 1 else value
