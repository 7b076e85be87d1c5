"""What the rounds of a population's trials ask of their clients, to be answered for several trials at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysim.core.cohorts import Plan
from raysim.core.mixing import Mixing
from tuning.population.values import same


@dataclass(frozen=True)
class Call:
    """An exchange.

    Args:
        function: the client function.
        shared: its shared values.
        plan: the trial's cohort.
        reduce: what becomes of the rows.
        measure: whether rows that clients keep stay as they are.
    """

    function: Callable[..., Any]
    shared: tuple[Any, ...]
    plan: Plan
    reduce: str
    measure: bool

    def like(self, other: Any) -> bool:
        """Whether both can be computed as one stack, if their shared values can be merged."""
        return (
            isinstance(other, Call)
            and (self.reduce, self.measure, len(self.shared))
            == (other.reduce, other.measure, len(other.shared))
            and same(self.function, other.function)
            and self.plan.round == other.plan.round
            and same(self.plan.ids_C, other.plan.ids_C)
            and np.array_equal(self.plan.weight_C, other.plan.weight_C)
        )


@dataclass(frozen=True)
class Mix:
    """Rows that clients keep become weighted sums of those of their neighbours.

    Args:
        name: of the rows.
        mixing: the weights.
    """

    name: str
    mixing: Mixing

    def like(self, other: Any) -> bool:
        """Weights may differ."""
        return isinstance(other, Mix) and self.name == other.name


@dataclass(frozen=True)
class Fetch:
    """Rows that some clients keep, sent to the server.

    Args:
        name: of the rows.
        ids: the clients.
    """

    name: str
    ids: np.ndarray

    def like(self, other: Any) -> bool:
        """Clients may differ, and how many they are."""
        return isinstance(other, Fetch) and self.name == other.name
