"""The metric "epsilon" of experiments: which releases it counts, and on which actors and after which stops."""

import sys

import dp_accounting as dp
import numpy as np
import pytest

import raysim as rs
from raysim.core.cohorts import cohort_ids
from tests.experiments import digits, same

AdaptiveClip, Clip, Gaussian = rs.privacy.AdaptiveClip, rs.privacy.Clip, rs.privacy.GaussianMechanism
UNIFORM = rs.rules.Averaging(weighting="uniform")
DELTA = 1e-4
REPLACE = dp.NeighboringRelation.REPLACE_ONE


def gaussian(z=2.0, **fields):
    return Gaussian(**({"noise_multiplier": z, "clip": Clip(norm=0.5), "delta": DELTA} | fields))


def spent(mechanism=None, **changes):
    """ε after each round."""
    sim = digits(**({"rule": UNIFORM, "uplink": (mechanism or gaussian(),), "rounds": 6} | changes))
    return sim.run(None).metrics["epsilon"].iloc[1:].to_numpy()


def composed(*events, times):
    """dp-accounting's ε after these events, after as many again, and so on."""
    accountant, epsilons = dp.rdp.RdpAccountant(neighboring_relation=REPLACE), []
    for _ in range(times):
        for event in events:
            accountant.compose(event)
        epsilons.append(accountant.get_epsilon(DELTA))
    return epsilons


def sampled(*sigma, cohort=8, clients=30):
    event = dp.ComposedDpEvent([dp.GaussianDpEvent(s) for s in sigma])
    return dp.SampledWithoutReplacementDpEvent(clients, cohort, event)


def most(rounds, cohort=8, clients=30):
    """In how many of the first rounds the client took part that took part most."""
    counts = np.zeros(clients, int)
    for round in range(rounds):
        counts[cohort_ids(0, round, clients, cohort)] += 1
    return counts.max()


@pytest.mark.parametrize(("z", "cohort"), [(1.5, 2), (2.0, 8), (6.0, 3)])
def test_equals_the_package_for_hidden_cohorts(z, cohort):
    """A row changes by up to 2S, so the noise multiplier is z / 2."""
    found = spent(gaussian(z), cohort=cohort, rounds=4)
    np.testing.assert_allclose(found, composed(sampled(z / 2, cohort=cohort), times=4), rtol=1e-9)
    assert (np.diff(found) > 0).all()


def test_when_all_take_part_there_is_nothing_to_hide():
    expected = composed(dp.GaussianDpEvent(1.0), times=3)
    np.testing.assert_allclose(spent(cohort=None, rounds=3), expected, rtol=1e-9)


def of_participants(*sigma, rounds=6):
    """Clients pay for the rounds that they took part in."""
    epsilons = composed(*map(dp.GaussianDpEvent, sigma), times=rounds)
    return [epsilons[most(t) - 1] for t in range(1, rounds + 1)]


def test_unequal_weights_tell_who_took_part():
    np.testing.assert_allclose(spent(rule=rs.rules.Averaging()), of_participants(1.0), rtol=1e-9)


def test_weights_that_happen_to_be_equal_are_no_design():
    alike = rs.partitions.IID(clients=30)
    fields = {"partition": alike, "data": rs.data.Quadratic(clients=30, dimension=4, examples=8)}
    fields |= {"model": rs.models.Linear(bias=False)}
    assert spent(rule=rs.rules.Averaging(), **fields)[0] == pytest.approx(of_participants(1.0)[0])
    assert spent(**fields)[0] == pytest.approx(composed(sampled(1.0), times=1)[0])


def test_clients_that_keep_something_remember_when_they_took_part():
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), steps=2, keep_state=True)
    np.testing.assert_allclose(spent(local=local), of_participants(1.0), rtol=1e-9)


def test_scaffold_has_two_releases_a_round():
    np.testing.assert_allclose(spent(rule=rs.rules.Scaffold()), of_participants(1.0, 1.0), rtol=1e-9)


def test_two_releases_on_one_hidden_cohort_are_counted_as_one_of_less_noise():
    """MIME sends a mean gradient and an update, and its clients keep nothing."""
    found = spent(rule=rs.rules.MimeLite(weighting="uniform"), rounds=3)
    np.testing.assert_allclose(found, composed(sampled(1.0, 1.0), times=3), rtol=1e-9)


def test_noise_at_the_client_is_paid_for_by_those_who_took_part():
    np.testing.assert_allclose(spent(gaussian(at="client")), of_participants(1.0), rtol=1e-9)
    two = spent(gaussian(at="client"), rule=rs.rules.Scaffold())
    np.testing.assert_allclose(two, of_participants(1.0, 1.0), rtol=1e-9)


def test_the_number_of_short_rows_is_a_release_too():
    clip = AdaptiveClip(initial=0.5, noise=1.5)
    found = spent(gaussian(clip=clip), rounds=3)
    np.testing.assert_allclose(found, composed(sampled(1.0, 1.5), times=3), rtol=1e-9)


@pytest.mark.parametrize(
    ("mechanism", "rule"),
    [
        (gaussian(), UNIFORM),
        (gaussian(), rs.rules.Scaffold()),
        (gaussian(clip=AdaptiveClip(initial=0.5, noise=1.5)), rs.rules.Averaging()),
        (gaussian(0.1, at="client"), UNIFORM),
    ],
)
def test_stop_and_resume_equals_one_run(mechanism, rule, tmp_path):
    sim = digits(rule=rule, uplink=(mechanism,), rounds=5)
    sim.replaced(rounds=2).run(tmp_path / "run")
    assert same(sim.run(None), rs.resume(tmp_path / "run", sim))


@pytest.mark.ray
@pytest.mark.parametrize("at", ["server", "client"])
def test_the_same_on_an_actor(at, ray_session):
    sim = digits(rule=rs.rules.Scaffold(), uplink=(gaussian(0.1, at=at),), rounds=3)
    actor = sim.replaced(placement=rs.Placement(actors=1, cpus_per_actor=0.5))
    assert same(sim.run(None), actor.run(None))


def test_without_the_package_one_warning_and_no_number(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    sim = digits(rule=UNIFORM, uplink=(gaussian(),), rounds=4)
    with pytest.warns(UserWarning, match=r"epsilon is not computed: pip install 'raysim\[privacy\]'") as told:
        result = sim.run(tmp_path / "run")
    assert len(told) == 1
    assert "epsilon" not in result.metrics
    monkeypatch.undo()  # what was released was counted all the same
    longer = rs.resume(tmp_path / "run", sim.replaced(rounds=5))
    assert longer.metrics["epsilon"].iloc[-1] == pytest.approx(composed(sampled(1.0), times=5)[-1])


@pytest.mark.parametrize(
    "mechanism",
    [
        gaussian(at="client"),
        gaussian(clip=AdaptiveClip(initial=0.5, quantile=0.3, rate=0.1, noise=2.0)),
        AdaptiveClip(initial=2.0),
    ],
)
def test_yaml_round_trip(mechanism):
    sim = digits(uplink=(mechanism,))
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim


def test_more_noise_less_epsilon_and_learning_goes_on():
    """A hundred equal clients, all of them in every round: the noise on the mean is z / 100 of the clipping length."""
    fields = {
        "partition": rs.partitions.IID(clients=100),
        "model": rs.models.Linear(),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.3), steps=3),
        "cohort": None,
        "rounds": 25,
        "evaluate_every": 25,
        "execution": rs.Execution(block=50),
        "rule": UNIFORM,
    }
    runs = [digits(**fields, uplink=(gaussian(z),)).run(None).metrics.iloc[-1] for z in (0.5, 2.0, 20.0)]
    epsilons, accuracies = ([run[name] for run in runs] for name in ("epsilon", "accuracy"))
    assert epsilons[0] > epsilons[1] > epsilons[2] > 0
    assert accuracies[0] > 0.85
    assert accuracies[0] > accuracies[2] + 0.1
