"""What probes share: the clients' models of this round, trained once more without a trace, and means over clients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from raysim.core.clients import Clients
from raysim.core.cohort import Cohort
from raysim.core.interfaces import Rule
from raysim.core.server import Server


def looked(clients: Clients, function: Callable[..., Any], *shared: Any) -> Any:
    """Mean over the cohort of what a client function returns, all clients alike; nothing is sent or changed."""
    return clients.mean(function, *shared, uniform=True, measure=True)


def shipped(rule: Rule, server: Server) -> tuple[Any, ...]:
    """Rule and server as shared values, each tensor by itself: only so does it travel fast, and to the GPU."""
    return rule, server.round, tuple(server.state), server.x_P, *server.state.values()


def models(
    cohort: Cohort, rule: Rule, round: int, names: tuple[str, ...], x_P: Tensor, *state: Tensor
) -> Tensor:
    """Each client's model right before the round combines them, [C, P]; the arguments are what ``shipped`` gave."""
    return rule.models(cohort, Server(x_P, round, dict(zip(names, state, strict=True))))


def squared_distance(x_CP: Tensor, y_P: Tensor) -> Tensor:
    """||x_i - y||² of every row, [C]."""
    return (x_CP - y_P).square_().sum(1)


def squared_norm(x_P: Tensor) -> float:
    """||x||² of one row, summed in double precision."""
    return float(x_P.double().square().sum())


def ratio(above: float, below: float) -> float:
    """A quotient; not a number where it has no meaning."""
    return above / below if below else math.nan


def meaningful(numbers: dict[str, float]) -> dict[str, float]:
    """Those that are finite: a number without meaning is left out of the round's metrics."""
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
