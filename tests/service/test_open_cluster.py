"""A head node without authentication; what fails there, and what a lost head leaves to the next."""

import pytest

import raysim as rs
from raysim.service import connection, states
from tests.experiments import digits, same
from tests.service.heads import head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_failing_run_and_a_head_that_is_lost(laptop, cluster, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    fields = {
        "rounds": 1_000_000,  # never to be ended by itself
        "evaluate_every": 500,
        "checkpoint_every": 20,
    }
    sim = digits(**fields)
    (tmp_path / "long.yaml").write_text(sim.to_yaml())
    storage = f"file://{tmp_path}/shared"
    with head(authenticated=False) as first:
        assert connection.headers(first.address) == {}
        monkeypatch.setenv("RAYSIM_ADDRESS", first.address)
        too_large = laptop("submit", "long.yaml", "placement.actors=3").strip()
        assert "cluster has 2" in laptop.until(too_large, states.FAILED).error
        assert "go on" in laptop("status", too_large)
        id = laptop("submit", "long.yaml", "--storage", storage).strip()
        laptop.until(id, states.RUNNING, seen=lambda run: run.facts.get("checkpoint"))
    assert "Nothing answers" in laptop("runs", code=2)
    assert f"state       {states.LOST}" in laptop("status", f"{storage}/{id}")
    monkeypatch.setenv("RAYSIM_ADDRESS", cluster.address)  # another head, which asks for a token
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.home / "token"))
    assert f"knows no run {id}" in laptop("submit", "--resume", id, code=2)
    failed = laptop("submit", "long.yaml", "--storage", storage, "--watch", code=2)
    assert "holds a run already, of a cluster that is gone" in failed
    kept = [int(f.name) for f in (tmp_path / "shared" / id / "checkpoints").iterdir() if f.name.isdigit()]
    rounds = max(kept) + 10
    resumed = laptop("submit", "--resume", f"{storage}/{id}", f"rounds={rounds}").strip()
    assert resumed == f"{id}.2"
    laptop.until(resumed, states.FINISHED)
    assert laptop("fetch", f"{storage}/{id}", "--to", "here", "--checkpoints") == "here\n"
    assert same(rs.Result.read("here"), sim.replaced(rounds=rounds, checkpoint_every=0).run(None))
