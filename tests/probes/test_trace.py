"""Probes look and leave no trace: the same weights, metrics and bits with them as without, wherever clients live."""

from dataclasses import dataclass

import pytest
import torch

import raysim as rs
from raysim.core.interfaces import Probe
from raysim.probes import Consensus, Drift, GradientDeviation, GradientVariance
from tests.experiments import digits, same
from tests.laws import ragged
from tests.probes.own import Halfway
from tests.rules.test_laws import RULES as EVERY, local_for

ALL = (GradientDeviation(), GradientVariance(), Consensus(), Drift())
KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)
RULES = {
    "averaging": rs.rules.Averaging(),
    "adaptive": rs.rules.Averaging(server=rs.optimizers.Adam(lr=0.01)),  # tensors in the server's state
    "own": Halfway(),
}
NUMBERS = [
    "deviation", "deviation_squared", "deviation_relative", "drift", "lipschitz", "deviation_loss",
    "gradient_variance", "gradient_variance_relative", "gradient_cosine", "consensus", "consensus_relative",
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_nothing_is_sent_or_changed(rule, form):
    sim = digits(rule=RULES[rule], local=KEPT, rounds=5, execution=rs.Execution(form=form, block=3))
    without, probed = sim.run(None), sim.replaced(probes=ALL).run(None)
    assert torch.equal(without.x_P, probed.x_P)
    columns = without.metrics.columns.drop("seconds")
    assert without.metrics[columns].equals(probed.metrics[columns])
    assert {"bits_up", "bits_down", "train_loss"} <= set(columns)
    assert set(probed.metrics.columns) - set(without.metrics.columns) == set(NUMBERS)
    assert probed.metrics[NUMBERS].iloc[1:].notna().all(axis=None)


@pytest.mark.parametrize("rule", EVERY)
def test_nothing_is_sent_or_changed_by_any_rule(rule):
    sim = ragged(rule, local_for(rule), rounds=3)
    without, probed = sim.run(None), sim.replaced(probes=ALL).run(None)
    columns = without.metrics.columns.drop("seconds")
    assert torch.equal(without.x_P, probed.x_P)
    assert without.metrics[columns].equals(probed.metrics[columns])
    assert (
        probed.metrics[["drift", "deviation", "gradient_variance", "consensus"]]
        .iloc[1:]
        .notna()
        .all(axis=None)
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("rule", RULES)
def test_the_same_on_actors(rule):
    sim = digits(rule=RULES[rule], local=KEPT, rounds=5, probes=ALL)
    actors = sim.replaced(placement=rs.Placement(actors=2, cpus_per_actor=0.5)).run(None)
    assert same(sim.run(None), actors)
    assert torch.equal(sim.replaced(probes=()).run(None).x_P, actors.x_P)


def test_resumed(tmp_path):
    sim = digits(local=KEPT, rounds=6, probes=ALL, checkpoint_every=1)
    sim.replaced(rounds=3).run(tmp_path / "run")
    assert same(sim.run(None), rs.resume(tmp_path / "run", sim))


def test_only_rounds_that_are_evaluated():
    from raysim.runtime.coordinator import Coordinator

    coordinator = Coordinator(digits(rounds=5, evaluate_every=2, probes=ALL), None)
    rows = coordinator.run().rows
    assert [r["round"] for r in rows if "drift" in r] == [2, 4, 5]
    assert [r["round"] for r in rows] == [0, 2, 4, 5]
    told = [e["round"] for e in coordinator.events if e["kind"] == "round" and "drift" in e]
    assert told == [2, 4, 5]


@dataclass(frozen=True)
class Two(Probe):
    """A probe of one's own."""

    def measure(self, clients, rule, server):
        return {"two": 2.0}


def test_a_probe_of_ones_own_beside_ours():
    assert digits(rounds=1, probes=(Two(), Drift())).run(None).metrics["two"].tolist()[1:] == [2.0]


TEXT = """
data: Digits
partition: {name: IID, clients: 5}
model: Linear
local: {optimizer: {name: SGD, lr: 0.1}, steps: 2}
probes: [Drift, {name: GradientDeviation}]
"""


def test_yaml():
    sim = digits(probes=ALL)
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim
    assert rs.Simulation.from_yaml(TEXT).probes == (Drift(), GradientDeviation())
    assert rs.Simulation.from_yaml(TEXT, ["probes=[]"]).probes == ()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("probes=[Drfit]", "probes[0]: there is no probe 'Drfit'."),
        ("probes=[Drift, Averaging]", "probes[1]: there is no probe 'Averaging'."),
        ("probes=[{name: Drift, every: 2}]", "probes[0]: Drift has no field 'every'."),
        ("probes=[3]", "Simulation.probes must be"),
    ],
)
def test_mistakes(override, words):
    with pytest.raises(rs.ConfigError) as error:
        rs.Simulation.from_yaml(TEXT, [override])
    assert words in str(error.value)
