"""The doctor finds what is there, and what it would say of worse machines."""

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from raysim import doctor

Usage = namedtuple("Usage", "total used free")


def test_this_machine_can_run_raysim():
    findings = [doctor.asked(check) for check in doctor.CHECKS]
    assert [f.name for f in findings if f.level == "problem"] == []
    assert all(f.what for f in findings)
    assert all(f.advice for f in findings if f.level != "ok")


def test_another_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    assert doctor.python().level == "problem"


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    finding = doctor.threads()
    assert finding.level == "warning"
    assert "at most 2" in finding.advice


def test_a_driver_without_cuda_build(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    finding = doctor.gpus()
    assert finding.level == "warning"
    assert "CUDA build" in finding.advice


def test_a_small_shared_memory_and_a_full_disk(monkeypatch):
    monkeypatch.setattr(doctor, "_SHM", Path())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64e6, 0, 64e6))
    assert "--shm-size" in doctor.shared_memory().advice
    assert doctor.disk().level == "warning"


def test_no_compiler(monkeypatch):
    monkeypatch.setattr("raysim.core.execution.has_compiler", lambda: False)
    assert "g++" in doctor.compiler().advice


def test_torchvision_that_does_not_fit(monkeypatch):
    def fails():
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("raysim.core.vision.datasets", fails)
    assert doctor.torchvision().level == "warning"


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
    monkeypatch.setattr(doctor, "_PROBE", probe)
    monkeypatch.setattr(doctor, "_START", 1 if "sleep" in probe else 30)
    finding = doctor.ray_runs()
    assert finding.level == "problem"
    assert said in finding.what
    assert "actors: 0" in finding.advice


def test_a_cluster_that_answers(monkeypatch):
    check = 'import sys; assert sys.argv[1] == "10.0.0.1:6379"; '
    probe = check + """print('FOUND{"nodes": 2, "CPU": 8.0, "GPU": 1}')"""
    monkeypatch.setattr(doctor, "_PROBE", probe)
    finding = doctor.ray_runs("10.0.0.1:6379")
    assert finding == doctor.Finding("ok", "ray at 10.0.0.1:6379", "yes: 2 nodes, 8 CPUs, 1 GPUs")


def test_a_missing_token_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_PROBE", "raise SystemExit('AuthenticationError: invalid token')")
    assert "RAY_AUTH_MODE=token" in doctor.ray_runs("auto").advice


@pytest.mark.ray
def test_ray_starts_here():
    finding = doctor.ray_runs()
    assert finding.level == "ok"
    assert "1 node, 1 CPU" in finding.what
