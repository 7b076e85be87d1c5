"""raysim: distributed and federated optimisation with thousands of simulated clients, in one process or on Ray.

>>> import raysim as rs
>>> sim = rs.Simulation(
...     data=rs.data.Digits(),
...     partition=rs.partitions.Dirichlet(clients=100, alpha=0.3),
...     model=rs.models.MLP(hidden=(32,)),
...     local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=5, batch_size=8),
...     rounds=3,
... )
>>> result = sim.run(folder=None)
>>> result.status
'finished'

What is named here is imported when it is first used: a process that only waits, asks or prints help needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysim import (
        aggregators,
        attacks,
        compressors,
        data,
        models,
        objectives,
        optimizers,
        privacy,
        probes,
        rules,
        topologies,
    )
    from raysim.core.execution import Execution
    from raysim.core.host import ClientError
    from raysim.core.interfaces import DataError
    from raysim.core.local import Local
    from raysim.core.placement import Placement
    from raysim.core.plugin import ConfigError
    from raysim.data import partitions
    from raysim.optimizers import schedules
    from raysim.result import Result
    from raysim.runtime.drive import resume
    from raysim.simulation import Simulation

__version__ = "0.1.0"

__all__ = [
    "ClientError",
    "ConfigError",
    "DataError",
    "Execution",
    "Local",
    "Placement",
    "Result",
    "Simulation",
    "aggregators",
    "attacks",
    "compressors",
    "data",
    "models",
    "objectives",
    "optimizers",
    "partitions",
    "privacy",
    "probes",
    "resume",
    "rules",
    "schedules",
    "topologies",
]

_HOMES = {
    "ClientError": "raysim.core.host",
    "ConfigError": "raysim.core.plugin",
    "DataError": "raysim.core.interfaces",
    "Execution": "raysim.core.execution",
    "Local": "raysim.core.local",
    "Placement": "raysim.core.placement",
    "Result": "raysim.result",
    "Simulation": "raysim.simulation",
    "resume": "raysim.runtime.drive",
}
_MOVED = {"partitions": "raysim.data.partitions", "schedules": "raysim.optimizers.schedules"}


def __getattr__(name: str) -> Any:
    """Import what is asked for by name (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'raysim' has no attribute {name!r}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        value = importlib.import_module(_MOVED.get(name, f"raysim.{name}"))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
