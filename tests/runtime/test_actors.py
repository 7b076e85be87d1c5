"""Clients in actors: the same bits as in this process, whatever happens to the actors."""

import os
import signal

import pytest
import torch

import raysim as rs
from tests.experiments import digits, same

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


def on(actors):
    return rs.Placement(actors=actors, cpus_per_actor=0.5)


@pytest.mark.parametrize("actors", [1, 2, 3])
def test_same_bits_for_any_number_of_actors(actors):
    assert same(digits().run(None), digits(placement=on(actors)).run(None))


@pytest.mark.parametrize("actors", [2, 3])
def test_same_bits_with_kept_rows_that_move_between_actors(actors):
    sim = digits(local=KEPT, rounds=6)
    assert same(sim.run(None), sim.replaced(placement=on(actors)).run(None))


def test_same_bits_where_a_block_holds_everyone_and_an_actor_nothing():
    sim = digits(execution=rs.Execution(block=8))
    assert same(sim.run(None), sim.replaced(placement=on(2)).run(None))


class Killing:
    """A rule during which one client actor is killed, once."""

    def round(self, clients, server):
        if server.round == 3 and not os.path.exists(os.environ["RAYSIM_TEST_MARK"]):
            import ray

            open(os.environ["RAYSIM_TEST_MARK"], "w").close()
            os.kill(ray.get(clients._fleet.actors[1].pid.remote()), signal.SIGKILL)
        return super().round(clients, server)


class KillingAveraging(Killing, rs.rules.Averaging):
    """Averaging."""


class KillingGossip(Killing, rs.rules.Gossip):
    """Gossip."""


class KillingLeader(Killing, rs.rules.Leader):
    """LSGD."""


class KillingScaffold(Killing, rs.rules.Scaffold):
    """SCAFFOLD."""


@pytest.mark.parametrize(
    "rule",
    [KillingGossip(topology=rs.topologies.Ring(), period=3), KillingLeader(groups=3), KillingScaffold()],
    ids=lambda rule: type(rule).__name__,
)
def test_a_killed_actor_costs_own_models_and_control_variates_nothing(tmp_path, monkeypatch, rule):
    from raysim.runtime.coordinator import Coordinator

    monkeypatch.setenv("RAYSIM_TEST_MARK", str(tmp_path / "killed"))
    sim = digits(rounds=5, rule=rule, cohort=None if rule.everyone else 8, checkpoint_every=2)
    (tmp_path / "killed").touch()
    expected = Coordinator(sim, None).run()
    (tmp_path / "killed").unlink()
    (tmp_path / "run").mkdir()
    coordinator = Coordinator(
        sim.replaced(placement=on(2)), tmp_path / "run"
    )  # here: the rule sees the actors
    outcome = coordinator.run()
    assert (tmp_path / "killed").exists()
    assert any(e["kind"] == "warning" and "died" in e["text"] for e in coordinator.events)
    assert torch.equal(outcome.server.x_P, expected.server.x_P)


@pytest.mark.parametrize("local", ["fresh", "kept"])
@pytest.mark.parametrize("checkpoints", [0, 2])
def test_a_killed_actor_is_replaced_and_the_bits_are_the_same(tmp_path, monkeypatch, local, checkpoints):
    from raysim.runtime.coordinator import Coordinator

    monkeypatch.setenv("RAYSIM_TEST_MARK", str(tmp_path / "killed"))
    fields = {"rounds": 5} | ({"local": KEPT} if local == "kept" else {})
    expected = digits(**fields).run(None)
    sim = digits(**fields, rule=KillingAveraging(), placement=on(2), checkpoint_every=checkpoints)
    folder = tmp_path / "run"
    folder.mkdir()
    coordinator = Coordinator(sim, folder)  # in this process, so that the rule sees the actors
    outcome = coordinator.run()
    assert (tmp_path / "killed").exists()
    assert torch.equal(outcome.server.x_P, expected.x_P)
    assert [r["loss"] for r in outcome.rows] == expected.metrics["loss"].tolist()
    assert any(e["kind"] == "warning" and "died" in e["text"] for e in coordinator.events)


def test_an_actor_killed_between_rounds_takes_no_kept_rows_with_it(tmp_path):
    """It dies while the coordinator evaluates: the run goes back to the checkpoint and ends in the same bits."""
    import ray

    from raysim.runtime.coordinator import Coordinator

    expected = digits(local=KEPT, rounds=4).run(None)
    (tmp_path / "run").mkdir()
    sim = digits(local=KEPT, rounds=4, placement=on(2), checkpoint_every=1)
    killed = []

    def watch(event):
        if event["kind"] == "checkpoint" and event["round"] == 2 and not killed:
            killed.append(ray.get(coordinator.fleet.actors[0].pid.remote()))
            os.kill(killed[0], signal.SIGKILL)

    coordinator = Coordinator(sim, tmp_path / "run", watch=watch)
    assert torch.equal(coordinator.run().server.x_P, expected.x_P)
    assert killed


def test_client_error_names_client_round_and_line():
    from tests.runtime.faulty import Faulty

    with pytest.raises(rs.ClientError) as error:
        digits(rule=Faulty(client=7, round_=1), cohort=None, placement=on(2)).run(None)
    text = str(error.value)
    assert "ValueError for client 7 in round 1: no more" in text
    assert 'raise ValueError("no more")' in text
    assert text.count("no more") == 3  # headline, source line, exception: said once


def test_resume_on_another_number_of_actors(tmp_path):
    sim = digits(local=KEPT, rounds=6, checkpoint_every=1)
    expected = sim.run(None)
    sim.replaced(rounds=3, placement=on(3)).run(tmp_path / "run")
    result = rs.resume(tmp_path / "run", sim.replaced(placement=on(2)))
    assert same(expected, result)


def test_too_many_actors_or_gpus_are_refused_with_the_numbers():
    with pytest.raises(rs.ConfigError, match=r"40 CPUs, but the cluster has 4"):
        digits(placement=rs.Placement(actors=40)).run(None)
    with pytest.raises(rs.ConfigError, match=r"1 GPUs, but the cluster has 0: leave gpus_per_actor at 0"):
        digits(placement=rs.Placement(actors=2, gpus_per_actor=0.5)).run(None)


def test_an_address_where_nobody_listens_is_said_at_once(monkeypatch):
    import ray

    from raysim.runtime import placing

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        rs.ConfigError, match=r"No Ray cluster answers at placement\.address '127\.0\.0\.1:1'"
    ):
        placing.connect(rs.Placement(actors=1, address="127.0.0.1:1"))
