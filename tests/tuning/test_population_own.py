"""Stacks of plug-ins that users write: columns reach whatever looks at a number, or the stack is refused."""

from dataclasses import dataclass
from functools import cached_property

import pytest
import torch

import raysim as rs
from raysim.core.columns import add
from raysim.core.interfaces import Optimizer, Rule
from raysim.optimizers import SGD, Cosine
from raysim.rules import Scaffold
from tests.tuning.stacks import agree, every, experiment, rates, rules, together
from tuning.population import NotStackable, Population, run_all


@dataclass(frozen=True)
class Own(Optimizer):
    """Looks at its own step size, and at what it derived from a number."""

    lr: float = 0.1
    damping: float = 0.0

    @cached_property
    def factor(self):
        return 1 / (1 + self.damping)

    def update(self, x_CP, grad_CP, state, lr):
        add(x_CP, grad_CP, -self.lr * self.factor)


def test_an_optimiser_that_looks_at_its_own_numbers():
    assert Own(damping=1.0).factor == 0.5  # known before the stack is made
    used = [Own(lr=lr, damping=d) for lr, d in ((0.1, 0.0), (0.2, 0.5), (0.3, 3.0))]
    assert [o.factor for o in used] == [1, 1 / 1.5, 0.25]
    together(every(used))


@dataclass(frozen=True)
class Rated(Rule):
    """Its client side looks at the step size of the local optimiser."""

    stacks = True

    def round(self, clients, server):
        return server.at(server.x_P + clients.mean(rated, server.x_P))


def rated(cohort, x_P):
    return cohort.update(x_P) * (1 + cohort.local.optimizer.lr)


def test_a_rule_that_looks_at_the_step_size():
    together(every(rates(), rule=Rated()))


@dataclass(frozen=True)
class Shaped(Rule):
    """Its client side multiplies a vector [C] by a number, which may be a column."""

    mu: float = 0.1
    reports: bool = True
    stacks = True

    def round(self, clients, server):
        function = reporting if self.reports else returning
        return server.at(server.x_P + clients.mean(function, server.x_P, self.mu))


def reporting(cohort, x_P, mu):
    delta_CP = cohort.update(x_P)
    cohort.report("penalty", mu * delta_CP.square().sum(1))
    return delta_CP


def returning(cohort, x_P, mu):
    return (cohort.update(x_P).mean(1) * mu).unsqueeze(1)


@pytest.mark.parametrize(
    ("reports", "words"), [(True, "metric 'penalty' has shape"), (False, "clients return")]
)
def test_shapes_that_no_row_has_are_refused(reports, words):
    with pytest.raises(NotStackable, match=words):
        Population(rules(Shaped(0.1, reports), Shaped(0.2, reports))).run()


def test_a_step_size_of_zero_hides_nothing():
    """Option II divides by the step size: control variates that are not finite show although they move nothing."""
    ending = [SGD(lr=Cosine(lr=lr, rounds=6)) for lr in (0.1, 0.2)]
    stacked = Population(every(ending, rule=Scaffold(), rounds=12)).run()
    assert [r.status for r in stacked] == ["diverged", "diverged"]
    for result, optimizer in zip(stacked, ending, strict=True):
        agree(result, experiment(optimizer, Scaffold(), rounds=12).run(None))


@dataclass(frozen=True)
class Sent(Rule):
    """Sends the step size as a tensor without axes."""

    tensor: bool = True

    def round(self, clients, server):
        lr = torch.tensor(0.25)
        return server.at(server.x_P + clients.mean(stepped, server.x_P, lr if self.tensor else 0.25))


def stepped(cohort, x_P, lr):
    return cohort.update(x_P, lr=lr)


def test_a_step_size_may_be_a_tensor():
    as_tensor, as_number = (experiment(rule=Sent(t)).run(None).x_P for t in (True, False))
    torch.testing.assert_close(as_tensor, as_number)


@dataclass(frozen=True)
class Failing(Rule):
    """Fails on the server where it is told to."""

    share: float = 0.5
    stacks = True

    def round(self, clients, server):
        if self.share > 0.9:
            raise ZeroDivisionError("share is too large")
        return server.at(server.x_P + self.share * clients.mean(plain, server.x_P))


def plain(cohort, x_P):
    return cohort.update(x_P)


def test_an_error_of_one_is_raised_as_its_own():
    told = []
    with pytest.raises(ZeroDivisionError, match="share is too large"):
        run_all(rules(Failing(0.5), Failing(0.95)), told.append)
    assert "their stack failed (ZeroDivisionError: share is too large)" in told[0]
    assert len(run_all(rules(Failing(0.5), Failing(0.6)))) == 2


def test_numbers_of_the_objective_are_not_numbers_of_rows():
    local = lambda radius: rs.Local(
        SGD(lr=0.1), epochs=1, batch_size=4, objective=rs.objectives.Adversarial(radius=radius, steps=2)
    )
    pair = [experiment().replaced(local=local(radius)) for radius in (0.01, 0.5)]
    with pytest.raises(NotStackable, match=r"local\.objective\.radius differs"):
        Population(pair)
