"""Two processes at one run folder: the one that came first notices, stops and says who took over; nothing is mixed."""

import json
import os
from pathlib import Path

import fsspec
import pytest

import raysim as rs
from raysim.runtime import mirror, storage
from raysim.runtime.checkpoint import CheckpointError
from raysim.runtime.claim import FILE, Claim, Superseded
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.folder import begin
from tests.experiments import digits, same
from tests.runtime import moody
from tests.runtime.moody import Moody, refuse

pytestmark = pytest.mark.usefixtures("moody_storage")
URL = "moody://bucket/runs/x"
KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)
TAKEN = r"was taken over by process \d+ on .* at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC.*raysim resume "


@pytest.fixture(params=["path", "file", "moody"])
def place(request, tmp_path):
    """A folder on a disk, behind a URL with files that grow, and in an object store."""
    return {"path": tmp_path / "run", "file": f"file://{tmp_path}/there", "moody": URL}[request.param]


@pytest.fixture
def slow(monkeypatch):
    """As if so much time passed between two files that it is to be asked again whose the folder is."""
    monkeypatch.setattr(mirror, "OURS", 0.0)


def contents(place):
    """Every file there and its bytes."""
    if place == URL:
        return {name: bytes(file.getvalue()) for name, file in Moody.store.items()}
    root = Path(str(place).removeprefix("file://"))
    return {str(f): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def interrupted_by(act, event, round, sim, place, resume=False):
    """A coordinator during which something else happens once, at an event of a round."""
    done = []

    def watch(told):
        if told["kind"] == event and told.get("round", round) == round and not done:
            done.append(True)
            act()

    return Coordinator(sim, place, resume, watch)


def test_a_run_that_is_resumed_elsewhere_stops_and_writes_no_more(place, slow):
    sim, left = digits(rounds=6, checkpoint_every=2, local=KEPT), {}

    def elsewhere():
        assert same(sim.run(None), rs.resume(place))
        left.update(contents(place))

    begin(place, sim.to_yaml())
    with pytest.raises(Superseded, match=f"{TAKEN}{place}") as error:
        interrupted_by(elsewhere, "checkpoint", 2, sim, place).run()
    assert f"process {os.getpid()} on {os.uname().nodename}" in str(error.value)
    assert contents(place) == left
    assert same(sim.run(None), rs.Result.read(place))


def test_a_run_that_begins_where_another_prepares_itself_has_the_folder(place):
    """Neither has written run.json when the other looks."""
    sim, left = digits(rounds=2), {}

    def elsewhere():
        sim.run(place)
        left.update(contents(place))

    begin(place, sim.to_yaml())
    with pytest.raises(Superseded, match=TAKEN):
        interrupted_by(elsewhere, "prepared", None, sim, place).run()
    assert contents(place) == left


def test_no_working_folder_of_a_run_that_was_taken_over_stays(tmp_path):
    sim = digits(rounds=4, checkpoint_every=2)
    begin(URL, sim.to_yaml())
    with pytest.raises(Superseded):
        interrupted_by(lambda: rs.resume(URL), "checkpoint", 2, sim, URL).run()
    assert list(tmp_path.iterdir()) == []


def test_it_costs_one_small_read_per_checkpoint():
    digits(rounds=5, checkpoint_every=1).run(URL)
    looks = [path for what, path in Moody.seen if what == "read" and path.endswith(FILE)]
    assert len(looks) == 5 + 2  # and when the run begins and ends


def test_between_checkpoints_it_is_noticed_too(slow):
    sim = digits(rounds=6)
    begin(URL, sim.to_yaml())
    told = []
    coordinator = interrupted_by(Claim(URL, storage.Storage(URL)).take, "round", 2, sim, URL)
    coordinator.watch = lambda event, watch=coordinator.watch: (told.append(event), watch(event))
    with pytest.raises(Superseded):
        coordinator.run()
    assert max(event.get("round", 0) for event in told) == 2  # not at the end, where the only checkpoint is


def test_a_take_over_while_files_are_on_their_way_leaves_no_manifest(slow):
    sim = digits(rounds=4, checkpoint_every=2, local=KEPT)
    times = []

    def elsewhere(what, path):
        if what == "write" and path.endswith("000002/rows-0.safetensors"):
            times.append(path)
            Claim(URL, storage.Storage(URL)).take()

    Moody.refuse = staticmethod(elsewhere)
    with pytest.raises(Superseded):
        sim.run(URL)
    assert len(times) == 1
    assert "checkpoints/000002/manifest.json" not in moody.names("bucket/runs/x")
    Moody.refuse = staticmethod(lambda what, path: None)
    assert same(sim.run(None), rs.resume(URL))


def test_a_checkpoint_is_not_written_where_nobody_can_see_whose_it_would_be():
    refuse(PermissionError("no"), "read", path=FILE, after=2)
    with pytest.raises(
        CheckpointError, match=r"round 2 could not be written to moody://.*that of round 1 is"
    ):
        digits(rounds=3, checkpoint_every=1).run(URL)


def test_an_owner_that_was_tidied_away_is_written_again(tmp_path):
    sim = digits(rounds=3)
    begin(tmp_path, sim.to_yaml())
    interrupted_by((tmp_path / FILE).unlink, "round", 1, sim, tmp_path).run()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_an_owner_that_cannot_be_read_is_another(tmp_path):
    sim = digits(rounds=3)
    begin(tmp_path, sim.to_yaml())
    with pytest.raises(Superseded, match=r"by process \? on another machine at a time it does not say"):
        interrupted_by(lambda: (tmp_path / FILE).write_text('{"tok'), "round", 1, sim, tmp_path).run()


def test_who_takes_over_clears_away_what_was_half_written(tmp_path):
    sim, run = digits(rounds=2), tmp_path / "run"
    sim.run(run)
    for rounds, place in ((3, run), (4, f"file://{run}")):
        (run / "checkpoints" / "000009.ab.tmp").mkdir()
        (run / "checkpoints" / "000009.ab.tmp" / "server.safetensors").touch()
        (run / "run.json.ab.tmp").touch()
        rs.resume(place, sim.replaced(rounds=rounds))
        assert not list(run.rglob("*.tmp"))


def test_a_storage_that_does_not_take_the_claim_is_said():
    digits(rounds=1).run(URL)
    refuse(PermissionError("locked"), path=FILE)
    with pytest.raises(rs.ConfigError, match=r"moody://bucket/runs/x cannot be written: locked"):
        rs.resume(URL, digits(rounds=2))
    assert fsspec.filesystem("moody").exists(f"/bucket/runs/x/{FILE}")
