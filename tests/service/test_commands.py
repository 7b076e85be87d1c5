"""The commands, on a cluster that only remembers what was asked of it."""

import json
from pathlib import Path

import pytest

import raysim as rs
from raysim.cli import jobs
from raysim.service import connection
from tests.commands import call
from tests.service.fakes import FakeCluster, line

TINY = """
data: Digits
partition: {name: IID, clients: 12}
model: {name: MLP, hidden: [8]}
local: {optimizer: {name: SGD, lr: 0.1}, steps: 2, batch_size: 8}
rounds: 3
"""


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    fake = FakeCluster()
    monkeypatch.setattr(jobs, "_cluster", lambda address: fake)
    for name in connection.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return fake


def test_submit_prints_the_id_and_says_what_is_there(cluster, capsys):
    assert call("submit", "tiny.yaml", "rounds=4") == 0
    first = capsys.readouterr()
    (id,) = cluster.sent
    assert first.out == f"{id}\n"
    assert "checkpoint_every is 0" in first.err
    assert cluster.sent[id]["request"]["rounds"] == 4
    assert call("submit", "tiny.yaml", "rounds=4") == 0
    second = capsys.readouterr()
    assert second.out == f"{id}\n"
    assert second.err.startswith("It is there already, WAITING since")
    assert call("submit", "tiny.yaml", "rounds=4", "checkpoint_every=1", "--again") == 0
    assert capsys.readouterr().err == ""
    assert call("submit", "tiny.yaml", "checkpoint_every=1", "placement.address=head:6379") == 0
    assert (
        "placement.address is not used: the run is on the cluster of http://fake" in capsys.readouterr().err
    )


STUDY = """
study:
  seeds: 2
  variants:
    slow: {local.optimizer.lr: 0.01}
    fast: {local.optimizer.lr: 0.3}
"""


def test_a_study_is_submitted_as_runs_in_one_folder(cluster, tmp_path, capsys):
    Path("two.yaml").write_text(TINY + STUDY)
    root = f"file://{tmp_path}/runs"
    assert call("submit", "two.yaml", "rounds=2", "--storage", root) == 0
    said = capsys.readouterr()
    folders = [sent["request"]["folder"] for sent in cluster.sent.values()]
    assert folders == [f"{root}/two/{run}" for run in ("slow-0", "slow-1", "fast-0", "fast-1")]
    assert said.out.split() == list(cluster.sent)
    assert all(id.startswith(("two-slow-", "two-fast-")) for id in cluster.sent)
    assert "4 runs: raysim runs" in said.err
    assert f"raysim compare two.yaml rounds=2 --ended --folder {root}/two" in said.err
    assert call("submit", "two.yaml", "rounds=2", "--storage", root) == 0
    assert "4 runs, 4 of them there already" in capsys.readouterr().err
    assert len(cluster.sent) == 4
    assert call("submit", "two.yaml", "--watch") == 2
    assert "A study is many runs" in capsys.readouterr().err
    assert call("submit", "two.yaml", "rounds=3") == 0
    assert "on the cluster's head: raysim compare two.yaml rounds=3 --ended --folder ~/raysim-runs/two" in (
        capsys.readouterr().err
    )


def test_what_a_cluster_ran_of_a_study_is_compared_when_it_has_ended(cluster, tmp_path, capsys):
    Path("two.yaml").write_text(TINY + STUDY)
    root = f"file://{tmp_path}/runs"
    assert call("submit", "two.yaml", "rounds=2", "--storage", root) == 0
    compare = ("compare", "two.yaml", "rounds=2", "--ended", "--folder", f"{root}/two")
    assert call(*compare) == 2
    assert "4 of the study's 4 runs in" in capsys.readouterr().err
    for sent in list(cluster.sent.values())[:3]:  # as the cluster does it; the last one waits
        rs.Simulation.from_yaml(sent["files"]["experiment.yaml"].decode()).run(sent["request"]["folder"])
    assert call(*compare) == 0
    said = capsys.readouterr().out
    assert "slow, seed 1: loss" in said
    assert "fast, seed 1: left out: not begun" in said
    assert Path("two.png").exists()
    assert call("compare", "two.yaml", "rounds=3", "--ended", "--folder", f"{root}/two") == 2
    assert "rounds changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit"], "Name an experiment to submit, or a run to go on with"),
        (["submit", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["submit", "tiny.yaml", "local.optimizer.lr=-1"], "SGD.lr must be greater than 0"),
        (["submit", "tiny.yaml", "--storage", "runs"], "is a relative path"),
        (["submit", "tiny.yaml", "--storage", "memory://runs"], "is one process's memory"),
        (
            ["submit", "tiny.yaml", "--storage", "sftp://me:secret@host/runs"],
            "URL of the folder holds a password",
        ),
        (["submit", "--resume", "sftp://me:secret@host/runs/x"], "URL of the folder holds a password"),
        (["submit", "tiny.yaml", "--code", "nowhere"], "The folder nowhere of --code does not exist"),
        (["submit", "--resume", "x", "--again"], "leave out --storage and --again"),
        (["submit", "--resume", "x"], "knows no run x"),
        (["status", "x"], "knows no run x. What it knows: raysim runs"),
        (["logs", "x"], "knows no run x"),
        (["stop", "x"], "knows no run x"),
        (["fetch", "x"], "knows no run x"),
        (["status", "file:///nowhere/x"], "is not a run's folder"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(cluster, capsys, arguments, said):
    assert call(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("raysim: ")
    assert err.count("\n") == 1
    assert cluster.sent == {}


def test_runs_lists_each_run_in_its_latest_attempt(cluster, capsys):
    assert call("runs") == 0
    assert "No run has been submitted to http://fake:8265" in capsys.readouterr().out
    cluster.put("a-1", "FAILED", line("round"), code=-9)
    cluster.put("a-1.2", "RUNNING", line("round", round=5, rounds=9, loss=0.25, folder="/r/a-1"))
    cluster.put("b-1", "PENDING")
    assert call("runs") == 0
    head, *rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert head == ["run", "state", "rounds", "loss", "since", "folder"]
    assert [row[:4] for row in rows] == [
        ["a-1.2", "RUNNING", "5/9", "0.2500"],
        ["b-1", "WAITING", "0/9", "2001-09-09"],
    ]
    cluster.put("c-1", "PENDING", metadata={"raysim": "1", "folder": "s3://bucket/" + "long/" * 40})
    assert call("runs") == 0
    assert capsys.readouterr().out.endswith("long/" * 40 + "\n")  # a run is a line, however long


def test_a_job_that_is_not_raysims_is_let_be(cluster, capsys):
    cluster.put("theirs", metadata={})
    for command in ("stop", "status", "logs", "fetch"):
        assert call(command, "theirs") == 2
        assert "knows no run theirs" in capsys.readouterr().err
    assert cluster.stopped == []


def test_a_run_from_elsewhere_is_known_by_its_own_id_and_logs_are_the_latest(cluster, capsys):
    cluster.put("a-1.2", "RUNNING", line("round", round=5, rounds=9))
    assert call("status", "a-1") == 0
    assert "run         a-1.2\n" in capsys.readouterr().out
    cluster.put("a-1.3", "RUNNING", line("round", round=7, rounds=9))
    for id, round in (("a-1", 7), ("a-1.2", 5)):
        assert call("logs", id) == 0
        assert f"round {round}/9" in capsys.readouterr().out
    assert call("stop", "a-1") == 0
    assert cluster.stopped == ["a-1.3"]


def test_status_by_url_is_the_clusters_where_it_has_the_run(cluster, monkeypatch, capsys):
    metadata = {"raysim": "1", "folder": "file:///nowhere/a-1", "rounds": "9"}
    cluster.put("a-1", "RUNNING", line("round", round=5, rounds=9), metadata=metadata)
    monkeypatch.setenv("RAYSIM_ADDRESS", cluster.address)
    assert call("status", "file:///nowhere/a-1/") == 0
    assert "state       RUNNING since" in capsys.readouterr().out


def test_status_by_url_where_the_cluster_is_gone(cluster, monkeypatch, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"status": "stopped", "round": 3, "rounds": 9}))

    def gone(address):
        raise rs.ConfigError("Nothing answers at http://gone:1.")

    monkeypatch.setattr(jobs, "_cluster", gone)
    monkeypatch.setenv("RAYSIM_ADDRESS", "http://gone:1")
    assert call("status", f"file://{tmp_path}/run") == 0
    told = capsys.readouterr()
    assert "Nothing answers at http://gone:1.\nSo this is what the folder says:" in told.err
    assert "state       STOPPED" in told.out


def test_status_says_what_is_to_be_known(cluster, capsys):
    cluster.put("w-1", "RUNNING", line("waiting", text="waiting for 2 CPU (free: 0 CPUs, 0 GPUs)"))
    assert call("status", "w-1") == 0
    out = capsys.readouterr().out
    assert "state       WAITING since 2001-09-09" in out
    assert "waits       waiting for 2 CPU (free: 0 CPUs, 0 GPUs)" in out
    cluster.put(
        "f-1",
        "FAILED",
        line("failed", text="client 3 failed", traceback="Traceback\n  boom", loss=0.5, accuracy=0.75),
        code=1,
    )
    assert call("status", "f-1") == 0
    out = capsys.readouterr().out
    assert "error       client 3 failed\n            Traceback\n              boom\n" in out
    assert "accuracy    75.0 %" in out
    assert "checkpoint  none: it starts from round 0" in out
    assert "go on       raysim submit --resume f-1\n" in out
    cluster.put("f-1.2", "STOPPED", line("ended", status="stopped", checkpoint=7))
    assert call("status", "f-1") == 0
    out = capsys.readouterr().out
    assert "run         f-1.2\n" in out
    assert "checkpoint  of round 7\n" in out


def test_status_of_a_run_whose_cluster_is_gone(cluster, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"status": "running", "round": 3, "rounds": 9}))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"round": 5, "loss": 0.5}\n')
    assert call("status", f"file://{tmp_path}/run") == 0
    out = capsys.readouterr().out
    assert "state       LOST\n" in out
    assert "rounds      5/9\n" in out  # as its metrics have it; run.json is of the last checkpoint
    assert "it would be taken from the driver that has it" in out
    assert "checkpoint  none: it starts from round 0\n" in out
    assert f"go on       raysim submit --resume file://{tmp_path}/run\n" in out


def test_logs_are_readable_or_raw(cluster, capsys):
    cluster.put("a-1", "RUNNING", line("round", round=5, rounds=9, loss=0.25) + "Killed")
    assert call("logs", "a-1") == 0
    assert [text[10:] for text in capsys.readouterr().out.splitlines()] == ["round 5/9  loss 0.2500", ""]
    assert call("logs", "a-1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["loss"] == 0.25


def test_stop_ends_the_latest_attempt(cluster, capsys):
    cluster.put("a-1", "STOPPED")
    assert call("stop", "a-1") == 2
    assert "a-1 is STOPPED already" in capsys.readouterr().err
    cluster.put("a-1.2", "RUNNING", line("round"))
    assert call("stop", "a-1") == 0
    assert cluster.stopped == ["a-1.2"]
    assert (
        "a-1.2 ends after its round in progress, with a checkpoint (10 minutes at most: then it is killed). Go on with "
        "it: raysim submit --resume a-1" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("status", "log", "code", "exits"),
    [
        ("SUCCEEDED", line("ended", status="finished"), 0, 0),
        ("FAILED", line("failed", text="client 3 failed"), 1, 1),
        ("FAILED", line("failed", text="no GPU"), 2, 2),
        ("FAILED", line("ended", status="diverged"), 3, 3),
        ("STOPPED", line("ended", status="stopped"), None, 130),
        ("FAILED", line("round", round=1), -9, 1),
    ],
)
def test_watch_ends_as_the_run_does(cluster, capsys, status, log, code, exits):
    def follow(id, tell):
        cluster.set(id, status=status, code=code)
        cluster.logged[id] = log
        tell(log)

    cluster.follow = follow
    assert call("submit", "tiny.yaml", "--watch") == exits
    err = capsys.readouterr().err
    assert ("client 3 failed" in err, "killed by signal 9" in err) == (exits == 1 and code == 1, code == -9)
