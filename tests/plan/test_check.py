"""The check of the model on an idle machine: what it says of good and bad predictions, and one look at real actors."""

import itertools
from dataclasses import replace

import pytest

from raysim.plan import calls, check, planning
from raysim.plan.calibration import calibrate
from raysim.plan.check import Compared
from raysim.simulation import Simulation
from tests.experiments import digits
from tests.plan.made import alone

GOOD = Compared(0.1, 0.1, 3e8, 3e8)


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"predicted_s": 0.129}, True),
        ({"predicted_s": 0.131}, False),
        ({"predicted_s": 0.069}, False),
        ({"measured_bytes": 4.4e8}, True),
        ({"measured_bytes": 4.6e8}, False),
        ({"measured_bytes": 1.9e8}, False),
    ],
)
def test_what_holds(change, holds):
    assert replace(GOOD, **change).holds == holds


def test_slow_attempts_are_made_again_and_the_fastest_count():
    """Somebody else's work slows a calibration, then a run: neither is the model's fault."""
    slow = iter([{1: replace(GOOD, predicted_s=0.2)}, {1: replace(GOOD, measured_s=0.2)}, {1: None}])
    told = []
    assert check.checked(None, told.append, lambda _: next(slow))
    assert len(told) == 2
    assert "ratio 1.00" in told[1]


def test_a_prediction_that_is_wrong_is_wrong_every_time():
    number = itertools.count()
    bad = lambda _: {1: GOOD, 2: replace(GOOD, predicted_s=0.05)} if next(number) >= 0 else None
    assert not check.checked(None, lambda line: None, bad)
    assert next(number) == check.ATTEMPTS


def test_a_busy_machine_is_no_place_to_measure(monkeypatch, capsys):
    monkeypatch.setattr(check, "busy_share", lambda: 0.5)
    assert check.main() == 2
    assert "50% of" in capsys.readouterr().out


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 1)])
def test_its_exit_code_says_whether_predictions_hold(holds, code, monkeypatch, capsys):
    monkeypatch.setattr(check, "busy_share", lambda: 0.0)
    monkeypatch.setattr(check, "checked", lambda simulation, tell: holds)
    assert check.main() == code
    assert ("do not hold" in capsys.readouterr().out) == (not holds)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_real_actors_are_measured(monkeypatch):
    """Every number is there, and memory is what actors of a run take: seconds are left to the check itself."""
    monkeypatch.setattr(calls, "WORKED", (2, 2))
    monkeypatch.setattr(calls, "REPEATS", 3)
    sim = digits(cohort=None, rounds=6, evaluate_every=6)
    facts = calibrate(sim, actors=2, rounds=3, seconds=0)
    assert facts.calls.measured
    assert len(facts.calls.slowdown) == 2
    assert min(facts.calls.call_s, facts.calls.actor_s, facts.calls.near_byte_s, facts.calls.far_byte_s) >= 0
    assert facts.calls.start_s > 0
    predicted = check.model.memory(planning.case(sim, facts, alone(cpus=2), per_node=1)).actor_bytes
    seconds, memory = check.measured(sim, 1)
    assert seconds > 0
    if memory:  # Linux says
        assert predicted / check.BETWEEN < memory < predicted * check.BETWEEN


def test_its_actors_fit_on_a_machine_of_one_core():
    """Ray is started for the calibration's two actors, and has no more CPUs for the third one."""
    placement = Simulation.from_yaml(check.EXPERIMENT).placement
    assert max(check.ACTORS) * placement.cpus_per_actor <= 1
