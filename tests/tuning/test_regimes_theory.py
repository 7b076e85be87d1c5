"""Scaling regimes on data of known constants: what theory says of an experiment, and what is measured."""

from pathlib import Path

import pytest

import raysim as rs
from raysim.core.plugin import ConfigError
from tests.tuning.fakes import EXPERIMENT
from tuning.regimes import Regimes, regimes
from tuning.regimes.theory import theory

EXAMPLES = Path(__file__).parents[2] / "examples"


def least_squares(**changes):
    """Plain SGD on least squares, of which theory speaks."""
    fields = {
        "data": rs.data.GaussianRegression(eigenvalues=(1.0, 0.5, 0.5, 0.25), examples=20_000),
        "partition": rs.partitions.IID(clients=1),
        "model": rs.models.Linear(bias=False),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=2),
    }
    return rs.Simulation(**(fields | changes))


# ---- theory -----------------------------------------------------------------------------------------------------


def test_theory_knows_gaussian_data_and_the_clients_of_a_step():
    """L1 = 2 L + tr H and κ̃ = d + 2, up to the deviation of 20,000 examples; a step of 4 clients is a batch of 4."""
    simulation = least_squares()
    known = theory(simulation, "batch_size")
    assert known.exact
    mass = rs.optimizers.MaSS(lr=0.1, momentum=0.5, secondary=0.1)
    assert known.critical(mass) == pytest.approx((4.25, 6.0), rel=0.1)
    assert known.critical(simulation.local.optimizer) == pytest.approx((4.25,), rel=0.1)
    assert known.lr(1) == pytest.approx(1 / 4.25, rel=0.1)
    four = theory(simulation.replaced(partition=rs.partitions.IID(clients=4)), "batch_size")
    assert four.critical(simulation.local.optimizer)[0] == pytest.approx(1 + 3.25 / 4, rel=0.1)
    along = theory(simulation, "clients")
    assert along.critical(simulation.local.optimizer)[0] == pytest.approx(1 + 3.25 / 2, rel=0.1)
    assert theory(simulation, "local_steps") is None
    half = theory(least_squares(partition=rs.partitions.IID(clients=8), cohort=0.5), "clients")
    assert half.batch == 1.0  # two clients, of which one takes part with two examples


@pytest.mark.parametrize(
    "changes",
    [
        {"local": rs.Local(optimizer=rs.optimizers.Adam(lr=0.1), steps=1, batch_size=2)},
        {"local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, momentum=0.9), steps=1, batch_size=2)},
        {"local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1, weight_decay=0.1), steps=1, batch_size=2)},
        {"rule": rs.rules.Averaging(server=rs.optimizers.SGD(lr=1.0, momentum=0.9))},
        {"rule": rs.rules.SlowMo()},
        {"uplink": (rs.compressors.Sign(),)},
        {"data": rs.data.GaussianRegression(eigenvalues=(1.0, 0.5), examples=500, noise=0.1)},
    ],
    ids=["Adam", "momentum", "decay", "server", "SlowMo", "compressed", "noise"],
)
def test_theory_is_silent_of_all_else(changes):
    assert theory(least_squares(), "batch_size") is not None
    assert theory(least_squares(**changes), "batch_size") is None


def test_momentum_by_theory_needs_theory():
    text = EXPERIMENT.replace(
        "name: SGD, lr: 0.1}", "name: MaSS, lr: 0.1, alpha: 0.5, kappa: 2}, keep_state: true"
    )
    probe = Regimes.from_yaml(text, ["regimes.momentum=theory", "data.noise=0.5"])
    with pytest.raises(ConfigError, match="momentum: theory needs"):
        probe.run()


def test_theory_of_networks_is_of_their_linearisation():
    simulation = rs.Simulation(
        data=rs.data.Digits(),
        partition=rs.partitions.IID(clients=1),
        model=rs.models.MLP(hidden=(4,)),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=3, batch_size=2),
    )
    known = theory(simulation, "batch_size")
    assert not known.exact
    assert 1 < known.critical(simulation.local.optimizer)[0] < 1e4
    assert theory(simulation.replaced(partition=rs.partitions.IID(clients=2)), "batch_size") is None


# ---- data of known constants -------------------------------------------------------------------------------------


def shortened(name, examples, changes):
    """The findings of an example with less of everything, by variant."""
    overrides = [f"data.examples={examples}", *(f"regimes.{c}" for c in (*changes, "noise=false"))]
    return Regimes.from_yaml((EXAMPLES / f"{name}.yaml").read_text(), overrides, name).run().findings


def test_sgd_and_mass_on_gaussian_data_stop_to_gain_where_theory_says():
    """L1 / L = 4 and κ̃ = 66, each within a factor of two; the full comparison is the example itself."""
    changes = ["values=[1,2,4,8,16,64,256]", "seeds=1", "target=0.002", "steps.log_grid=[0.8,1.6,3]"]
    found = shortened("regimes_gaussian", 5000, changes)
    sgd, mass = (found[label].fit for label in ("SGD", "MaSS"))
    assert 2 < sgd.critical[0] < 8
    assert mass.apart
    assert 2 < mass.critical[0] < 8
    assert 33 < mass.critical[1] < 132
    exact = {label: f.theory.critical(f.simulation.local.optimizer) for label, f in found.items()}
    assert exact["SGD"] == pytest.approx((4,), rel=0.15)
    assert exact["MaSS"] == pytest.approx((4, 66), rel=0.15)


def test_sgd_and_mass_on_decoupled_data_have_one_critical_size():
    """L1 / L = κ̃ = 96."""
    changes = ["values=[1,8,64,128,512]", "seeds=2", "steps.log_grid=[0.8,2,4]"]
    found = shortened("regimes_decoupled", 10_000, changes)
    assert 48 < found["SGD"].fit.critical[0] < 192
    assert not found["MaSS"].fit.apart
    assert 48 < found["MaSS"].fit.critical[0] < 192


def test_regimes_called_from_python_measure_the_noise_too():
    simulation = rs.Simulation(
        data=rs.data.GaussianRegression(eigenvalues=(1.0, 0.5, 0.2), examples=2000),
        partition=rs.partitions.IID(clients=1),
        model=rs.models.Linear(bias=False),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=1),
    )
    found = regimes(simulation, values=(1, 4, 16, 64), target=1e-4, seeds=2, examples_per_round=4)
    (finding,) = found.findings.values()
    assert len(finding.noise) > 2
    assert "Gradient noise scale along the run" in found.text()
