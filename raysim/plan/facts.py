"""What a calibration finds out about an experiment; units are in the names. It is kept as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import TypeAdapter, ValidationError

from raysim.core.local import Local
from raysim.core.plugin import ConfigError

if TYPE_CHECKING:
    from raysim.simulation import Simulation


@dataclass(frozen=True)
class Exchange:
    """One call of the coordinator to all actors.

    Args:
        kind: "exchange" (a client function), "mix" (rows with neighbours) or "fetch" (rows to the server).
        work_s: seconds of the whole cohort's work in one process that has its core or GPU to itself.
        reduce: what comes back: "sum" (one row per node of the summation tree), "rows" (one per client) or "none".
        sent_bytes: of each tensor that every actor receives.
        carried_bytes: of arrays inside each call, whatever the number of clients (a table of leaders).
        carried_client_bytes: of arrays inside each call, per client of the experiment (who has which leader).
        row_bytes: of one row that comes back, or goes to a neighbour.
        report_bytes: of numbers about each client that come back.
        rows: how many are fetched.
    """

    kind: str
    work_s: float
    reduce: str = "none"
    sent_bytes: tuple[int, ...] = ()
    carried_bytes: int = 0
    carried_client_bytes: float = 0.0
    row_bytes: int = 0
    report_bytes: float = 0.0
    rows: int = 0


@dataclass(frozen=True)
class Pattern:
    """Rounds that make the same exchanges (with global averaging, say, or without).

    Args:
        share: of all rounds.
        coordinator_s: the coordinator's own work: cohort, rule, server step, records.
        exchanges: in their order.
    """

    share: float
    coordinator_s: float
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True)
class Evaluation:
    """Evaluating the model.

    Args:
        chunks: pieces of the test set.
        chunk_s: seconds for one.
        exchanges: those that the probes make.
    """

    chunks: int
    chunk_s: float
    exchanges: tuple[Exchange, ...] = ()


@dataclass(frozen=True)
class Calls:
    """What talking to actors costs.

    Args:
        measured: on actors here; otherwise these are assumptions.
        call_s: an exchange without work, beside what each actor adds.
        actor_s: what each actor (each call) adds.
        near_byte_s: the coordinator's seconds for a byte by shared memory, both sides of the copy.
        far_byte_s: the same by Ray.
        start_s: until client actors are ready.
        slowdown: of actors against work in this process, when 1, 2, ... of them compute at once on cores of their own.
        process_bytes: memory of an actor's own, before clients' rows.
    """

    measured: bool
    call_s: float
    actor_s: float
    near_byte_s: float
    far_byte_s: float
    start_s: float
    slowdown: tuple[float, ...]
    process_bytes: float


@dataclass(frozen=True)
class Memory:
    """What grows with clients, in bytes.

    Args:
        data_client: training examples of a client.
        data: test examples.
        row: rows that each client keeps from round to round, padded as they are stored.
        mixed: those of them that mixing needs a second time.
        server: the server's model and state.
    """

    data_client: float
    data: int
    row: int
    mixed: int
    server: int


@dataclass(frozen=True)
class Calibration:
    """All that was measured.

    Args:
        experiment: fingerprint of what was measured.
        processor: what it was measured on.
        device: "cpu" or "cuda".
        cores: of this machine.
        clients: of the experiment.
        cohort: clients per round.
        parameters: of the model.
        row_floats: numbers that a client's model and optimiser state take.
        steps: local steps of the client that takes most.
        sizes: examples of clients, in the order of their ids (evenly spaced ones of many).
        patterns: kinds of rounds.
        evaluation: of the model.
        client_s: the coordinator's seconds per client of a round: cohort, order, blocks, reports.
        mixed_s: its seconds per client for the matrix of a mixing.
        gathered_s: its seconds per client for aggregating rows.
        registered_s: its seconds per client of the experiment, for drawing a cohort.
        calls: talking to actors.
        memory: what grows with clients.
    """

    experiment: str
    processor: str
    device: str
    cores: int
    clients: int
    cohort: int
    parameters: int
    row_floats: int
    steps: int
    sizes: tuple[int, ...]
    patterns: tuple[Pattern, ...]
    evaluation: Evaluation
    client_s: float
    mixed_s: float
    gathered_s: float
    registered_s: float
    calls: Calls
    memory: Memory

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        try:
            file.write_text(json.dumps(asdict(self), indent=1))
        except OSError as error:
            raise ConfigError(f"The calibration cannot be written to {file}: {error.strerror}.") from None

    @classmethod
    def read(cls, file: Path, simulation: Simulation) -> Calibration:
        """The calibration in a file.

        Raises:
            ConfigError: it is none, or one of another experiment.
        """
        try:
            found = TypeAdapter(cls).validate_json(file.read_text())
        except (OSError, ValueError, ValidationError) as error:
            reason = getattr(error, "strerror", None) or "it is not a file that `raysim plan` wrote"
            raise ConfigError(
                f"The calibration {file} cannot be read: {reason}. Remove it to calibrate anew."
            ) from None
        if found.experiment != fingerprint(simulation):
            raise ConfigError(
                f"The calibration {file} is of another experiment (data, clients, model, training, rule or channel "
                "differ). Name another file, or remove it to calibrate anew."
            )
        return found


LENGTH = ("rounds", "evaluate_every", "checkpoint_every", "name", "cohort", "placement")
"""What may differ from the calibrated experiment: the model knows what becomes of it."""


def fingerprint(simulation: Simulation) -> str:
    """What a calibration belongs to: all of the experiment that its numbers depend on."""
    from raysim import spec

    if spec.opaque(simulation):
        return "in Python only"
    tree = yaml.safe_load(spec.dump(simulation))
    plain = {name: value for name, value in tree.items() if name not in LENGTH}
    plain |= {"sampled": simulation.cohort is not None, "threads": simulation.placement.threads}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def most_steps(local: Local, sizes: tuple[int, ...]) -> int:
    """Local steps of the client that takes most."""
    import numpy as np

    return int(local.steps_of(np.array(sizes)).max(initial=0))
