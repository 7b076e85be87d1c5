"""Storage that refuses: before the run it is said by name, in the middle of it what is intact and where."""

import importlib
import json
import sys

import pytest

import raysim as rs
from raysim.runtime import storage
from raysim.runtime.checkpoint import CheckpointError
from tests.experiments import digits, same
from tests.runtime import moody
from tests.runtime.moody import Moody, refuse

pytestmark = pytest.mark.usefixtures("moody_storage")
URL = "moody://bucket/runs/x"
KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("write", PermissionError("Access Denied"), r"cannot be written: Access Denied.*Let the account"),
        ("write", FileNotFoundError("no bucket"), r"cannot be written: no bucket.*Make the bucket first"),
        ("read", PermissionError("Forbidden"), r"cannot be read: Forbidden.*Let the account"),
        ("delete", PermissionError("Forbidden"), r"cannot be deleted from: Forbidden.*Let the account"),
        (
            "write",
            RuntimeError("name not known"),
            r"cannot be written: name not known \(RuntimeError\).*can be reached",
        ),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_a_storage_that_refuses_is_said_before_the_run(what, error, words, again):
    sim = digits(rounds=2)
    if again:
        sim.replaced(rounds=1).run(URL)
    refuse(error, what, path="/.raysim")
    with pytest.raises(rs.ConfigError, match=rf"moody://bucket/runs/x {words}"):
        rs.resume(URL, sim) if again else sim.run(URL)
    assert ("run.json" in moody.names("bucket/runs/x")) is again


def test_protocols_that_are_unknown_or_not_installed(monkeypatch):
    with pytest.raises(rs.ConfigError, match=r"there is no storage 'nonsense'.*Use s3://"):
        digits().run("nonsense://bucket/x")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(
        rs.ConfigError, match=r"package for s3:// is not installed.*pip install 'raysim\[s3\]'"
    ):
        digits().run("s3://bucket/x")


def test_a_url_that_pathlib_mangled_is_said(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    with pytest.raises(rs.ConfigError, match=r"Give it as text: 's3://bucket/x'"):
        digits().run(Path("s3://bucket/x"))
    assert list(tmp_path.iterdir()) == []


# ---- refusals in the middle ----------------------------------------------------------------------------------


def test_a_checkpoint_refused_in_the_middle_says_what_is_intact_where(tmp_path):
    sim = digits(rounds=6, checkpoint_every=1, local=KEPT)
    refuse(PermissionError("the key was revoked"), path="000003/server")
    with pytest.raises(
        CheckpointError, match=r"round 3 could not be written to moody://.*the key was revoked"
    ) as e:
        sim.run(URL)
    [working] = [f for f in tmp_path.iterdir() if f.is_dir()]
    assert f"intact in {working}" in str(e.value)
    assert "that of round 2 is" in str(e.value)
    assert f"raysim resume {URL}" in str(e.value)
    Moody.refuse = staticmethod(lambda what, path: None)
    expected = sim.run(None)
    assert same(expected, rs.resume(working))
    assert same(expected, rs.resume(URL))


def test_errors_that_pass_are_tried_again():
    sim = digits(rounds=4, checkpoint_every=1)
    times = []

    def every_second(what, path):
        if what == "delete":  # of a folder, asked for file by file
            return None
        times.append(path)
        return OSError("connection reset") if len(times) % 2 else None

    Moody.refuse = staticmethod(every_second)
    assert same(sim.run(None), sim.run(URL))
    Moody.refuse = staticmethod(lambda what, path: None)
    assert same(sim.run(None), rs.Result.read(URL))


@pytest.mark.filterwarnings("default")
def test_metrics_that_are_refused_are_a_warning_and_the_run_goes_on(tmp_path, monkeypatch):
    from raysim.runtime import mirror

    monkeypatch.setattr(mirror, "PAUSE", 0.0)
    sim = digits(rounds=4)
    refuse(OSError("slow down"), path="metrics.", after=2)
    with (
        pytest.warns(
            UserWarning, match=r"refuses metrics.jsonl: slow down \(OSError\)\. The run goes on"
        ) as told,
        pytest.raises(CheckpointError, match="round 4 could not"),  # the last one cannot do without
    ):
        sim.run(URL)
    assert sum("metrics.jsonl" in str(w.message) for w in told) == 1  # said once
    [working] = [f for f in tmp_path.iterdir() if f.is_dir()]
    assert len((working / "metrics.jsonl").read_text().splitlines()) == 5


def test_metrics_that_were_refused_for_a_while_arrive(tmp_path, monkeypatch):
    from raysim.runtime import mirror

    monkeypatch.setattr(mirror, "PAUSE", 0.0)
    times = []

    def some(what, path):
        times.extend([path] * ("metrics.jsonl" in path and what == "write"))
        return OSError("slow down") if "metrics.jsonl" in path and 1 < len(times) < 4 else None

    Moody.refuse = staticmethod(some)
    with pytest.warns(UserWarning, match="refuses metrics.jsonl"):
        result = digits(rounds=6).run(URL)
    assert len(storage.text(URL, "metrics.jsonl").splitlines()) == len(result.metrics) == 7
    assert list(tmp_path.iterdir()) == []


def test_slow_uploads_of_metrics_take_a_small_part_of_the_time(monkeypatch):
    """With a clock of the test's own: an upload takes 2 s, a round 1 s."""
    from raysim.runtime import mirror

    clock = [100.0]
    monkeypatch.setattr(mirror.time, "monotonic", lambda: clock[0])
    here = mirror.Mirror(URL)
    (here.path / "metrics.jsonl").write_text("{}\n")
    uploads = []

    def slow(what, path):
        uploads.append(clock[0])
        clock[0] += 2.0

    Moody.refuse = staticmethod(slow)
    for _ in range(100):
        clock[0] += 1.0
        here.metrics()
    assert 4 <= len(uploads) <= 6
    assert "metrics.jsonl" in here.behind
    here.close()
    assert not here.path.exists()


def test_an_old_checkpoint_that_may_not_be_deleted_is_a_word_and_no_more():
    refuse(PermissionError("retention"), "delete", path="000001")
    with pytest.warns(
        UserWarning, match=r"Old checkpoints at moody://bucket/runs/x cannot be deleted: retention"
    ):
        digits(rounds=3, checkpoint_every=1).run(URL)
    assert rs.Result.read(URL).status == "finished"


def test_the_end_that_cannot_be_noted_is_told_and_resumable(tmp_path):
    sim = digits(rounds=2)
    refuse(PermissionError("no"), path="run.json", after=1)
    with pytest.warns(UserWarning, match=r"refuses run\.json"):
        expected = sim.run(URL)
    Moody.refuse = staticmethod(lambda what, path: None)
    assert json.loads(storage.text(URL, "run.json"))["status"] == "running"
    assert same(expected, rs.resume(URL))
    assert json.loads(storage.text(URL, "run.json"))["status"] == "finished"


def test_a_run_whose_first_word_was_refused_is_resumed_from_its_checkpoint():
    sim = digits(rounds=4, checkpoint_every=1)
    refuse(PermissionError("no"), path="run.json")
    with pytest.warns(UserWarning, match=r"refuses run\.json"):
        sim.run(URL)
    Moody.refuse = staticmethod(lambda what, path: None)
    assert "run.json" not in moody.names("bucket/runs/x")
    with pytest.raises(rs.ConfigError, match=r"holds a run already.*raysim resume moody"):
        sim.run(URL)
    Moody.seen.clear()
    assert same(sim.run(None), rs.resume(URL))
    assert ("read", "/bucket/runs/x/checkpoints/000004/server.safetensors") in Moody.seen
