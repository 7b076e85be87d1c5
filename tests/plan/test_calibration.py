"""A calibration: what it records of rounds, on experiments of which that is known."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.cohort import Table
from raysim.core.interfaces import Probe
from raysim.core.plugin import ConfigError
from raysim.plan import calibration, model, planning
from raysim.plan.calibration import calibrate
from raysim.plan.facts import Exchange, fingerprint
from raysim.plan.recorder import Round, array_bytes, patterns
from tests.experiments import digits
from tests.plan.made import alone

LOCAL = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), steps=2, batch_size=8, keep_state=True)
P = 64 * 16 + 16 + 16 * 10 + 10


def quick(sim):
    return calibrate(sim, ray=False, rounds=3, seconds=0)


def test_averaging_is_one_exchange_of_the_model_each_way():
    found = quick(digits(rule=rs.rules.Averaging()))
    (pattern,) = found.patterns
    (exchange,) = pattern.exchanges
    assert exchange.work_s > 0
    assert replace(exchange, work_s=0.0) == Exchange(
        "exchange", 0.0, "sum", (4 * P,), row_bytes=4 * P, report_bytes=4.0
    )
    assert (found.clients, found.cohort, found.parameters) == (30, 8, P)
    assert sum(found.sizes) == len(rs.data.Digits().load().x_train)
    assert found.memory.row == 0
    assert found.evaluation.exchanges == ()
    assert not found.calls.measured


def test_kept_rows_and_those_that_mixing_needs_twice():
    found = quick(digits(rule=rs.rules.Gossip(topology=rs.topologies.Ring()), local=LOCAL, cohort=None))
    wide = -(-4 * P // 64) * 64
    assert found.memory.row == 2 * wide  # the model and the momentum
    assert found.memory.mixed == wide
    kinds = [e.kind for e in found.patterns[0].exchanges]
    assert kinds == ["exchange", "mix"]
    assert found.patterns[0].exchanges[1].row_bytes == 4 * P


def test_rounds_of_two_kinds_are_kept_apart():
    sim = digits(rule=rs.rules.Gossip(topology=rs.topologies.Ring(), period=3), cohort=None)
    found = calibrate(sim, ray=False, rounds=7, seconds=0.0)
    long = calibrate(sim, ray=False, rounds=7, seconds=60)
    assert sorted(len(p.exchanges) for p in long.patterns) == [2, 3]
    assert sum(p.share for p in long.patterns) == pytest.approx(1)
    assert {len(p.exchanges): p.share for p in long.patterns}[3] == pytest.approx(1 / 3)
    assert sum(p.share for p in found.patterns) == pytest.approx(1)


def test_a_leader_is_fetched_and_sent_in_a_table():
    found = quick(digits(rule=rs.rules.Leader(groups=3), cohort=None))
    scored, fetched, pulled = found.patterns[0].exchanges
    assert (scored.reduce, scored.row_bytes) == ("rows", 4)
    assert (fetched.kind, fetched.rows, fetched.row_bytes) == ("fetch", 3, 4 * P)
    assert (pulled.carried_bytes, pulled.carried_client_bytes) == (3 * 4 * P, 8.0)


def test_arrays_inside_values_are_found_wherever_they_are():
    table = Table(torch.zeros(3, 5), np.zeros(30, np.int64))
    assert array_bytes((table, {"a": torch.zeros(2)}, [np.zeros(4), "text", 1.0]), 30) == (60 + 8 + 32, 240)


def test_probes_belong_to_the_evaluation_and_not_to_the_round():
    found = quick(digits(rule=rs.rules.Averaging(), probes=(Twice(),)))
    assert len(found.patterns[0].exchanges) == 1
    assert len(found.evaluation.exchanges) == 2
    assert all(e.report_bytes == 0 for e in found.evaluation.exchanges)


@dataclass(frozen=True)
class Twice(Probe):
    """Looks at all clients, twice.

    Paper: none.
    """

    def measure(self, clients, rule, server):
        look = lambda: clients.mean(nothing, server.x_P, measure=True)
        return {"sum": float((look() + look()).sum())}


def nothing(cohort, x_P):
    return x_P.expand(len(cohort), -1).clone()


def test_the_shortest_time_for_a_usual_cohort_counts():
    e = Exchange("exchange", 0.0)
    rounds = [
        Round(s + 1.0, work, (replace(e, work_s=s),), (), False)
        for s, work in ((9, 1), (3, 1.0), (3, 1.5), (5, 1))
    ]
    (found,) = patterns(rounds)
    assert found.exchanges[0].work_s == 2.0  # 3 s for half as much again
    assert found.coordinator_s == 1.0


def test_a_large_cohort_is_calibrated_on_a_part_of_it(monkeypatch):
    monkeypatch.setattr(calibration, "COHORT", 5)
    assert quick(digits(cohort=8)).cohort == 5
    assert quick(digits(cohort=None)).cohort == 30


def test_the_fingerprint_is_of_what_was_measured():
    sim = digits()
    assert fingerprint(sim) == fingerprint(
        sim.replaced(rounds=9, cohort=4, placement=rs.Placement(actors=2), name="x")
    )
    for change in (
        {"cohort": None},
        {"model": rs.models.MLP(hidden=(8,))},
        {"rule": rs.rules.Scaffold()},
        {"seed": 1},
        {"placement": rs.Placement(threads=2)},
    ):
        assert fingerprint(sim) != fingerprint(sim.replaced(**change))


def test_an_experiment_that_diverges_is_said():
    sim = digits(local=rs.Local(optimizer=rs.optimizers.SGD(lr=1e30), steps=2, batch_size=8))
    with pytest.raises(ConfigError, match="diverged in round"):
        quick(sim)


def test_data_that_cannot_be_dealt_out_are_said():
    with pytest.raises(ConfigError, match="needs at least 1700 training examples"):
        quick(digits(partition=rs.partitions.Dirichlet(clients=1700, alpha=0.01)))


def test_a_topology_that_so_many_clients_cannot_have():
    sim = digits(rule=rs.rules.Gossip(topology=rs.topologies.RandomRegular(degree=3)), cohort=None)
    with pytest.raises(ConfigError, match="no graph of 31 clients"):
        planning.case(sim, quick(sim), alone(cpus=2), clients=31)


def test_threads_are_left_as_they_were_found():
    before = torch.get_num_threads()
    quick(digits(placement=rs.Placement(threads=2)))
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_memory_that_grows_with_clients_is_what_a_process_takes():
    """Rows of 1,400 clients: within a factor of two of what the process grows by."""
    sim = digits(
        data=rs.data.Digits(copies=2),
        partition=rs.partitions.IID(clients=1400),
        model=rs.models.MLP(hidden=(64,)),
        rule=rs.rules.Gossip(topology=rs.topologies.Ring()),
        local=replace(LOCAL, steps=1),
        cohort=None,
    )
    small = sim.replaced(partition=rs.partitions.IID(clients=30))
    facts = quick(small)
    known = planning.case(small, facts, alone(cpus=2), per_node=1, clients=1400)
    predicted = model.memory(known).actor_bytes - facts.calls.process_bytes
    text = sim.replaced(rounds=3, evaluate_every=3).to_yaml()
    grown = float(alone_in_a_process(GROWN, text))
    assert predicted > 10e6
    assert predicted / 2 < grown < 2 * predicted


GROWN = """
import sys
import raysim as rs
from raysim.plan.calls import private_bytes
from raysim.runtime.stepwise import Stepwise

run = Stepwise(rs.Simulation.from_yaml(sys.argv[1]))
run.begin()
before = private_bytes()
run.advance(2)
print(private_bytes() - before)
"""


def alone_in_a_process(code, *arguments):
    """What Python prints that has no memory to use again, as this process has after other tests."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=200
    ).stdout


HEAD = """
import dataclasses, json, re, sys
import numpy as np
import raysim as rs
from raysim.runtime import fleet, ray_fleet
from raysim.runtime.coordinator import Coordinator

class Nobody:  # in the place of actors: what the coordinator has of its own is looked at
    def __init__(self, setup, placement, tell, reserved):
        self.setup, self.owner_N = setup, np.full(setup.shards.number, -1, np.int64)
    evaluate = lambda self, x_P: (1.0, 0.5)

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def prepared(clients):
    many = dataclasses.replace(
        small, x_train=np.resize(small.x_train, (4 * clients, 1, 8, 8)), y_train=np.resize(small.y_train, 4 * clients)
    )
    rs.data.Digits.load = lambda self: many
    run = Coordinator(rs.Simulation(
        data=rs.data.Digits(), partition=rs.partitions.IID(clients=clients), model=rs.models.MLP(hidden=(8,)),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=4),
        placement=rs.Placement(actors=1), rounds=1,
    ), None)
    run._prepare()
    run._clients(run._begin())
    return many.x_train.nbytes + many.y_train.nbytes

ray_fleet.RayFleet = Nobody
small = rs.data.Digits().load()
prepared(300)
before = memory("VmRSS")
print(json.dumps([prepared(int(sys.argv[1])), memory("VmHWM") - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_memory_of_the_coordinator_is_what_the_model_says():
    """The training set twice at most, and so much for each client: without what is in the object store by then."""
    clients = 80_000
    data, grown = json.loads(alone_in_a_process(HEAD, str(clients)))
    assert grown == pytest.approx(2 * data + model.HEAD_CLIENT_BYTES * clients, rel=0.2)
