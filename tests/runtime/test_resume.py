"""Resuming: kill -9 at any round, then resume, ends in the same bits; disks that refuse; runs that diverge."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import raysim as rs
from raysim.runtime.checkpoint import CheckpointError
from tests.experiments import digits, same

KEPT = rs.Local(optimizer=rs.optimizers.Adam(lr=0.01), epochs=1, batch_size=8, keep_state=True)


def test_stop_and_resume_equals_one_run(tmp_path):
    sim = digits(rounds=6, rule=rs.rules.Averaging(server=rs.optimizers.Adam(lr=0.01)), local=KEPT)
    expected = sim.run(tmp_path / "whole")
    sim.replaced(rounds=2).run(tmp_path / "run")
    result = rs.resume(tmp_path / "run", sim)
    assert same(expected, result)
    lines = [(tmp_path / d / "metrics.jsonl").read_text().splitlines() for d in ("whole", "run")]
    without = lambda line: {k: v for k, v in json.loads(line).items() if k != "seconds"}
    assert [without(a) for a in lines[0]] == [without(b) for b in lines[1]]


GOSSIP = {"rule": rs.rules.Gossip(topology=rs.topologies.Ring(), period=3), "cohort": None}
SCAFFOLD = {
    "rule": rs.rules.Scaffold(),
    "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.05), steps=3, batch_size=8),
}


DRIVERS = """
import json, os, sys
import raysim as rs
for line in sys.stdin:
    file, folder = json.loads(line)
    simulation = rs.Simulation.from_yaml(open(file).read())
    simulation.load()  # imports what that needs
    pid = os.fork()
    if pid == 0:
        simulation.run(folder)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def drivers():
    """Starts drivers, each a process of its own: forked from one that has imported all that they need."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", DRIVERS], **pipes) as process:
        yield process


@pytest.mark.parametrize(("after", "fields"), [(0, {}), (1, {}), (3, {}), (3, GOSSIP), (5, SCAFFOLD)])
def test_kill_nine_and_resume_ends_in_the_same_bits(tmp_path, drivers, after, fields):
    """The driver is killed as soon as metrics of round ``after`` are on the disk."""
    sim = digits(**{"rounds": 40, "local": KEPT, "checkpoint_every": 2} | fields)
    (tmp_path / "experiment.yaml").write_text(sim.to_yaml())
    folder = tmp_path / "run"
    drivers.stdin.write(json.dumps([str(tmp_path / "experiment.yaml"), str(folder)]) + "\n")
    drivers.stdin.flush()
    pid = int(drivers.stdout.readline())
    metrics, deadline = folder / "metrics.jsonl", time.time() + 120
    while time.time() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > after):
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert int(drivers.stdout.readline()) == -signal.SIGKILL
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert same(sim.run(None), rs.resume(folder))


def test_a_line_cut_short_is_dropped(tmp_path):
    from raysim.runtime.folder import read_metrics

    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "loss": 1.0}\n{"round": 1, "lo')
    assert [r["round"] for r in read_metrics(tmp_path)] == [0]


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    from raysim.runtime import checkpoint

    calls = []

    def full(tensors, file):
        calls.append(file)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(tensors, file)

    real = checkpoint.save_tensors
    monkeypatch.setattr(checkpoint, "save_tensors", full)
    sim = digits(rounds=4, checkpoint_every=1)
    with pytest.raises(
        CheckpointError, match=r"round 2 could not be written.*No space left.*round 1 is intact"
    ) as error:
        sim.run(tmp_path / "run")
    assert "raysim resume" in str(error.value)
    monkeypatch.setattr(checkpoint, "save_tensors", real)
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))
    assert same(sim.run(None), rs.resume(tmp_path / "run"))


def test_divergence_keeps_what_there_is(tmp_path):
    sim = digits(
        data=rs.data.Quadratic(clients=4, dimension=3, examples=6),
        partition=rs.partitions.ByGroup(),
        model=rs.models.Linear(bias=False),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=1e6), steps=3),
        cohort=None,
        rounds=50,
    )
    result = sim.run(tmp_path / "run")
    assert result.status == "diverged"
    assert 1 <= len(result.metrics) < 50
    assert (tmp_path / "run" / "metrics.parquet").exists()
    assert result.metrics["loss"].isna().iloc[-1]
    assert result.x_P.isfinite().all()
    with pytest.raises(rs.ConfigError, match="diverged after round"):
        rs.resume(tmp_path / "run")


def test_nothing_to_resume(tmp_path):
    digits(rounds=1).run(tmp_path / "run")
    with pytest.raises(rs.ConfigError, match="has finished all its 1 rounds"):
        rs.resume(tmp_path / "run")
    with pytest.raises(rs.ConfigError, match="not a run's folder: it does not exist"):
        rs.resume(tmp_path / "none")
    with pytest.raises(rs.ConfigError, match="holds a run already"):
        digits(rounds=1).run(tmp_path / "run")


def test_form_and_block_are_kept_on_resume(tmp_path):
    sim = digits(rounds=2, execution=rs.Execution(form="loop", block=5))
    sim.run(tmp_path / "run")
    rs.resume(tmp_path / "run", sim.replaced(rounds=3, execution=rs.Execution()))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["form"], facts["block"]) == ("loop", 5)


def test_what_only_python_has_runs_and_resumes_from_python(tmp_path):
    from tests.experiments import arrays

    sim = digits(data=arrays(), partition=rs.partitions.IID(clients=5), cohort=2, rounds=2)
    sim.run(tmp_path / "run")
    with pytest.raises(rs.ConfigError, match="not complete"):
        rs.resume(tmp_path / "run", None) if False else _unfinished(tmp_path / "run")
    assert same(sim.replaced(rounds=4).run(None), rs.resume(tmp_path / "run", sim.replaced(rounds=4)))


def _unfinished(folder):
    status = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(status | {"status": "running"}))
    rs.resume(folder)


def test_reading_a_result_back(tmp_path):
    import torch

    result = digits(rounds=2).run(tmp_path / "run")
    back = rs.Result.read(tmp_path / "run")
    assert torch.equal(result.x_P, back.x_P)
    weights = [p.reshape(-1) for p in back.model().parameters()]
    assert torch.equal(torch.cat(weights), result.x_P)
    assert (tmp_path / "run" / "figures" / "learning_curve.png").stat().st_size > 1000


# ---- checkpoints and folders ---------------------------------------------------------------------------------


def test_a_million_rounds_come_after_the_rounds_before(tmp_path):
    import torch

    from raysim.core.server import Server
    from raysim.runtime import checkpoint

    for round in (999_998, 999_999, 1_000_000):
        checkpoint.save(tmp_path, Server(torch.zeros(3), round), lambda folder: 0, {})
    assert checkpoint.latest(tmp_path).manifest["round"] == 1_000_000
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["1000000", "999999"]


def test_a_checkpoint_that_lost_a_part_is_not_the_latest(tmp_path):
    sim = digits(rounds=4, checkpoint_every=1, local=KEPT)
    sim.run(tmp_path / "run")
    (tmp_path / "run/checkpoints/000004/rows-0.safetensors").write_bytes(b"")
    assert same(sim.replaced(rounds=6).run(None), rs.resume(tmp_path / "run", sim.replaced(rounds=6)))


def test_a_run_cut_off_before_its_first_word_is_resumed(tmp_path):
    from raysim.runtime.folder import begin

    sim = digits(rounds=2)
    begin(tmp_path / "run", sim.to_yaml())
    assert same(sim.run(None), rs.resume(tmp_path / "run"))
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(rs.ConfigError, match="holds a run already"):  # its checkpoint is of use
        sim.run(tmp_path / "run")
    assert same(sim.replaced(rounds=3).run(None), rs.resume(tmp_path / "run", sim.replaced(rounds=3)))


def test_a_full_disk_between_checkpoints_says_what_is_left(tmp_path):
    """A line of metrics finds no room."""
    from raysim.runtime.coordinator import Coordinator
    from raysim.runtime.folder import begin

    sim, metrics = digits(rounds=6, checkpoint_every=2), tmp_path / "metrics.jsonl"

    def watch(event):
        if event["kind"] == "round" and event["round"] == 3:
            metrics.unlink()
            metrics.symlink_to("/dev/full")

    begin(tmp_path, sim.to_yaml())
    with pytest.raises(
        CheckpointError,
        match=r"metrics\.jsonl could not be written.*No space left.*round 2 is intact.*raysim resume",
    ):
        Coordinator(sim, tmp_path, watch=watch).run()
    metrics.unlink()
    metrics.write_text(
        "".join(json.dumps(row) + "\n" for row in sim.run(None).metrics.to_dict("records")[:4])
    )
    assert same(sim.run(None), rs.resume(tmp_path))


def test_a_table_and_figures_that_find_no_room_cost_nothing_else(tmp_path, monkeypatch):
    from raysim.runtime import folder

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder.pd.DataFrame, "to_parquet", full)
    monkeypatch.setattr(folder, "save_figure", full)
    with pytest.warns(
        UserWarning, match=r"parquet cannot be written.*metrics\.jsonl has the same|figures cannot"
    ) as told:
        digits(rounds=2).run(tmp_path / "run")
    assert len(told) == 2
    assert rs.Result.read(tmp_path / "run").status == "finished"


def test_what_cannot_be_read_is_not_taken_for_missing(tmp_path):
    from raysim.runtime.folder import read_metrics

    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(rs.ConfigError, match=r"metrics\.jsonl cannot be read: .*[Dd]irectory"):
        read_metrics(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "runn')
    with pytest.raises(rs.ConfigError, match=r"run\.json is damaged.*raysim resume"):
        rs.resume(tmp_path)
