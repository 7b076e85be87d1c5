"""What the coordinator asks of a fleet of hosts, in this process or in Ray actors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from raysim.core.cohorts import Plan
from raysim.core.host import Partial
from raysim.core.mixing import Mixing


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
