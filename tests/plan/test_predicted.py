"""The model's prediction for 1, 2 and 3 actors against rounds on them, on a machine whose every second is known."""

import pytest

import raysim as rs
from raysim.core.mixing import Mixing
from raysim.plan import model, planning
from raysim.plan.calibration import calibrate
from raysim.plan.machines import Cluster, Machine
from raysim.runtime.coordinator import Coordinator
from tests.plan import world as worlds

WITHIN = 0.30  # of what is promised; so little is left to chance here that it is mostly within a hundredth
ROUNDS, WARM = 8, 2
LOCAL = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05), steps=1, batch_size=4)


def experiment(rule, **changes):
    """96 clients in blocks of 4."""
    fields = {
        "data": rs.data.Digits(),
        "partition": rs.partitions.IID(clients=96),
        "model": rs.models.MLP(hidden=(16,)),
        "local": LOCAL,
        "rule": rule,
        "rounds": ROUNDS,
        "evaluate_every": ROUNDS,
        "execution": rs.Execution(block=4),
        "placement": rs.Placement(device="cpu"),
    }
    return rs.Simulation(**(fields | changes))


def truth(world, sim, actors):
    """Seconds of the shortest round on actors."""
    marks = []
    watch = lambda event: marks.append(world.now) if event["kind"] == "round" else None
    Coordinator(sim.replaced(placement=rs.Placement(actors=actors)), None, watch=watch).run()
    return min(b - a for a, b in zip(marks[WARM:-2], marks[WARM + 1 : -1], strict=True))


def predicted(sim, facts, actors, cores=2):
    where = Cluster(Machine("made up", cores, 0, 10.0, 16.0), None, 1)
    return model.round_cost(planning.case(sim, facts, where, per_node=actors)).seconds


RULES = {
    "averaging": rs.rules.Averaging(),
    "gossip": rs.rules.Gossip(topology=rs.topologies.StaticExponential()),
    "leader": rs.rules.Leader(groups=3),
    "median": rs.rules.Robust(aggregator=rs.aggregators.Median()),
}


MACHINES = {
    "training": {},
    "more cores": {"cores": 3},
    "calls": {"client": 3e-5, "actor": 3e-3},
    "bytes": {"client": 1e-4, "near_byte": 2e-8, "far_byte": 1e-7},
    "others": {"disturbed": 5},
}
"""What takes most of a round; or whose work it is."""


@pytest.mark.parametrize(
    ("rule", "machine"),
    [(rule, "training") for rule in RULES]
    + [("averaging", machine) for machine in list(MACHINES)[1:]]
    + [("gossip", "bytes")],
)
def test_rounds_take_what_was_predicted(rule, machine, monkeypatch):
    """Calibrated on one process and two actors; three share the cores that there are."""
    sim = experiment(RULES[rule])
    world = worlds.made(monkeypatch, **MACHINES[machine])
    facts = calibrate(sim, actors=2)
    ratios = {k: predicted(sim, facts, k, world.machine.cores) / truth(world, sim, k) for k in (1, 2, 3)}
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), abs=WITHIN)


def test_a_calibration_finds_what_things_take(monkeypatch):
    """Each of the numbers that the prediction rests on, one by one."""
    world = worlds.made(monkeypatch)
    found, truly = calibrate(experiment(rs.rules.Averaging()), actors=2), world.machine
    (pattern,) = found.patterns
    assert pattern.exchanges[0].work_s == pytest.approx(96 * truly.client)
    assert found.client_s == pytest.approx(truly.order)
    assert pattern.coordinator_s == pytest.approx(96 * truly.order)
    assert found.evaluation.chunk_s == pytest.approx(truly.chunk)
    assert found.calls.call_s == pytest.approx(truly.call, rel=0.01)
    assert found.calls.actor_s == pytest.approx(truly.actor, rel=0.01)
    assert found.calls.slowdown == pytest.approx(truly.slow, rel=0.01)
    assert (
        0.4 * truly.near_byte <= found.calls.near_byte_s <= truly.near_byte
    )  # actors copy while others are called
    assert truly.far_byte <= found.calls.far_byte_s <= 2 * truly.far_byte  # once more into the object store
    assert world.jobs == []


def test_clients_that_the_coordinator_works_on_one_by_one(monkeypatch):
    """Calibrated on 96 clients, predicted for 192: aggregating a row takes as long as training it on two actors."""
    world = worlds.made(monkeypatch)
    combine = rs.aggregators.Median.combine

    def slowly(aggregator, rows_CP, *given):
        world.spend(1e-3 * len(rows_CP))
        return combine(aggregator, rows_CP, *given)

    monkeypatch.setattr(rs.aggregators.Median, "combine", slowly)
    sim = experiment(RULES["median"])
    facts = calibrate(sim, actors=2)
    assert facts.gathered_s == pytest.approx(1e-3)
    twice = experiment(RULES["median"], partition=rs.partitions.IID(clients=192))
    where = Cluster(Machine("made up", 2, 0, 10.0, 16.0), None, 1)
    round_s = model.round_cost(planning.case(sim, facts, where, per_node=2, clients=192)).seconds
    assert round_s == pytest.approx(truth(world, twice, 2), rel=WITHIN)


def test_edges_that_the_coordinator_hands_out(monkeypatch):
    """A matrix takes it a microsecond for each of three entries of every client."""
    world = worlds.made(monkeypatch)
    of = Mixing.of
    monkeypatch.setattr(Mixing, "of", lambda matrix, ids: world.spend(1e-6 * matrix.nnz) or of(matrix, ids))
    sim = experiment(rs.rules.Gossip(topology=rs.topologies.Ring()))
    assert calibrate(sim, actors=2).mixed_s == pytest.approx(3e-6)
