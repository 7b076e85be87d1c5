"""What state a run is in: the table of raysim/service/states.py, row by row."""

import pytest

from raysim.service import states
from raysim.service.cluster import Job
from tests.service.fakes import FakeCluster, line

ENDED = {name: {"event": "ended", "status": name} for name in ("finished", "diverged", "stopped")}
ROUND, FAILED_LINE = {"event": "round"}, {"event": "failed", "text": "client 3 failed"}


@pytest.mark.parametrize(
    ("status", "facts", "fields", "state"),
    [
        ("PENDING", {}, {}, "WAITING"),
        ("RUNNING", {}, {}, "WAITING"),
        ("RUNNING", {"event": "waiting"}, {}, "WAITING"),
        ("RUNNING", {"event": "starting"}, {}, "RUNNING"),
        ("RUNNING", ROUND, {}, "RUNNING"),
        ("RUNNING", {"event": "stopping"}, {}, "RUNNING"),
        ("SUCCEEDED", ENDED["finished"], {"code": 0}, "FINISHED"),
        ("SUCCEEDED", {}, {"code": 0}, "FINISHED"),
        ("STOPPED", ENDED["finished"], {}, "FINISHED"),
        ("STOPPED", ENDED["diverged"], {}, "DIVERGED"),
        ("FAILED", ENDED["diverged"], {"code": 3}, "DIVERGED"),
        ("FAILED", {}, {"code": 3}, "DIVERGED"),
        ("STOPPED", ENDED["stopped"], {}, "STOPPED"),
        ("STOPPED", ROUND, {}, "STOPPED"),
        ("STOPPED", {}, {}, "STOPPED"),
        ("FAILED", ENDED["stopped"], {"code": 130}, "STOPPED"),
        ("FAILED", FAILED_LINE, {"code": 1}, "FAILED"),
        ("FAILED", {}, {"code": 2}, "FAILED"),
        ("FAILED", {}, {"error": "RUNTIME_ENV_SETUP_FAILURE"}, "FAILED"),
        ("FAILED", ROUND, {"code": -9}, "LOST"),
        ("FAILED", ROUND, {"code": 137}, "LOST"),
        ("FAILED", ROUND, {"error": "JOB_SUPERVISOR_ACTOR_DIED"}, "LOST"),
        ("FAILED", {"event": "waiting"}, {"code": -9}, "LOST"),
    ],
)
def test_the_table(status, facts, fields, state):
    assert states.state_of(Job("x", status, **fields), facts) == state


@pytest.mark.parametrize(
    ("status", "state"),
    [("running", "LOST"), ("finished", "FINISHED"), ("diverged", "DIVERGED"), ("stopped", "STOPPED")],
)
def test_a_run_that_no_cluster_knows(status, state):
    run = states.stored("s3://bucket/x", {"status": status, "round": 3, "rounds": 9})
    assert (run.state, run.rounds, run.folder) == (state, "3/9", "s3://bucket/x")
    assert bool(run.error) == (state == "LOST")


def test_a_run_is_read_off_its_last_line():
    cluster = FakeCluster()
    job = cluster.put("x", log=line("waiting") + line("round", round=4, rounds=9, loss=0.5, folder="/abs/x"))
    run = states.run_of(cluster, job)
    assert (run.state, run.rounds, run.facts["loss"], run.folder, run.error) == (
        "RUNNING",
        "4/9",
        0.5,
        "/abs/x",
        "",
    )
    job = cluster.put("y")
    run = states.run_of(cluster, job)
    assert (run.state, run.rounds, run.folder) == ("WAITING", "0/9", "/runs/y")


def test_errors():
    cluster = FakeCluster()
    text = line("failed", text="no such file", traceback="Traceback\n  boom\n")
    assert (
        states.run_of(cluster, cluster.put("a", "FAILED", text, code=1)).error
        == "no such file\nTraceback\n  boom"
    )
    killed = states.run_of(
        cluster, cluster.put("b", "FAILED", line("round"), code=-9, message="exit code -9")
    )
    assert killed.error == "Its driver was killed by signal 9."
    gone = states.run_of(cluster, cluster.put("c", "FAILED", message="Job supervisor actor died: node\nmore"))
    assert gone.error == "Job supervisor actor died: node"
    env = cluster.put("d", "FAILED", error="RUNTIME_ENV_SETUP_FAILURE", message="no such package")
    assert states.run_of(cluster, env).error == "no such package"


def test_the_last_line_is_found_behind_what_ray_says_of_a_lost_node():
    cluster = FakeCluster()
    log = cluster.log
    cluster.log = lambda job, lines=-1: "".join(log(job).splitlines(keepends=True)[-lines:])
    job = cluster.put("x", log=line("round", round=4, rounds=9) + "raylet died\n" * 60)
    assert (states.run_of(cluster, job).state, states.run_of(cluster, job).rounds) == ("RUNNING", "4/9")


def test_a_run_is_found_in_its_latest_attempt_or_the_one_that_is_named():
    cluster = FakeCluster()
    assert states.found(cluster, "x-1") is None
    cluster.put("x-1.2", "FAILED", line("round", round=40, rounds=90, checkpoint=30, loss=0.5), code=-9)
    assert states.found(cluster, "x-1").id == "x-1.2"  # resumed here, from another cluster's storage
    cluster.put("x-1", "FAILED", line("round", round=20, rounds=90, checkpoint=10, loss=1.0), code=-9)
    cluster.put("x-1.3", "FAILED", line("waiting", round=None, rounds=None, text="asking"), code=-9)
    latest = states.found(cluster, "x-1")
    assert (latest.id, latest.state, latest.rounds) == ("x-1.3", "LOST", "40/90")
    assert (latest.facts["checkpoint"], latest.facts["loss"], latest.facts["text"]) == (30, 0.5, "asking")
    assert [states.found(cluster, id).facts["round"] for id in ("x-1.1", "x-1.2")] == [20, 40]
    assert states.found(cluster, "x-1.4") is None
    cluster.put("theirs", metadata={})
    assert states.found(cluster, "theirs") is None


def test_attempts_of_a_run():
    cluster = FakeCluster()
    for id in ("x-1", "x-1.10", "x-1.2", "x-1-2", "x-1-2.2"):
        cluster.put(id)
    assert [j.id for j in states.attempts(cluster.jobs(), "x-1")] == ["x-1", "x-1.2", "x-1.10"]
    assert [j.id for j in states.attempts(cluster.jobs(), "x-1-2")] == ["x-1-2", "x-1-2.2"]
    assert states.base_of("x-1.v2") == "x-1.v2"
