"""What the cost model is asked and what it answers: a case, costs of exchanges, a prediction."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from raysim.plan.facts import Calibration
from raysim.plan.layout import Halo, Layout
from raysim.plan.machines import Cluster


@dataclass(frozen=True)
class Case:
    """What is to be predicted.

    Args:
        facts: the calibration.
        layout: of the cohort over all actors.
        clients: of the experiment.
        block: clients per block.
        rounds: how many.
        evaluations: how many.
        cluster: where.
        per_node: actors on each node.
        speed: how many times faster a core or GPU of the cluster is than one here.
        halo: rows that mixing moves; None where nothing is mixed.
    """

    facts: Calibration
    layout: Layout
    clients: int
    block: int
    rounds: int
    evaluations: int
    cluster: Cluster
    per_node: int
    speed: float = 1.0
    halo: Halo | None = None

    @property
    def near(self) -> bool:
        """Whether the coordinator is on the machine of the actors."""
        return self.cluster.head is None

    @property
    def on_gpus(self) -> bool:
        """Whether clients compute on GPUs."""
        return self.cluster.worker.gpus > 0

    @property
    def units(self) -> float:
        """Cores or GPUs of a node."""
        return float(self.cluster.worker.gpus or self.cluster.worker.cpus)

    @property
    def node_A(self) -> np.ndarray:
        """Each actor's node."""
        return np.arange(self.layout.actors) // self.per_node


@dataclass(frozen=True)
class Cost:
    """Seconds of one exchange, or of several, by what takes them; and bytes by who sends them."""

    training_s: float = 0.0
    head_network_s: float = 0.0
    node_network_s: float = 0.0
    coordinator_s: float = 0.0
    calls_s: float = 0.0
    down_bytes: float = 0.0
    up_bytes: float = 0.0
    halo_bytes: float = 0.0
    node_down_bytes: float = 0.0
    node_up_bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Cost:
        return Cost(*(getattr(self, f.name) * times for f in fields(self)))

    @property
    def seconds(self) -> float:
        """Of everything."""
        return self.training_s + self.head_network_s + self.node_network_s + self.coordinator_s + self.calls_s


@dataclass(frozen=True)
class Memory:
    """(10) Bytes, and what of each there is."""

    actor_bytes: float
    gpu_bytes: float
    node_bytes: float
    head_bytes: float


@dataclass(frozen=True)
class Prediction:
    """What is predicted; ``busy`` holds shares of a round's time and of memory, by what they are of."""

    actors: int
    idle: int
    blocks: int
    clients: int
    cohort: int
    round_s: float
    evaluation_s: float
    total_s: float
    round: Cost
    memory: Memory
    busy: dict[str, float]
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> str:
        """What saturates first: the fullest of all."""
        return max(self.busy, key=lambda name: self.busy[name])

    @property
    def fits(self) -> bool:
        """Whether memory suffices everywhere."""
        return all(share <= 1 for share in self.busy.values())
