"""The job itself: without torch while it waits, clear when it refuses, brief in its log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import raysim as rs
from raysim.core.host import ClientError
from raysim.runtime.claim import Superseded
from raysim.service import job
from tests.experiments import digits


def run(code, folder):
    """Python in a folder of its own, as a job is."""
    environment = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_job_waits_without_torch(tmp_path):
    code = """import sys
import raysim.service.job, raysim.service.handing
from raysim.runtime import capacity, placing, storage
from raysim.core.placement import Placement
print(*sorted({"torch", "pandas", "sklearn", "matplotlib"} & set(sys.modules)))
"""
    assert run(code, tmp_path) == []


@pytest.fixture
def request_for(tmp_path, monkeypatch):
    """Writes the request of a job into the current folder; returns it."""
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")

    def write(text=None, resume=False, overrides=(), folder=None):
        request = {
            "id": "x-1",
            "folder": folder or str(tmp_path / "run"),
            "resume": resume,
            "overrides": list(overrides),
        }
        Path(job.REQUEST).write_text(json.dumps(request))
        if text is not None:
            Path("experiment.yaml").write_text(text)
        return request

    return write


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_where_clients_are_to_live_is_read_without_the_rest(request_for, tmp_path):
    sim = digits(placement=rs.Placement(actors=3, gpus_per_actor=0.25, wait=5.0))
    request = request_for(sim.to_yaml())
    assert job._begun(request, request["folder"]) == sim.placement
    request = request_for(sim.to_yaml(), overrides=["placement.actors=1", "rounds=9"])
    assert job._begun(request, request["folder"]) == rs.Placement(actors=1, gpus_per_actor=0.25, wait=5.0)
    request = request_for(sim.to_yaml(), overrides=["placement={actors: 2}"])
    assert job._begun(request, request["folder"]) == rs.Placement(actors=2)
    request = request_for(sim.to_yaml(), overrides=["placement.actor=1"])
    with pytest.raises(rs.ConfigError, match=r"placement: .*'actor'.*raysim describe Placement"):
        job._begun(request, request["folder"])
    request = request_for("rounds: 3")
    assert job._begun(request, request["folder"]) == rs.Placement()


def test_a_resumed_run_has_its_folders_experiment(request_for, tmp_path):
    digits(rounds=1, name="theirs").run(tmp_path / "run")
    request = request_for("name: ours", resume=True)
    assert "name: theirs" in job._text(request, request["folder"])
    request = request_for("name: ours", resume=True, folder=f"file://{tmp_path}/nowhere")
    assert job._text(request, request["folder"]) == "name: ours"


def test_what_cannot_begin_is_said_at_once(request_for, tmp_path, capsys):
    digits(rounds=1).run(tmp_path / "run")
    request_for(digits().to_yaml())
    assert job.main() == 2
    (line,) = said(capsys)
    assert (line["event"], line["error"], line["run"]) == ("failed", "ConfigError", "x-1")
    assert (
        f"holds a run already, of a cluster that is gone. Go on with it: raysim submit --resume {tmp_path}/run"
        in line["text"]
    )
    assert "traceback" not in line
    Path("experiment.yaml").unlink()
    request_for(resume=True, folder=str(tmp_path / "nowhere"))
    assert job.main() == 2
    assert "nowhere is not a run's folder: it has no experiment.yaml" in said(capsys)[0]["text"]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_storage_that_refuses_is_said_before_a_run_waits(request_for, capsys, scheme, tmp_path):
    (tmp_path / "file").write_text("in the way")
    request_for(digits().to_yaml(), folder=f"{scheme}{tmp_path}/file/run")
    assert job.main() == 2
    (line,) = said(capsys)
    assert f"{tmp_path}/file/run cannot be written" in line["text"]
    assert line["error"] == "ConfigError"


def test_a_file_that_did_not_come_along(request_for, capsys):
    request_for()
    for here in (Path.cwd(), "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_12ab"):
        job._failed(rs.ConfigError(f"No file at {here}/data/mine.npz."), job.Log("x"))
        text = said(capsys)[0]["text"]
        assert text.startswith("No file at data/mine.npz. A job finds relative paths in the folder")
    job._failed(rs.ConfigError("No file at /data/mine.npz."), job.Log("x"))
    assert said(capsys)[0]["text"] == "No file at /data/mine.npz."


def test_a_run_whose_run_json_never_arrived_goes_on_from_its_checkpoint(request_for, tmp_path, capsys):
    digits(rounds=2).run(tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    request = request_for(resume=True, overrides=["rounds=3"])
    assert job._run(request, request["folder"], job.Log("x-1")) == "finished"
    assert [line["round"] for line in said(capsys) if line["event"] == "resumed"] == [2]


def test_exit_codes_and_tracebacks(capsys):
    def failed(error):
        try:
            raise error
        except Exception as caught:
            code = job._failed(caught, job.Log("x"))
        return code, said(capsys)[0]

    code, line = failed(ClientError("client 3 failed"))
    assert (code, line["text"], "traceback" in line) == (1, "client 3 failed", False)
    assert failed(rs.ConfigError("no"))[0] == 2
    code, line = failed(Superseded("taken over by process 7"))
    assert (code, line["text"], "traceback" in line) == (2, "taken over by process 7", False)
    code, line = failed(ZeroDivisionError())
    assert (code, line["text"]) == (1, "ZeroDivisionError")
    assert line["traceback"].splitlines()[-1] == "ZeroDivisionError"


def test_lines_are_few_and_each_says_all(capsys):
    log = job.Log("x-1", folder="/runs/x-1", rounds=1000)
    log.watch({"kind": "prepared", "rounds": 1000, "clients": 30})
    for round in range(1, 1001):
        log.watch({"kind": "metrics", "round": round, "loss": 1 / round})
        log.watch({"kind": "round", "round": round, "client_updates": round, "seconds": 0.1})
        log.watch({"kind": "checkpoint", "round": round})
        log.watch({"kind": "warning", "text": "a memory is large"})
    log.watch({"kind": "metrics", "round": 1001, "loss": float("nan")})
    log.watch({"kind": "ended", "status": "diverged", "round": 1001})
    lines = said(capsys)
    assert len(lines) < 30
    assert [line["event"] for line in lines[:4]] == ["prepared", "round", "checkpoint", "warning"]
    assert sum(line["event"] == "warning" for line in lines) == 1
    last = lines[-1]
    assert {k: v for k, v in last.items() if k != "time"} == {
        "run": "x-1", "level": "warning", "event": "ended", "folder": "/runs/x-1", "rounds": 1000, "round": 1001,
        "loss": None, "client_updates": 1000, "seconds": 0.1, "checkpoint": 1000, "status": "diverged",
    }  # fmt: skip
    assert last["time"].endswith("+00:00")
