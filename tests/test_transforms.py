"""Laws over every attack, privacy mechanism and compressor in an experiment: nothing depends on where it ran."""

import pytest
import torch

import raysim as rs
from raysim import spec
from raysim.core.transforms import Attack, Compressor, Privacy
from raysim.runtime.fleet import LocalFleet
from tests import laws
from tests.compressors import examples as compressors
from tests.experiments import same

EXAMPLES = {
    **{cls.__name__: many[:2] for cls, many in compressors.EXAMPLES.items()},
    "SignFlip": [rs.attacks.SignFlip(hostile=0.3)],
    "LabelFlip": [rs.attacks.LabelFlip(hostile=0.3)],
    "Noise": [rs.attacks.Noise(hostile=0.3, std=0.1)],
    "Scale": [rs.attacks.Scale(hostile=0.3, factor=3.0)],
    "InnerProduct": [rs.attacks.InnerProduct(hostile=0.3)],
    "LittleIsEnough": [rs.attacks.LittleIsEnough(hostile=0.3), rs.attacks.LittleIsEnough(hostile=0.3, z=1.5)],
    "Mimic": [rs.attacks.Mimic(hostile=0.3)],
    "AdaptiveClip": [rs.privacy.AdaptiveClip(initial=0.5)],
    "GaussianMechanism": [
        rs.privacy.GaussianMechanism(0.1, rs.privacy.Clip(0.5), 1e-5),
        rs.privacy.GaussianMechanism(0.1, rs.privacy.Clip(0.5), 1e-5, at="client"),
        rs.privacy.GaussianMechanism(0.1, rs.privacy.AdaptiveClip(0.5, noise=1.0), 1e-5),
    ],
    "Clip": [rs.privacy.Clip(norm=0.5)],
}
TRANSFORMS = [
    pytest.param(t, id=f"{name}-{i}") for name, many in EXAMPLES.items() for i, t in enumerate(many)
]
LOCAL = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


def experiment(transform, rule=None, **changes):
    """Unlike clients, five of thirteen a round; with uniform weights, as privacy wants them."""
    rule = rule or rs.rules.Averaging(weighting="uniform")
    return laws.ragged(rule, LOCAL, uplink=(transform,), **changes)


def test_every_transform_is_here():
    assert set(EXAMPLES) == {name for kind in (Attack, Privacy, Compressor) for name in spec.classes(kind)}


@pytest.fixture(scope="module")
def fleets(ray_session):
    """Client actors, shared by all tests here."""
    made = laws.Fleets()
    yield made
    made.close()


@pytest.mark.ray
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_same_bits_for_any_number_of_actors(transform, fleets):
    sim = experiment(transform)
    setup, initial_P, shards = laws.prepared(sim)
    expected = laws.played(sim, LocalFleet(setup, "cpu"), initial_P, shards)
    assert not torch.equal(expected[0].x_P, initial_P)
    for actors in (1, 2, 3):
        laws.assert_same(expected, laws.played(sim, fleets(setup, actors), initial_P, shards))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_save_and_load_mid_run_changes_nothing(transform, tmp_path):
    sim = experiment(transform)
    expected = sim.run(None)
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(expected, rs.resume(tmp_path / "run", sim))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_two_messages_in_a_round_do_not_meet(transform):
    """SCAFFOLD sends an update and a control variate: both go through, each with memory of its own."""
    result = experiment(transform, rs.rules.Scaffold(option="I")).run(None)
    assert result.x_P.isfinite().all()
    last = result.metrics.iloc[-1]
    assert 0 < last["bits_up"] <= 5 * 5 * 2 * (32 * len(result.x_P) + 600)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_it_changes_what_the_server_gets(transform):
    plain = laws.ragged(rs.rules.Averaging(weighting="uniform"), LOCAL).run(None)
    assert not torch.equal(plain.x_P, experiment(transform).run(None).x_P)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_yaml_keeps_the_transform(transform):
    sim = experiment(transform)
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim


DIFFERENCES = [t for t in TRANSFORMS if isinstance(t.values[0], Compressor) and not t.values[0].remembers]


@pytest.mark.filterwarnings("ignore:.*may diverge:UserWarning")  # for which five rounds are too few
@pytest.mark.parametrize("transform", DIFFERENCES)
def test_every_compressor_serves_the_downlink(transform):
    """Clients' copies follow the server's model; the first message is the model itself."""
    compressor = transform.values[0] if hasattr(transform, "values") else transform
    sim = laws.ragged(rs.rules.Averaging(), LOCAL, downlink=compressor)
    result = sim.run(None)
    assert result.x_P.isfinite().all()
    first, second = result.metrics["bits_down"].iloc[1:3]
    assert first == 13 * 32 * len(result.x_P)
    assert 0 < second - first <= 13 * (32 * len(result.x_P) + 600)
