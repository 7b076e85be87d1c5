"""The model against this machine: ``python -m raysim.plan.check``. The machine must be idle; it takes some minutes.

Calibrates on this process and two actors, predicts rounds on 1, 2 and 3 actors, and measures them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raysim.plan import model, planning
from raysim.plan.calibration import calibrate, cores
from raysim.plan.calls import private_bytes
from raysim.plan.machines import Cluster, here
from raysim.runtime.coordinator import Coordinator
from raysim.simulation import Simulation

EXPERIMENT = """
data: {name: Digits, copies: 8}
partition: {name: IID, clients: 192}
model: {name: MLP, hidden: [128]}
local: {optimizer: {name: SGD, lr: 0.05}, steps: 10, batch_size: 16}
execution: {block: 8}
rounds: 30
evaluate_every: 30
placement: {device: cpu, cpus_per_actor: 0.25}
"""
"""A round of some fifty milliseconds: 192 clients in blocks of 8, all with the same number of examples."""

WARM = 2  # rounds that are not measured
WITHIN = 0.30  # of the seconds that are measured
BETWEEN = 1.5  # times the memory that is measured, either way
ACTORS = (1, 2, 3)
ATTEMPTS = 5
BUSY = 0.2  # share of the machine that others may have


@dataclass(frozen=True)
class Compared:
    """A round's seconds and an actor's bytes, predicted and measured."""

    predicted_s: float
    measured_s: float
    predicted_bytes: float
    measured_bytes: float

    @property
    def ratio(self) -> float:
        """Of the seconds, predicted over measured."""
        return self.predicted_s / self.measured_s

    @property
    def holds(self) -> bool:
        """Whether the prediction is as near as is promised."""
        fits = self.predicted_bytes / BETWEEN <= self.measured_bytes <= self.predicted_bytes * BETWEEN
        return abs(self.ratio - 1) <= WITHIN and fits

    def better(self, other: Compared) -> Compared:
        """The fastest of both: others make calibrations and runs slower only, so it is nearest to the truth."""
        predicted, measured = (
            min(self.predicted_s, other.predicted_s),
            min(self.measured_s, other.measured_s),
        )
        return replace(other, predicted_s=predicted, measured_s=measured)


def attempt(simulation: Simulation) -> dict[int, Compared]:
    """Predicted and measured, by number of actors."""
    facts = calibrate(simulation, actors=2)
    found = {}
    for actors in ACTORS:
        where = Cluster(replace(here(), gpus=0), None, 1)
        case = planning.case(simulation, facts, where, per_node=actors)
        seconds, memory = measured(simulation, actors)
        found[actors] = Compared(
            model.round_cost(case).seconds, seconds, model.memory(case).actor_bytes, memory
        )
    return found


def measured(simulation: Simulation, actors: int) -> tuple[float, float]:
    """Seconds of the shortest round, from its beginning to the next one's; and memory of the largest actor."""
    marks: list[float] = []
    memory: list[float] = []

    def watch(event: dict[str, object]) -> None:
        if event["kind"] != "round":
            return
        marks.append(time.perf_counter())
        if len(marks) == simulation.rounds:
            fleet = run.fleet
            memory.extend(private_bytes(fleet._get(actor.pid.remote())) for actor in fleet.actors)

    run = Coordinator(
        simulation.replaced(placement=replace(simulation.placement, actors=actors)), None, watch=watch
    )
    run.run()
    pairs = zip(marks[WARM:-2], marks[WARM + 1 : -1], strict=True)  # the last round is evaluated
    return min(b - a for a, b in pairs), max(memory)


def busy_share(seconds: float = 2.0) -> float:
    """Share of the machine's processor time that others take (Linux; elsewhere 0)."""

    def times() -> np.ndarray:
        return np.array(Path("/proc/stat").read_text().split("\n")[0].split()[1:9], float)

    try:
        before = times()
        time.sleep(seconds)
        spent = times() - before
    except OSError:
        return 0.0
    return float(1 - spent[3:5].sum() / spent.sum())  # idle, waiting for a disk


def checked(
    simulation: Simulation,
    tell: Callable[[str], None],
    attempts: Callable[[Simulation], dict[int, Compared]] = attempt,
) -> bool:
    """Whether predictions hold, after at most ``ATTEMPTS`` attempts.

    Args:
        simulation: what to predict and to run.
        tell: called with a line about each number of actors.
        attempts: makes one attempt.
    """
    best: dict[int, Compared] = {}
    for number in range(1, ATTEMPTS + 1):
        found = attempts(simulation)
        best = {actors: best[actors].better(new) if best else new for actors, new in found.items()}
        for actors, now in best.items():
            tell(
                f"attempt {number}, {actors} actors: predicted {planning.shown_seconds(now.predicted_s)} a round, "
                f"measured {planning.shown_seconds(now.measured_s)}, ratio {now.ratio:.2f}; memory of an actor "
                f"{planning.shown_bytes(now.predicted_bytes)}, {planning.shown_bytes(now.measured_bytes)}"
            )
        if all(now.holds for now in best.values()):
            return True
    return False


def main() -> int:
    """Check and say so; the exit code is 0 where predictions hold, 1 where not, 2 where nothing can be said."""
    tell = lambda line: print(line, flush=True)  # noqa: T201
    busy = busy_share()
    if busy > BUSY:
        tell(f"{busy:.0%} of {cores()} cores are busy: what is measured here would be somebody else's work.")
        return 2
    holds = checked(Simulation.from_yaml(EXPERIMENT), tell)
    tell(f"Predictions {'hold' if holds else 'do not hold'}: within {WITHIN:.0%} of what was measured.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
