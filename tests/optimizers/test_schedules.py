"""Schedules: their values, worked by hand."""

import math

import pytest

from raysim.core.plugin import ConfigError, at_round
from raysim.optimizers import SGD, Constant, Cosine, InverseSqrt, Step, WarmUp


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(lr=0.3), {0: 0.3, 7: 0.3, 10**6: 0.3}),
        (Step(lr=0.8, every=3, factor=0.5), {0: 0.8, 2: 0.8, 3: 0.4, 5: 0.4, 6: 0.2, 8: 0.2}),
        (Step(lr=1.0, every=2), {1: 1.0, 2: 0.1, 4: 0.01}),
        (Cosine(lr=1.0, rounds=10), {0: 1.0, 5: 0.5, 10: 0.0, 11: 0.0}),
        (Cosine(lr=1.0, rounds=3, final=0.2), {0: 1.0, 1: 0.8, 2: 0.4, 3: 0.2, 99: 0.2}),
        (InverseSqrt(lr=0.5), {0: 0.5, 3: 0.25, 99: 0.05}),
        (WarmUp(rounds=4, then=1.0), {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0, 50: 1.0}),
        (WarmUp(rounds=1, then=InverseSqrt(lr=2.0)), {0: 1.0, 1: 2.0, 4: 1.0}),
        (WarmUp(rounds=2, then=WarmUp(rounds=1, then=6.0)), {0: 1.0, 1: 2.0, 2: 3.0, 3: 6.0}),
    ],
)
def test_values(schedule, values):
    for round, value in values.items():
        assert schedule.value(round) == pytest.approx(value, abs=1e-12)
        assert at_round(schedule, round) == schedule.value(round)


def test_cosine_never_rises_nor_turns_negative():
    values = [Cosine(lr=0.1, rounds=37).value(r) for r in range(80)]
    assert values == sorted(values, reverse=True)
    assert min(values) >= 0


def test_a_schedule_stands_where_a_step_size_does():
    optimizer = SGD(lr=Cosine(lr=0.2, rounds=4))
    assert at_round(optimizer.lr, 2) == pytest.approx(0.1)
    assert at_round(SGD(lr=0.2).lr, 2) == 0.2


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Constant(lr=-1.0), r"Constant\.lr must be greater than 0"),
        (lambda: Step(lr=1.0, every=0), r"Step\.every must be greater than or equal to 1"),
        (lambda: Step(lr=1.0, every=2, factor=0.0), r"Step\.factor must be greater than 0"),
        (lambda: Cosine(lr=0.1, rounds=10, final=0.2), r"Cosine\.final must be at most lr.*Exchange"),
        (lambda: InverseSqrt(lr=math.inf), r"InverseSqrt\.lr must be"),
        (lambda: WarmUp(rounds=2, then=-0.1), r"WarmUp\.then must be greater than 0"),
        (lambda: WarmUp(rounds=2, then="linear"), r"WarmUp\.then must be number or Schedule"),
    ],
)
def test_wrong_fields_are_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
