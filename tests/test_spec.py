"""Experiments as text: a faithful picture, and every mistake named with its place and a way out."""

import dataclasses

import pytest

import raysim as rs
from raysim import spec
from raysim.core.plugin import Plugin, field_docs, field_types, paper, summary
from tests.experiments import arrays, digits

TEXT = """
data: {name: Digits, copies: 2}
partition: {name: Dirichlet, clients: 20, alpha: 0.3}
model: {name: MLP, hidden: [16]}
local: {optimizer: {name: SGD, lr: 1e-1}, steps: 2, batch_size: 8}
rounds: 3
"""


def test_round_trip():
    sim = digits(
        rule=rs.rules.Averaging(
            server=rs.optimizers.SGD(lr=rs.schedules.Cosine(lr=1.0, rounds=5), momentum=0.9)
        )
    )
    assert rs.Simulation.from_yaml(sim.to_yaml()) == sim
    assert rs.Simulation.from_yaml(TEXT).local.optimizer.lr == 0.1


def test_overrides():
    sim = rs.Simulation.from_yaml(
        TEXT,
        ["rounds=7", "rule.server.name=SGD", "rule.server.lr=5e-1", "model=Linear", "cohort=0.5", "placement.actors=2",
         "local.optimizer.lr={name: Step, lr: 0.1, every: 2, factor: 0.5}", "data.copies=3", "local.batch_size=null"],
    )  # fmt: skip
    assert (sim.rounds, sim.rule.server.lr, sim.cohort, sim.placement.actors) == (7, 0.5, 0.5, 2)
    assert isinstance(sim.model, rs.models.Linear)
    assert sim.local.optimizer.lr == rs.schedules.Step(lr=0.1, every=2, factor=0.5)
    assert sim.local.batch_size is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rule=Averging", "rule: there is no rule 'Averging'. Did you mean 'Averaging'?"),
        ("model=mlp", "model: there is no model 'mlp'. Did you mean 'MLP'?"),
        ("model.hiden=3", "model: MLP has no field 'hiden'. Did you mean 'hidden'?"),
        ("local.optimizer.lr=-1", "local.optimizer: SGD.lr must be greater than 0 or Schedule, got -1."),
        (
            "local.optimizer.lr=fast",
            "local.optimizer.lr: there is no schedule 'fast'. A plain value is allowed too.",
        ),
        ("local.optimizer.lr=[1]", "SGD.lr must be number or Schedule, got (1,)"),
        ("rounds=2.5", "Simulation.rounds must be integer, got 2.5"),
        ("rounds=true", "Simulation.rounds must be integer, got True"),
        ("rounds=0", "Simulation.rounds must be greater than or equal to 1, got 0"),
        ("cohort=21", "cohort is 21, but there are only 20 clients"),
        ("cohort=1.5", "Simulation.cohort must be"),
        ("ruonds=3", "Simulation has no field 'ruonds'. Did you mean 'rounds'?"),
        ("partition.alpha=0", "Dirichlet.alpha must be greater than 0, got 0"),
        ("placement.gpus_per_actor=0.5", "there are no actors"),
        ("rounds", "An override is written path=value"),
        ("rounds.x=1", "rounds is 3, which has no fields"),
        ("data={copies: 2}", "data needs a name: one of CIFAR10, "),
        ("local={steps: 1}", "local: Local needs optimizer"),
        ("local.epochs=1", "steps=2 and epochs=1"),
        ("data=3", "Simulation.data must be Data, got 3"),
    ],
)
def test_mistakes_name_the_field_the_value_and_the_way_out(override, words):
    with pytest.raises(rs.ConfigError) as error:
        rs.Simulation.from_yaml(TEXT, [override])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- 1", "a: [", "", "3"])
def test_what_is_no_experiment(text):
    with pytest.raises(rs.ConfigError):
        rs.Simulation.from_yaml(text)


def test_what_no_file_can_hold_says_so():
    with pytest.raises(rs.ConfigError, match=r"cannot be written to a file: data.x_train"):
        digits(data=arrays(), partition=rs.partitions.IID(clients=3), cohort=3).to_yaml()

    @dataclasses.dataclass(frozen=True)
    class Mine(rs.rules.Averaging):
        """A rule of one's own."""

    with pytest.raises(rs.ConfigError, match="rule \\(Mine is not part of raysim\\)"):
        digits(rule=Mine()).to_yaml()


def test_empty_clients_are_refused():
    sim = digits(partition=rs.partitions.Dirichlet(clients=700, alpha=0.01, min_examples=0))
    with pytest.raises(rs.ConfigError, match="clients have no examples"):
        sim.run(None)


EVERY = [cls for kind in spec.kinds() for cls in spec.classes(kind).values()]
EVERY += [rs.Simulation, rs.Local, rs.Placement, rs.Execution]


@pytest.mark.parametrize("cls", EVERY, ids=lambda c: c.__name__)
def test_every_plugin_is_documented(cls):
    assert issubclass(cls, Plugin)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert summary(cls).endswith((".", ":")) or len(summary(cls)) > 10
    assert paper(cls), f"{cls.__name__} names no paper"
    docs = field_docs(cls)
    assert set(docs) == set(field_types(cls)), f"{cls.__name__}: {set(docs) ^ set(field_types(cls))}"
