"""The laws over every rule in the folder: nothing depends on where it ran, on ids, or on being interrupted."""

import pytest
import torch

import raysim as rs
from raysim import spec
from raysim.core.interfaces import Rule
from raysim.runtime.fleet import LocalFleet
from tests import laws

ring = rs.topologies.Ring()
EXAMPLES = {
    "Averaging": [rs.rules.Averaging(), rs.rules.Averaging(server=rs.optimizers.Adam(lr=0.01))],
    "Gossip": [
        rs.rules.Gossip(topology=ring, period=3),
        rs.rules.Gossip(topology=rs.topologies.StaticExponential(), order="combine-then-adapt"),
        rs.rules.Gossip(topology=rs.topologies.OnePeerExponential()),
    ],
    "GossipAGA": [rs.rules.GossipAGA(topology=ring, period=2)],
    "ChocoSGD": [
        rs.rules.ChocoSGD(topology=ring, compressor=rs.compressors.TopK(fraction=0.1), consensus=0.3)
    ],
    "GradientTracking": [rs.rules.GradientTracking(topology=ring)],
    "ExactDiffusion": [rs.rules.ExactDiffusion(topology=ring)],
    "Leader": [
        rs.rules.Leader(pull=0.2, global_pull=0.1, groups=3, global_every=2),
        rs.rules.Leader(pull=0.2, pull_at="step"),
        rs.rules.Leader(pull=0.2, pull_at="objective", score="full"),
    ],
    "EASGD": [rs.rules.EASGD()],
    "EAMSGD": [rs.rules.EAMSGD()],
    "Downpour": [rs.rules.Downpour()],
    "GradAlign": [rs.rules.GradAlign(beta=0.1)],
    "FedGA": [rs.rules.FedGA(beta=0.1), rs.rules.FedGA(beta="neutral")],
    "SequentialGradAlign": [rs.rules.SequentialGradAlign(beta=0.1)],
    "Robust": [
        rs.rules.Robust(aggregator=rs.aggregators.Median()),
        rs.rules.Robust(
            aggregator=rs.aggregators.CenteredClipping(radius=0.1),
            server=rs.optimizers.SGD(lr=0.5, momentum=0.9),
        ),
    ],
    "MajorityVote": [
        rs.rules.MajorityVote(vote=rs.compressors.Sign(scale="row"), lr=0.001),
        rs.rules.MajorityVote(vote=rs.compressors.Sign(scale="row"), lr=0.1, feedback=True),
    ],
    "FedProx": [rs.rules.FedProx(mu=0.1)],
    "Scaffold": [rs.rules.Scaffold(), rs.rules.Scaffold(option="I")],
    "FedNova": [
        rs.rules.FedNova(),
        rs.rules.FedNova(mu=0.1, server=rs.optimizers.SGD(lr=0.5, momentum=0.9)),
    ],
    "FedDyn": [rs.rules.FedDyn(alpha=0.1), rs.rules.FedDyn(alpha=0.1, weighting="uniform")],
    "MimeLite": [rs.rules.MimeLite(momentum=0.9)],
    "SharedStep": [rs.rules.SharedStep(), rs.rules.SharedStep(step="min")],
    "SlowMo": [rs.rules.SlowMo()],
    "DiLoCo": [rs.rules.DiLoCo()],
}
RULES = [
    pytest.param(rule, id=f"{name}-{i}") for name, many in EXAMPLES.items() for i, rule in enumerate(many)
]
ONE_STEP = {"GradientTracking", "ExactDiffusion", "GradAlign", "MajorityVote"}
NEEDS_MOMENTUM = {"EAMSGD"}
PLACED = {"Gossip", "GossipAGA", "ChocoSGD", "GradientTracking", "ExactDiffusion", "Leader"}
"""Rules for which a client's number is its place in a graph or a group."""


def local_for(rule, full=False):
    """Local training that the rule accepts: momentum that clients keep where it may, mini-batches of ragged clients."""
    name = type(rule).__name__
    size = None if full else 8
    if name in NEEDS_MOMENTUM:
        sgd = rs.optimizers.SGD(lr=0.05, momentum=0.9, nesterov=True)
        return rs.Local(optimizer=sgd, steps=3, batch_size=size, keep_state=True)
    if name == "SharedStep":
        return rs.Local(optimizer=rs.optimizers.Armijo(lr=1.0), steps=1, batch_size=size, keep_state=True)
    if name in ONE_STEP:
        return rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=size)
    if full:
        return rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=3, batch_size=size)
    kept = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True
    )
    try:
        rule.fit(13, 13, kept)
    except rs.ConfigError:
        return rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), epochs=1, batch_size=8)
    return kept


def test_every_rule_is_here():
    assert set(EXAMPLES) == set(spec.classes(Rule))


@pytest.fixture(scope="module")
def fleets(ray_session):
    """Client actors, shared by all tests here."""
    made = laws.Fleets()
    yield made
    made.close()


@pytest.mark.ray
@pytest.mark.parametrize("rule", RULES)
def test_same_bits_for_any_number_of_actors(rule, fleets):
    sim = laws.ragged(rule, local_for(rule))
    setup, initial_P, shards = laws.prepared(sim)
    expected = laws.played(sim, LocalFleet(setup, "cpu"), initial_P, shards)
    assert not torch.equal(expected[0].x_P, initial_P)
    for actors in (1, 2, 3):
        laws.assert_same(expected, laws.played(sim, fleets(setup, actors), initial_P, shards))


@pytest.mark.parametrize("rule", RULES)
def test_save_and_load_mid_run_changes_nothing(rule, tmp_path):
    sim = laws.ragged(rule, local_for(rule))
    expected = sim.run(None)
    sim.replaced(rounds=2).run(tmp_path / "run")
    result = rs.resume(tmp_path / "run", sim)
    assert torch.equal(expected.x_P, result.x_P)
    drop = lambda r: r.metrics.drop(columns="seconds")
    assert drop(expected).equals(drop(result))


@pytest.mark.parametrize("rule", RULES)
def test_clients_at_rest_stay_put(rule):
    sim = laws.at_rest(rule, local_for(rule, full=True))
    initial = torch.cat([p.detach().reshape(-1) for p in sim.initial_model().parameters()])
    torch.testing.assert_close(sim.run(None).x_P, initial, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", [r for r in RULES if type(r.values[0]).__name__ not in PLACED])
def test_numbering_the_clients_otherwise_changes_nothing(rule):
    local = local_for(rule, full=True)
    a, b = (
        laws.relabelled(rule, local, order).run(None) for order in (range(9), [4, 1, 8, 0, 2, 7, 3, 6, 5])
    )
    torch.testing.assert_close(a.x_P, b.x_P, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_forms_agree(rule):
    sims = [
        laws.ragged(rule, local_for(rule), rounds=3, execution=rs.Execution(form=form, block=3))
        for form in ("loop", "stacked", "inplace")
    ]
    expected, *others = [sim.run(None).x_P for sim in sims]
    for other in others:
        torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_yaml_keeps_the_rule(rule):
    sim = laws.ragged(rule, local_for(rule))
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim
