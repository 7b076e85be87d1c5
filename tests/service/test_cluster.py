"""Runs on a head node of the tests' own, with a token: submitted, watched, stopped, lost, resumed, fetched, queued."""

import json
import os
import signal

import pytest

import raysim as rs
from raysim.service import states
from raysim.service.cluster import Cluster
from tests.experiments import digits, same

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(autouse=True)
def token(cluster, monkeypatch):
    """The laptop knows address and token, and has no RAY_AUTH_MODE set."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAYSIM_ADDRESS", cluster.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.home / "token"))


def experiment(file, **changes):
    sim = digits(**changes)
    file.write_text(sim.to_yaml())
    return sim


def test_submit_watch_fetch(laptop, tmp_path, cluster):
    sim = experiment(tmp_path / "first.yaml")
    shown = laptop("submit", "first.yaml", "--watch")
    id = shown.split()[0]
    assert id.startswith("first-")
    assert "prepared 30 clients" in shown
    assert "ended: finished" in shown
    assert laptop("submit", "first.yaml") == f"{id}\n"  # there already: said, not doubled
    assert [job.id for job in Cluster().jobs() if job.id.startswith("first-")] == [id]
    assert f"state       {states.FINISHED}" in laptop("status", id)
    assert id in laptop("runs")
    lines = [json.loads(line) for line in laptop("logs", id, "--json").splitlines()]
    assert {line["run"] for line in lines} == {id}
    assert [line["event"] for line in lines][-1] == "ended"
    assert "round 1/4  loss" in laptop("logs", id, "--follow")
    assert laptop("fetch", id, "--to", "here", "--checkpoints") == "here\n"
    here, whole = rs.Result.read("here"), sim.run(None)
    assert same(here, whole)
    assert laptop("plot", "here", "--out", "p.png") == "p.png\n"
    assert (cluster.runs / id / "run.json").exists()
    assert not list((cluster.home / "session_latest" / "logs").glob("raysim-fetch-*.tar.gz"))


def test_without_the_token_nothing(laptop, monkeypatch, cluster, tmp_path):
    experiment(tmp_path / "other.yaml")
    before = len(Cluster().jobs())
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    for command in (["submit", "other.yaml"], ["runs"], ["logs", "x"], ["stop", "x"], ["fetch", "x"]):
        assert f"The cluster at {cluster.address} asks for a token" in laptop(*command, code=2)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)
    assert "refuses the token from RAY_AUTH_TOKEN" in laptop("submit", "other.yaml", code=2)
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    assert len(Cluster().jobs()) == before


def test_killed_and_stopped_and_resumed_to_the_same_bits(laptop, tmp_path, cluster):
    """kill -9 of the driver, then a stop, then to an end: three jobs, one folder, the bits of a run in one go.

    The run would never end; its last job is told to end soon after where the second was stopped.
    """
    sim = experiment(
        tmp_path / "long.yaml",
        rounds=1_000_000,
        evaluate_every=50,
        checkpoint_every=20,
        placement=rs.Placement(actors=1),
        rule=rs.rules.Averaging(server=rs.optimizers.Adam(lr=0.01)),
    )
    storage = tmp_path / "shared"
    id = laptop("submit", "long.yaml", "--storage", storage).strip()
    laptop.until(id, states.RUNNING, seen=lambda run: run.facts.get("checkpoint"))
    (driver,) = [pid for pid in cluster.pids("raysim.service.job") if _is_of(pid, id)]
    os.kill(driver, signal.SIGKILL)
    lost = laptop.until(id, states.LOST)
    assert lost.error == "Its driver was killed by signal 9."
    assert f"raysim submit --resume {id}" in laptop("status", id)
    assert laptop("submit", "--resume", id, "placement.actors=0") == f"{id}.2\n"
    again = laptop.until(f"{id}.2", states.RUNNING, seen=lambda run: run.facts["event"] == "round")
    assert again.facts["round"] > lost.facts["checkpoint"]
    laptop("stop", id)
    stopped = laptop.until(f"{id}.2", states.STOPPED)
    assert stopped.facts["status"] == "stopped"
    assert stopped.facts["checkpoint"] == stopped.facts["round"] > again.facts["checkpoint"]
    assert json.loads((storage / id / "run.json").read_text())["status"] == "stopped"
    rounds = stopped.facts["round"] + 10
    last = laptop("submit", "--resume", id, "placement.actors=0", f"rounds={rounds}").strip()
    assert last == f"{id}.3"
    laptop.until(f"{id}.3", states.FINISHED)
    whole = sim.replaced(placement=rs.Placement(), rounds=rounds, checkpoint_every=0).run(None)
    assert same(rs.Result.read(storage / id), whole)
    assert "has finished all its rounds" in laptop("submit", "--resume", id, code=2)


def _is_of(pid, id):
    with open(f"/proc/{pid}/environ") as file:
        return f"RAYSIM_GROUP=raysim-{id}\0" in file.read()


def test_ten_at_once_on_two_cores(laptop, tmp_path, cluster):
    """Two of them want both cores at once, the others one: none gets a part and waits for the rest."""
    ids, wide = [], {3: rs.Placement(actors=2), 6: rs.Placement(threads=2)}
    for seed in range(10):
        placement = wide.get(seed, rs.Placement())
        experiment(tmp_path / "ten.yaml", seed=seed, rounds=1, placement=placement)
        ids.append(laptop("submit", "ten.yaml").strip())
    assert len(set(ids)) == 10
    for id in ids:
        laptop.until(id, states.FINISHED)
    folders = [cluster.runs / id for id in ids]
    assert all(json.loads((folder / "run.json").read_text())["status"] == "finished" for folder in folders)
    seeds = [rs.Simulation.from_yaml((folder / "experiment.yaml").read_text()).seed for folder in folders]
    assert seeds == list(range(10))
    assert laptop("runs").count(states.FINISHED) >= 10
