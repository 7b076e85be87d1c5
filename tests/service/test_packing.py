"""What goes to the cluster: ids, files, and a command that finds an interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import raysim as rs
from raysim.service import packing

REQUEST = {"id": "x-1", "folder": "/runs/x-1", "resume": False, "overrides": []}


def folder(tmp_path):
    for name in ("data/a.npz", "own.py", ".git/x", "__pycache__/own.pyc", "venv/lib/y", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_an_id_is_the_name_and_what_it_holds(tmp_path):
    code = folder(tmp_path)
    first = packing.identity("my experiment: v2", "rounds: 3", code)
    assert first.startswith("my-experiment-v2-")
    assert len(first) == len("my-experiment-v2-") + 8
    assert packing.identity("my experiment: v2", "rounds: 3", code) == first
    assert packing.identity("my experiment: v2", "rounds: 4", code) != first
    assert packing.identity("my experiment: v2", "rounds: 3", None) != first
    (code / ".hidden").write_text("changed")
    assert packing.identity("my experiment: v2", "rounds: 3", code) == first
    (code / "own.py").write_text("changed")
    assert packing.identity("my experiment: v2", "rounds: 3", code) != first
    assert packing.identity("…", "rounds: 3", None).startswith("run-")


def test_what_goes_along(tmp_path):
    code = folder(tmp_path)
    for name in (
        "experiment.yaml",
        packing.REQUEST,
        "runs/x-1/run.json",
        "runs/x-1/experiment.yaml",
        "runs/x-1/a/b",
    ):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("a job has its own, and a fetched run makes no other experiment")
    assert [f.relative_to(code).as_posix() for f in packing.files(code)] == ["data/a.npz", "own.py"]
    with packing.packed(REQUEST, "rounds: 3", code) as environment:
        there = Path(environment["working_dir"])
        files = {f.relative_to(there).as_posix() for f in there.rglob("*") if f.is_file()}
        assert files == {"data/a.npz", "own.py", "experiment.yaml", packing.REQUEST}
        assert (there / "experiment.yaml").read_text() == "rounds: 3"
        assert [Path(m).name for m in environment["py_modules"]] == ["raysim", "tuning"]
        assert Path(environment["py_modules"][0]) == Path(rs.__file__).parent
        assert environment["env_vars"]["RAYSIM_GROUP"] == "raysim-x-1"
    assert not there.exists()


def test_a_folder_that_is_too_large_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(rs.ConfigError, match="does not exist"):
        packing.files(tmp_path / "nowhere")
    monkeypatch.setattr(packing, "LIMIT", 10)
    with pytest.raises(rs.ConfigError, match=r"at most 0 MB go along.*Leave data sets out"):
        packing.files(folder(tmp_path))


def shell(command, path):
    """As Ray runs it: /bin/sh, whose parent here is no Ray worker."""
    return subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=False
    )


def test_the_command_says_that_there_is_no_python_with_ray(tmp_path):
    python = tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\nexec {sys.base_exec_prefix}/bin/python3 -I -S "$@"\n'
    )  # one without packages
    python.chmod(0o755)
    done = shell(packing.entrypoint("job"), f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (
        2,
        "There is no Python with Ray on this node: start Ray with its environment active.\n",
    )


def test_the_command_finds_the_second_python(tmp_path):
    for name, runs in (("python", f'exec {sys.executable} "$@"'), ("python3", "exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{runs}\n")
        (tmp_path / name).chmod(0o755)
    command = packing.entrypoint("job").replace("-m raysim.service.job", "-c 'print(1)'")
    root = str(Path(rs.__file__).parents[1])
    done = shell(f"PYTHONPATH={root}; export PYTHONPATH; {command}", f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_the_command_joins_the_cluster_that_runs_it(tmp_path):
    """Where a machine has several, Ray may name any of them in RAY_ADDRESS."""
    command = packing.entrypoint("job").replace(
        "-m raysim.service.job", "-c 'import os; print(os.environ[\"RAY_ADDRESS\"])'"
    )
    worker = f"import subprocess; subprocess.run(['/bin/sh', '-c', {command!r}])"
    raylet = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    said = [
        "--gcs-address=10.0.0.1:6379",
        f"--python_worker_command={sys.executable} worker.py --gcs-address=none",
    ]
    done = subprocess.run(
        [sys.executable, "-c", raylet, *said],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "10.0.0.1:6379\n"), done.stderr
