"""The doctor finds what is there, and what it would say of worse machines."""

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from raysim import doctor
from raysim.doctor import machine

Usage = namedtuple("Usage", "total used free")


def test_this_machine_can_run_raysim():
    findings = [doctor.asked(check) for check in machine.CHECKS]
    assert [f.name for f in findings if f.level == "problem"] == []
    assert all(f.what for f in findings)
    assert all(f.advice for f in findings if f.level != "ok")


def test_another_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    assert machine.python().level == "problem"


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr(machine, "_cores", lambda: 2)
    finding = machine.threads()
    assert finding.level == "warning"
    assert "at most 2" in finding.advice


def test_a_driver_without_cuda_build(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    finding = machine.gpus()
    assert finding.level == "warning"
    assert "CUDA build" in finding.advice


def test_a_small_shared_memory_and_a_full_disk(monkeypatch):
    monkeypatch.setattr(machine, "_SHM", Path())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64e6, 0, 64e6))
    assert "--shm-size" in machine.shared_memory().advice
    assert machine.disk().level == "warning"


def test_no_compiler(monkeypatch):
    monkeypatch.setattr("raysim.core.execution.has_compiler", lambda: False)
    assert "g++" in machine.compiler().advice


def test_torchvision_that_does_not_fit(monkeypatch):
    def fails():
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("raysim.core.vision.datasets", fails)
    assert machine.torchvision().level == "warning"


def test_a_check_that_fails_is_a_finding():
    def broken_thing():
        raise OSError("gone")

    finding = doctor.asked(broken_thing)
    assert (finding.level, finding.name) == ("problem", "broken thing")
    assert "gone" in finding.what


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ("import sys; print('boom', file=sys.stderr); sys.exit(3)", "fails: boom"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("raise SystemExit(4)", "exit code 4"),
    ],
)
def test_a_ray_that_does_not_start(monkeypatch, probe, said):
    monkeypatch.setattr(machine, "_PROBE", probe)
    monkeypatch.setattr(machine, "_START", 1 if "sleep" in probe else 30)
    finding = machine.ray_runs()
    assert finding.level == "problem"
    assert said in finding.what
    assert "actors: 0" in finding.advice


@pytest.mark.ray
def test_ray_starts_here():
    finding = machine.ray_runs()
    assert finding.level == "ok"
    assert "1 node, 1 CPU" in finding.what


def test_without_an_address_no_cluster_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(machine, "CHECKS", [])
    monkeypatch.setattr(
        machine, "ray_runs", lambda: asked.append("here") or doctor.Finding("ok", "ray", "yes")
    )
    monkeypatch.setattr(doctor.cluster, "examine", lambda *given: asked.append(given) or [])
    assert [f.what for f in doctor.examine()] == ["yes"]
    assert doctor.examine("10.0.0.1:6379", None, "/runs") == []
    assert asked == ["here", ("10.0.0.1:6379", None, "/runs")]
