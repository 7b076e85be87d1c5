"""Bytes that the model predicts are those that travel between the coordinator and its actors, to the last one."""

import numpy as np
import pytest
import ray.cloudpickle
from torch import Tensor

import raysim as rs
from raysim.core.host import Setup
from raysim.plan import calibration, model, planning
from raysim.plan.calibration import calibrate
from raysim.runtime import coordinator
from raysim.runtime.mailbox import Slip
from raysim.runtime.post import Post
from raysim.runtime.ray_fleet import RayFleet
from raysim.runtime.stepwise import Stepwise
from tests.experiments import digits
from tests.plan.made import alone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
FRAME = 4000  # bytes of a call that are no arrays


class Meter:
    """Counts what a fleet of actors sends and receives."""

    def __init__(self, fleet, monkeypatch):
        self.down = self.up = self.halo = self.calls = self.number = self.mixed = 0
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
        return np.array([self.down, self.up, self.halo, self.calls, self.number, self.mixed], float)


class Handle:
    """An actor whose rows are counted as they leave it."""

    def __init__(self, actor, meter):
        self._actor, self._meter = actor, meter

    def __getattr__(self, name):
        counted = {"pick": Picking, "mix": Mixes}
        return counted[name](self._actor, self._meter) if name in counted else getattr(self._actor, name)


class Picking:
    """The call that takes rows from an actor: for another one in a mixing, for the coordinator in a fetch."""

    def __init__(self, actor, meter):
        self.actor, self.meter = actor, meter

    def remote(self, name, ids):
        self.meter.halo += len(ids)
        return self.actor.pick.remote(name, ids)


class Mixes(Picking):
    """The call that tells an actor with whom its clients mix."""

    def remote(self, name, part, halo_ids, *halo):
        arrays = (part.ids_C, part.start_C[1:], part.neighbour_E, part.weight_E)
        self.meter.mixed += sum(a.nbytes for a in arrays) + 2 * sum(
            ids.nbytes for ids in halo_ids
        )  # those picked too
        return self.actor.mix.remote(name, part, halo_ids, *halo)


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


@pytest.fixture(scope="module")
def fleet(ray_session):
    """Actors for all rules: what they are set up with is the same."""
    sim = experiment("averaging")
    dataset, shards = sim.load()
    setup = Setup(dataset, shards, sim.initial_model(dataset), sim.local, sim.seed, "stacked")
    fleet = RayFleet(setup, rs.Placement(actors=ACTORS, cpus_per_actor=0.5))
    yield fleet
    fleet.close()


def experiment(rule):
    return digits(rule=RULES[rule], local=LOCAL, cohort=None, rounds=9, evaluate_every=9)


def measured(sim, fleet, monkeypatch):
    """Counts of each round on actors, and the parameters."""
    run = Stepwise(sim.replaced(placement=fleet.placement))
    fleet.load_rows([])
    with monkeypatch.context() as patched:
        patched.setattr(coordinator, "started", lambda *_: fleet)
        patched.setattr(fleet, "close", lambda: None)
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
def test_predicted_bytes_are_those_that_travel(rule, fleet, monkeypatch):
    monkeypatch.setattr(calibration, "ENOUGH", 0.0)  # seconds: what travels is the same in every round
    sim = experiment(rule)
    facts = calibrate(sim, ray=False)
    known = planning.case(sim, facts, alone(cpus=4), per_node=ACTORS)
    (down, up, halo, calls, number, mixed), P = measured(sim, fleet, monkeypatch)
    each = model.round_cost(known)
    fetched = sum(e.rows * p.share for p in facts.patterns for e in p.exchanges if e.kind == "fetch")
    assert each.up_bytes == pytest.approx(up + fetched * 4 * P)
    assert each.halo_bytes + fetched * 4 * P == pytest.approx(halo * 4 * P)
    sent = lambda mix: sum(
        p.share * sum(model.down_bytes(known, e)[0] for e in p.exchanges if (e.kind == "mix") == mix)
        for p in facts.patterns
    )
    assert sent(mix=True) == pytest.approx(mixed)
    assert (mixed > 0) == (rule == "gossip")
    inside = sent(mix=False) - down
    assert inside >= 0
    assert inside <= calls <= inside + FRAME * number
