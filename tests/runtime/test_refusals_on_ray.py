"""Storage that refuses in the middle of a run in other processes: it is said what is left, and that is gone on from."""

import re
import shutil
from pathlib import Path

import pytest

import raysim as rs
from raysim.runtime.checkpoint import CheckpointError
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.drive import drive
from raysim.runtime.folder import begin
from tests.experiments import digits, same
from tests.runtime import refusing

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]
KEPT = rs.Local(optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=True)


def experiment(**rule):
    placement = rs.Placement(actors=1, cpus_per_actor=0.5)
    return digits(
        rounds=5, checkpoint_every=1, local=KEPT, rule=refusing.Averaging(**rule), placement=placement
    )


def test_a_bucket_that_refuses_a_checkpoint_of_a_coordinator_actor(tmp_path):
    sim = experiment()
    here = sim.replaced(placement=rs.Placement())
    url, refuse = f"refusing://{tmp_path}/runs/x", tmp_path / "refuse"
    refuse.write_text("checkpoints/000003")
    with pytest.raises(
        CheckpointError, match=r"round 3 could not be written to refusing://.*key was revoked"
    ) as e:
        drive(sim, url)
    assert "that of round 2 is" in str(e.value)
    assert f"raysim resume {url}" in str(e.value)
    working = Path(re.search(r"It is intact in (\S+) on ", str(e.value))[1])
    refuse.unlink()
    expected = here.run(None)
    try:
        assert same(expected, rs.resume(working, here))
        assert same(expected, rs.resume(url, here))
    finally:
        shutil.rmtree(working)


def test_a_disk_that_has_no_room_for_what_clients_keep(tmp_path):
    """The clients' rows are written by their own actors."""
    full, folder = tmp_path / "full", tmp_path / "run"
    full.touch()
    sim = experiment(full=str(full))
    begin(folder, "# Not complete")
    with pytest.raises(
        CheckpointError, match=r"round 3 could not be written.*No space left.*round 2 is intact\. Make room"
    ):
        Coordinator(sim, folder).run()
    assert not list(folder.rglob("*.tmp"))
    full.unlink()
    here = sim.replaced(placement=rs.Placement())
    assert same(here.run(None), rs.resume(folder, here))
