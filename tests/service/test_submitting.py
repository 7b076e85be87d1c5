"""A run goes to the cluster once; again on purpose; on, where it was lost."""

import json

import pytest

import raysim as rs
from raysim.service import states, submitting
from tests.experiments import arrays, digits
from tests.service.fakes import FakeCluster, line


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def sim():
    return digits(name="digits")


def test_a_run_is_submitted_with_all_it_needs(cluster, sim):
    done = submitting.submit(cluster, sim, "s3://bucket/runs/")
    assert done.id.startswith("digits-")
    assert (done.folder, done.already) == (f"s3://bucket/runs/{done.id}", "")
    sent = cluster.sent[done.id]
    assert rs.Simulation.from_yaml(sent["files"]["experiment.yaml"].decode()) == sim
    assert sent["request"] == {
        "id": done.id,
        "folder": done.folder,
        "resume": False,
        "overrides": [],
        "rounds": 4,
    }
    assert cluster.known[done.id].metadata["raysim"] == rs.__version__
    assert submitting.submit(FakeCluster(), sim).folder == f"~/raysim-runs/{done.id}"


def test_twice_by_accident_is_said(cluster, sim):
    first = submitting.submit(cluster, sim)
    cluster.set(first.id, status="RUNNING", start=1e9)
    cluster.logged[first.id] = line("round")
    second = submitting.submit(cluster, sim)
    assert second.id == first.id
    assert len(cluster.sent) == 1
    assert "It is there already, RUNNING since 2001-09-09" in second.already
    assert f"raysim status {first.id}" in second.already
    assert "another one like it: --again" in second.already
    assert "--resume" not in second.already
    other = submitting.submit(cluster, sim.replaced(seed=1))
    assert (other.already, len(cluster.sent)) == ("", 2)


def test_two_submissions_race_and_one_is_said(cluster, sim):
    id = submitting.submit(FakeCluster(), sim).id
    cluster.before_submit = lambda: cluster.known or cluster.put(id, "PENDING")
    done = submitting.submit(cluster, sim)
    assert cluster.sent == {}
    assert done.already.startswith("It is there already, WAITING")


def test_a_lost_run_is_not_doubled_but_told_how_to_go_on(cluster, sim):
    first = submitting.submit(cluster, sim)
    cluster.set(first.id, status="FAILED", code=-9)
    said = submitting.submit(cluster, sim).already
    assert "LOST" in said
    assert f"go on with it: raysim submit --resume {first.id};" in said


def test_again_is_another_run_with_another_folder(cluster, sim):
    ids = [submitting.submit(cluster, sim, "/runs", again=again) for again in (False, True, True)]
    base = ids[0].id
    assert [d.id for d in ids] == [base, f"{base}-2", f"{base}-3"]
    assert [d.folder for d in ids] == [f"/runs/{base}", f"/runs/{base}-2", f"/runs/{base}-3"]


def test_what_cannot_be_submitted(cluster, sim):
    with pytest.raises(rs.ConfigError, match=r"cannot be submitted: data.* exists in Python only"):
        submitting.submit(
            cluster, sim.replaced(data=arrays(), partition=rs.partitions.IID(clients=5), cohort=2)
        )
    with pytest.raises(rs.ConfigError, match="--storage runs is a relative path"):
        submitting.submit(cluster, sim, "runs")
    submitting.submit(cluster, sim)
    for job in list(cluster.known):
        cluster.set(job, metadata={})
    with pytest.raises(rs.ConfigError, match="A job that is not raysim's has taken the id"):
        submitting.submit(cluster, sim)
    assert len(cluster.sent) == 1


def test_resuming_is_a_new_job_in_the_same_folder(cluster, sim):
    first = submitting.submit(cluster, sim, "/runs")
    cluster.set(first.id, status="FAILED", code=137)
    second = submitting.resume(cluster, first.id, ["placement.actors=2"])
    assert (second.id, second.folder) == (f"{first.id}.2", first.folder)
    sent = cluster.sent[second.id]
    assert sent["request"] == {
        "id": second.id, "folder": first.folder, "resume": True, "overrides": ["placement.actors=2"]
    }  # fmt: skip
    assert sent["files"]["experiment.yaml"] == cluster.sent[first.id]["files"]["experiment.yaml"]
    with pytest.raises(rs.ConfigError, match=rf"{first.id}.2 is WAITING since"):
        submitting.resume(cluster, first.id, [])
    cluster.set(second.id, status="STOPPED")
    assert submitting.resume(cluster, second.id, []).id == f"{first.id}.3"


def test_what_is_not_to_be_resumed(cluster, sim):
    with pytest.raises(rs.ConfigError, match=r"http://fake:8265 knows no run gone-1.*--resume URL"):
        submitting.resume(cluster, "gone-1", [])
    cluster.put("a-1", "SUCCEEDED")
    with pytest.raises(rs.ConfigError, match=r"a-1 has finished all its rounds.*rounds=N"):
        submitting.resume(cluster, "a-1", [])
    assert submitting.resume(cluster, "a-1", ["rounds=20"]).id == "a-1.2"
    cluster.put("b-1", "FAILED", code=3)
    with pytest.raises(rs.ConfigError, match="b-1 diverged"):
        submitting.resume(cluster, "b-1", [])


def test_a_new_cluster_goes_on_from_storage(cluster):
    done = submitting.resume(cluster, "s3://bucket/runs/digits-1a2b3c4d/", [])
    assert (done.id, done.folder) == ("digits-1a2b3c4d.2", "s3://bucket/runs/digits-1a2b3c4d")
    assert "experiment.yaml" not in cluster.sent[done.id]["files"]
    with pytest.raises(rs.ConfigError, match=r"digits-1a2b3c4d.2 is WAITING"):
        submitting.resume(cluster, "s3://bucket/runs/digits-1a2b3c4d", [])
    cluster.set(done.id, status="FAILED")
    assert submitting.resume(cluster, "/runs/digits-1a2b3c4d", []).id == "digits-1a2b3c4d.3"


def test_folders_of_one_name_are_runs_of_their_own(cluster):
    first = submitting.resume(cluster, "s3://bucket/a/run", [])
    second = submitting.resume(cluster, "s3://bucket/b/run", [])
    assert first.id == "run.2"
    assert second.id.startswith("run-")
    assert second.folder == "s3://bucket/b/run"
    for which in ("s3://bucket/b//run/", second.id):
        with pytest.raises(rs.ConfigError, match=f"{second.id} is WAITING"):
            submitting.resume(cluster, which, [])
    cluster.put("local-1", metadata={"raysim": "1", "folder": "/data/local"})
    with pytest.raises(rs.ConfigError, match="local-1 is WAITING"):
        submitting.resume(cluster, "file:///data/local", [])


def test_what_a_resumed_run_lacks_is_said_before_it_waits(cluster, sim, tmp_path):
    first = submitting.submit(cluster, sim, code=tmp_path)
    cluster.set(first.id, status="STOPPED")
    with pytest.raises(rs.ConfigError, match=f"--resume {first.id} --code FOLDER"):
        submitting.resume(cluster, first.id, [])
    with pytest.raises(rs.ConfigError, match="momentun"):
        submitting.resume(cluster, first.id, ["local.optimizer.momentun=0.5"], tmp_path)
    second = submitting.resume(cluster, first.id, [], tmp_path)
    cluster.set(second.id, status="STOPPED")
    with pytest.raises(rs.ConfigError, match="--code FOLDER"):
        submitting.resume(cluster, first.id, [])


def test_an_experiment_that_no_environment_variable_holds_is_not_kept_with_the_job(cluster, sim, monkeypatch):
    assert cluster.known[submitting.submit(cluster, sim).id].metadata["experiment"] == sim.to_yaml()
    text = "- 1\n" * 24_000  # fewer characters than are kept, and more once they are written as JSON
    assert len(text) < submitting._LARGE < len(json.dumps(text))
    monkeypatch.setattr(rs.Simulation, "to_yaml", lambda self: text)
    assert cluster.known[submitting.submit(cluster, sim).id].metadata["experiment"] == ""


def test_a_resumption_that_races_is_said(cluster):
    cluster.put("a-1", "STOPPED")
    cluster.before_submit = lambda: cluster.put("a-1.2", "RUNNING")
    done = submitting.resume(cluster, "a-1", [])
    assert (done.id, done.already.split(" since")[0]) == ("a-1.2", "It is there already, WAITING")
    assert states.RESUMABLE == ("STOPPED", "FAILED", "LOST")
