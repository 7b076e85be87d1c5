"""Bytes that the model predicts are those that travel between the coordinator and its actors, to the last one."""

import numpy as np
import pytest
import ray.cloudpickle
from torch import Tensor

import raysim as rs
from raysim.plan import model, planning
from raysim.plan.calibration import calibrate
from raysim.runtime import placing
from raysim.runtime.mailbox import Slip
from raysim.runtime.post import Post
from raysim.runtime.stepwise import Stepwise
from tests.experiments import digits
from tests.plan.made import alone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
FRAME = 4000  # bytes of a call that are no arrays


class Meter:
    """Counts what a fleet of actors sends and receives."""

    def __init__(self, fleet, monkeypatch):
        self.down = self.up = self.halo = self.calls = self.number = 0
        self.fleet, self.real = fleet, fleet.actors
        posted, received, dumps = Post.posted, Post.received, ray.cloudpickle.dumps

        def post(post, shared, indices):
            self.down += len(indices) * sum(
                v.numel() * v.element_size() for v in shared if isinstance(v, Tensor)
            )
            return posted(post, shared, indices)

        def receive(post, i, partial):
            values = [v for node in partial.nodes.values() for v in node] + [
                v for r in partial.rows for v in r
            ]
            self.up += sum(size(v) for v in values) + sum(v.nbytes for v in partial.reports.values())
            return received(post, i, partial)

        def dump(value, **options):
            text = dumps(value, **options)
            if not options:  # Ray's own have some
                self.calls, self.number = self.calls + len(text), self.number + 1
            return text

        monkeypatch.setattr(Post, "posted", post)
        monkeypatch.setattr(Post, "received", receive)
        monkeypatch.setattr(ray.cloudpickle, "dumps", dump)
        fleet.actors = [Handle(actor, self) for actor in fleet.actors]

    def counts(self):
        return np.array([self.down, self.up, self.halo, self.calls, self.number], float)


class Handle:
    """An actor whose rows are counted as they leave it."""

    def __init__(self, actor, meter):
        self._actor, self._meter = actor, meter

    def __getattr__(self, name):
        return Picking(self._actor, self._meter) if name == "pick" else getattr(self._actor, name)


class Picking:
    """The call that takes rows from an actor: for another one in a mixing, for the coordinator in a fetch."""

    def __init__(self, actor, meter):
        self.actor, self.meter = actor, meter

    def remote(self, name, ids):
        self.meter.halo += len(ids)
        return self.actor.pick.remote(name, ids)


def size(value):
    if isinstance(value, Slip):
        return int(np.prod(value.shape)) * np.dtype(value.dtype).itemsize
    return value.nbytes


LOCAL = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=8)
RULES = {
    "averaging": rs.rules.Averaging(),
    "gossip": rs.rules.Gossip(topology=rs.topologies.StaticExponential(), period=2),
    "leader": rs.rules.Leader(groups=3),
    "leaders at steps": rs.rules.Leader(groups=3, pull_at="step", pull=0.1),
}


ACTORS = 3
ROUNDS = range(2, 6)  # whole periods, after the first two


def measured(sim, actors, monkeypatch):
    """Counts of each round on actors, and the parameters."""
    run = Stepwise(
        sim.replaced(placement=rs.Placement(actors=actors, cpus_per_actor=0.5), rounds=9, evaluate_every=9)
    )
    placing.connect(run.simulation.placement)
    with monkeypatch.context() as patched:
        run.begin()
        meter = Meter(run.fleet, patched)
        try:
            counts = [meter.counts()]
            for _ in range(ROUNDS.stop):
                run.advance(1)
                counts.append(meter.counts())
        finally:
            run.fleet.actors = meter.real
            run.close()
    return np.diff(counts, axis=0)[list(ROUNDS)].sum(0) / len(ROUNDS), run.P


@pytest.mark.parametrize("rule", RULES)
def test_predicted_bytes_are_those_that_travel(rule, monkeypatch):
    sim = digits(rule=RULES[rule], local=LOCAL, cohort=None, rounds=9, evaluate_every=9)
    facts = calibrate(sim, ray=False, rounds=9, seconds=60)
    known = planning.case(sim, facts, alone(cpus=4), per_node=ACTORS)
    (down, up, halo, calls, number), P = measured(sim, ACTORS, monkeypatch)
    each = model.round_cost(known)
    fetched = sum(e.rows * p.share for p in facts.patterns for e in p.exchanges if e.kind == "fetch")
    assert each.up_bytes == pytest.approx(up + fetched * 4 * P)
    assert each.halo_bytes + fetched * 4 * P == pytest.approx(halo * 4 * P)
    inside = (
        sum(p.share * sum(model.down_bytes(known, e)[0] for e in p.exchanges) for p in facts.patterns) - down
    )
    assert inside >= 0
    assert inside <= calls <= inside + FRAME * number
