"""Before Ray starts: what this machine has not got, and a Ray that does not start."""

import os

import pytest
import ray

import raysim as rs
import tuning
from raysim.runtime import placing
from tests.tuning.parts import tiny

LR = "local.optimizer.lr"


@pytest.fixture
def bare(monkeypatch):
    """A machine with two CPUs on which Ray would not start, as a function of how."""

    def connected(place):
        raise bare.error

    bare = type("Bare", (), {"error": AssertionError("Ray was started")})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(placing, "connect", connected)
    return bare


def test_too_many_actors_are_refused_before_ray_is_told_that_there_is_room(bare):
    said = r"needs 64 CPUs \(64 actors with cpus_per_actor=1\), but this machine has 2. Use fewer actors"
    with pytest.raises(rs.ConfigError, match=said):
        tuning.sweep(tiny(placement=rs.Placement(actors=64)), {LR: [0.1, 0.2]}, folder=None)


@pytest.mark.parametrize("error", [TimeoutError("no answer\nin 30 s"), RuntimeError("no answer in 30 s")])
def test_a_ray_that_does_not_start(bare, error):
    bare.error = error
    with pytest.raises(rs.ConfigError, match=r"Ray does not start \(no answer in 30 s\). See: raysim doctor"):
        tuning.sweep(tiny(placement=rs.Placement(actors=2)), {LR: [0.1, 0.2]}, folder=None)
