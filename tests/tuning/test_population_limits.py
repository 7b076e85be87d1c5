"""Which experiments can be a stack, and what is said where they cannot."""

from dataclasses import dataclass

import pytest

import raysim as rs
from raysim.core.interfaces import Rule
from raysim.optimizers import SGD, Adam, Cosine
from raysim.rules import Averaging, FedNova, FedProx
from tests.experiments import arrays
from tests.tuning.stacks import every, experiment, rates, rules, together
from tuning.population import Population, differences, stackable
from tuning.population.values import NotStackable


@dataclass(frozen=True)
class Twice(Rule):
    """Averages twice in a round, and writes into what it is given."""

    share: float = 0.5
    stacks = True

    def round(self, clients, server):
        delta_P = clients.mean(change, server.x_P)
        delta_P.mul_(self.share)
        again_P = clients.mean(change, server.x_P + delta_P)
        return server.at(server.x_P + delta_P.add_(again_P))


def change(cohort, x_P):
    return cohort.update(x_P)


def test_rounds_of_several_exchanges_may_write_into_answers():
    together(rules(Twice(0.5), Twice(0.25)))


@dataclass(frozen=True)
class Guarded(Rule):
    """Its client side branches on a number, which a column cannot."""

    share: float = 0.5
    stacks = True

    def round(self, clients, server):
        return server.at(server.x_P + clients.mean(guarded, server.x_P, self.share))


def guarded(cohort, x_P, share):
    return cohort.update(x_P) * (share if share > 0.1 else 0.1)


def test_a_client_function_that_cannot_take_columns_is_named():
    with pytest.raises(NotStackable, match="guarded fails on a stack of trials: RuntimeError: Boolean value"):
        Population(rules(Guarded(0.5), Guarded(0.25))).run()


@dataclass(frozen=True)
class Looking(Rule):
    """Its client side looks at the local optimiser."""

    stacks = True

    def round(self, clients, server):
        return server.at(server.x_P + clients.mean(looking, server.x_P))


def looking(cohort, x_P):
    return cohort.update(x_P) * (1 + cohort.local.optimizer.momentum)


def test_looking_at_optimisers_that_differ_is_refused():
    with pytest.raises(NotStackable, match="looks at the local optimiser, whose momentum differs"):
        Population([experiment(SGD(lr=0.1, momentum=m), Looking()) for m in (0.5, 0.6)]).run()
    together([experiment(SGD(lr=lr, momentum=0.5), Looking()) for lr in (0.1, 0.2)])


@dataclass(frozen=True)
class Unknown(Averaging):
    """A rule of one's own."""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"placement": rs.Placement(actors=2)}, "placement.actors is 2"),
        ({"execution": rs.Execution(form="compiled")}, "execution.form is compiled"),
        ({"rule": Unknown()}, "rule.Unknown is not known to work on a stack"),
        ({"rule": FedNova()}, "rule.FedNova is not known"),
        ({"probes": (rs.probes.Drift(),)}, "probe Drift looks"),
        ({"uplink": (rs.privacy.Clip(norm=1.0), rs.compressors.QSGD(levels=4))}, None),
        ({"uplink": (rs.privacy.AdaptiveClip(initial=1.0),)}, "uplink.AdaptiveClip is told something"),
        ({"uplink": (rs.attacks.LittleIsEnough(hostile=0.2),)}, "uplink.LittleIsEnough is told something"),
        ({}, None),
    ],
)
def test_what_no_stack_can_have(change, words):
    reason = stackable(every(rates(), **change))
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed differs (0 and 1), and is no number that a row"),
        ({"rounds": 5}, "rounds differs (20 and 5)"),
        ({"cohort": 3}, "cohort differs"),
        ({"steps": 2}, "local.steps differs"),
        ({"batch_size": 2}, "local.batch_size differs (4 and 2)"),
        ({"data": arrays(n=80, seed=3)}, "data differs"),
        ({"model": rs.models.MLP(hidden=(9,))}, "model differs"),
        ({"optimizer": Adam(lr=0.1)}, "local.optimizer differs"),
        (
            {"optimizer": SGD(lr=0.1, momentum=0.9, nesterov=True)},
            "local.optimizer.nesterov differs (False and True)",
        ),
        ({"rule": FedProx(mu=0.1)}, "rule differs"),
        ({"rule": Averaging(weighting="uniform")}, "rule.weighting differs ('examples' and 'uniform')"),
        ({"rule": Averaging(server=SGD(lr=0.5))}, "rule.server differs (None and SGD"),
        ({"uplink": (rs.compressors.QSGD(levels=4),)}, "uplink differs"),
        ({"data": arrays(n=80)}, None),  # other arrays of the same numbers
        ({"name": "another"}, None),
        ({"optimizer": SGD(lr=Cosine(lr=0.1, rounds=9), momentum=0.5, weight_decay=0.1)}, None),
    ],
)
def test_what_may_differ(change, words):
    reason = stackable([experiment(), experiment(**change)])
    assert reason is None if words is None else words in reason


def test_kept_state_must_begin_alike():
    pair = [experiment(Adam(lr=0.1, initial=i), keep_state=True) for i in (0.0, 0.1)]
    assert "begins differently" in stackable(pair)
    assert stackable([experiment(Adam(lr=0.1, initial=i)) for i in (0.0, 0.1)]) is None


def test_differences_are_told_by_path():
    pair = [experiment(SGD(lr=0.1), FedProx(mu=0.1)), experiment(SGD(lr=0.2, momentum=0.5), FedProx(mu=0.3))]
    assert differences(pair) == ["local.optimizer.lr", "local.optimizer.momentum", "rule.mu"]


def test_a_stack_of_two_must_fit_into_memory():
    with pytest.raises(NotStackable, match=r"two of them would keep more than 0\.0 GB"):
        Population(every(rates()), memory=1000).run()
