"""The model's prediction for 1, 2 and 3 actors on this machine against runs on them, within 30 %."""

import math
import time
from pathlib import Path

import numpy as np
import pytest

import raysim as rs
from raysim.plan import model, planning
from raysim.plan.calibration import calibrate, cores
from raysim.plan.calls import private_bytes
from raysim.plan.machines import Cluster, Machine
from raysim.runtime.coordinator import Coordinator

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
ROUNDS, WARM = 30, 2
WITHIN = 0.30
ACTORS = (1, 2, 3)
ATTEMPTS = 5


def experiment():
    """A round of some fifty milliseconds: 192 clients in blocks of 8, all with the same number of examples."""
    return rs.Simulation(
        data=rs.data.Digits(copies=8),
        partition=rs.partitions.IID(clients=192),
        model=rs.models.MLP(hidden=(128,)),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.05), steps=10, batch_size=16),
        rounds=ROUNDS,
        evaluate_every=ROUNDS,
        execution=rs.Execution(block=8),
    )


def here():
    """This machine, as far as these tests go: all cores, whatever Ray was told."""
    return Cluster(Machine("here", cores(), 0, 10.0, 16.0), None, 1)


def truth(sim, actors):
    """Seconds of the shortest round on actors, from its beginning to the next one's, and an actor's memory."""
    marks, memory = [], []

    def watch(event):
        if event["kind"] == "round":
            marks.append(time.perf_counter())
            if len(marks) == ROUNDS:
                import ray

                memory.extend(private_bytes(ray.get(a.pid.remote())) for a in run.fleet.actors)

    run = Coordinator(sim.replaced(placement=rs.Placement(actors=actors)), None, watch=watch)
    run.run()
    seconds = [
        b - a for a, b in zip(marks[WARM:-2], marks[WARM + 1 : -1], strict=True)
    ]  # the last is evaluated
    return min(seconds), max(memory)


def attempt():
    """Predicted and measured, by number of actors; and the same of memory."""
    sim = experiment()
    facts = calibrate(sim, actors=2)
    cases = {k: planning.case(sim, facts, here(), per_node=k) for k in ACTORS}
    found = {k: truth(sim, k) for k in ACTORS}
    seconds = {k: (model.round_cost(c).seconds, found[k][0]) for k, c in cases.items()}
    return seconds, {k: (model.memory(c).actor_bytes, found[k][1]) for k, c in cases.items()}


def busy_share(seconds=2.0):
    """Share of the machine's processor time that others take."""
    times = lambda: np.array(Path("/proc/stat").read_text().split("\n")[0].split()[1:9], float)
    before = times()
    time.sleep(seconds)
    spent = times() - before
    return 1 - spent[3:5].sum() / spent.sum()  # idle, waiting for a disk


def test_rounds_on_1_2_and_3_actors_take_what_was_predicted():
    """Calibrated on this process and on two actors; three share what cores there are."""
    busy = busy_share()
    if busy > 0.2:
        pytest.skip(
            f"{busy:.0%} of {cores()} cores are busy: whatever is measured here is somebody else's work"
        )
    best = dict.fromkeys(ACTORS, (math.inf, math.inf))
    for _ in range(ATTEMPTS):
        seconds, memory = attempt()
        assert all(a / 1.5 < b < 1.5 * a for a, b in memory.values()), memory
        # Others only ever make things slower: of calibrations and of runs, the fastest so far is nearest the truth.
        best = {k: (min(best[k][0], a), min(best[k][1], b)) for k, (a, b) in seconds.items()}
        off = {k: round(predicted / measured, 3) for k, (predicted, measured) in best.items()}
        if all(abs(ratio - 1) <= WITHIN for ratio in off.values()):
            return
    pytest.fail(f"predicted over measured, by actors: {off}")
