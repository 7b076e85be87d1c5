"""How runs on Ray end badly: what is said, and that everything they reserved is given back."""

import os
import signal
import warnings

import pytest

import raysim as rs
from raysim.runtime import capacity, crew, placing
from raysim.runtime.crew import Crew
from raysim.runtime.drive import drive
from raysim.runtime.fleet import HostLost, LocalFleet
from raysim.runtime.on_ray import CoordinatorLost
from raysim.runtime.telling import Telling
from tests.experiments import digits
from tests.runtime.unfit import Travelling


def groups():
    from ray.util import placement_group_table

    return [g for g in placement_group_table().values() if g["state"] != "REMOVED"]


@pytest.mark.ray
def test_a_coordinator_that_is_killed_leaves_no_reservation_in_a_process_that_lives_on(ray_session, tmp_path):
    from ray._private.state import actors

    def watch(event):
        if event["kind"] == "checkpoint" and event["round"] == 1:
            named = [a for a in actors().values() if a["ActorClassName"] == "Coordinator"]
            os.kill(next(a["Pid"] for a in named if a["State"] == "ALIVE"), signal.SIGKILL)

    sim = digits(rounds=100_000, checkpoint_every=1, placement=rs.Placement(actors=1))
    with pytest.raises(
        CoordinatorLost, match=rf"has the checkpoint of round \d+.*raysim resume {tmp_path}/run"
    ):
        drive(sim, tmp_path / "run", watch=watch)
    assert groups() == []


@pytest.mark.ray
@pytest.mark.parametrize(("journeys", "who"), [(0, "The coordinator"), (1, "Client actors")])
def test_an_actor_that_cannot_start_is_no_actor_that_died(ray_session, journeys, who):
    local = rs.Local(optimizer=Travelling(lr=0.1, journeys=journeys), epochs=1, batch_size=8)
    with pytest.raises(
        rs.ConfigError, match=rf"{who} cannot start: ModuleNotFoundError: No module named 'mine'"
    ):
        drive(digits(local=local, placement=rs.Placement(actors=1)), None)
    assert groups() == []


@pytest.mark.filterwarnings("ignore:Client actor 0 died")
def test_a_run_whose_hosts_die_again_and_again_says_how_to_go_on(tmp_path, monkeypatch):
    real, rounds = LocalFleet.exchange, []

    def exchange(self, function, shared, plan, *rest):
        rounds.append(plan.round)
        if plan.round == 3:
            raise HostLost("Client actor 0 died (Why) and started anew.")
        return real(self, function, shared, plan, *rest)

    monkeypatch.setattr(LocalFleet, "exchange", exchange)
    sim = digits(rounds=5, checkpoint_every=2)
    with pytest.raises(
        HostLost,
        match=r"died \(Why\).* The run gives up\. .* has the checkpoint of round 2; .*raysim resume ",
    ):
        sim.run(tmp_path / "run")
    assert rounds.count(3) == 4
    with pytest.raises(HostLost, match=r"It had no folder, so the run is lost"):
        sim.run(None)


# ---- finding out who died ------------------------------------------------------------------------------------


def test_actors_that_are_at_work_are_waited_for_all_at_once(monkeypatch):
    """One may be at work for many minutes; ten after the other would be hours."""
    waits = []

    def wait(calls, num_returns, timeout):
        waits.append((list(calls), num_returns, timeout))
        return calls[:2], calls[2:]

    class Actor:
        def __init__(self, name):
            self.name, self.pid = name, self

        def remote(self):
            return self.name

    there = Crew.__new__(Crew)
    there.actors = [Actor(name) for name in ("dead", "alive", "busy", "hung")]
    monkeypatch.setattr(crew.ray, "wait", wait)
    monkeypatch.setattr(crew, "_alive", lambda call: call == "alive")
    assert there._dead() == [0, 2, 3]
    assert waits == [(["dead", "alive", "busy", "hung"], 4, placing.START)]


def test_where_machines_are_brought_new_actors_may_take_as_long_as_that(monkeypatch):
    monkeypatch.setattr(capacity, "growth", lambda: None)
    assert placing.patience(rs.Placement(wait=7.0)) == placing.START + 7.0
    monkeypatch.setattr(capacity, "growth", lambda: capacity.ANYTHING)
    assert placing.patience(rs.Placement(wait=7.0)) == placing.START + capacity.GROW


# ---- what is told --------------------------------------------------------------------------------------------


def test_what_has_been_asked_for_is_not_kept():
    telling = Telling()
    for i in range(5):
        telling._tell("round", round=i)
    assert [e["round"] for e in telling.events_since(0)] == [0, 1, 2, 3, 4]
    assert [e["round"] for e in telling.events_since(3)] == [3, 4]
    telling._tell("round", round=5)
    assert [e["round"] for e in telling.events_since(4)] == [4, 5]
    assert len(telling.events) == 2
    seen = []
    watched = Telling(seen.append)
    watched._tell("round", round=0)
    assert (len(seen), watched.events) == (1, [])


def test_warnings_before_an_error_are_told_too():
    def fails():
        with telling._warnings_told():
            warnings.warn("the storage is slow", stacklevel=1)
            raise ZeroDivisionError

    telling = Telling()
    with pytest.raises(ZeroDivisionError):
        fails()
    assert [e["text"] for e in telling.events] == ["the storage is slow"]


@pytest.mark.ray
def test_a_process_has_one_cluster(ray_session):
    import ray

    joined = ray.get_runtime_context().gcs_address
    placing.connect(rs.Placement(actors=1, address=joined))
    host, _, port = joined.rpartition(":")
    for other in (f"{host}:1", f"192.0.2.77:{port}"):
        with pytest.raises(rs.ConfigError, match=rf"'{other}', but this process has joined .* {joined}"):
            placing.connect(rs.Placement(actors=1, address=other))
    placing.connect(
        rs.Placement(actors=1, address=f"127.0.0.1:{port}")
    )  # which Ray takes for this machine's own
