"""A sweep whose process is killed with -9 in the middle: what had ended is kept, and nothing of it runs again."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from raysim.cli import main
from tuning.live import Watch
from tuning.plan import Plan
from tuning.population import many
from tuning.records import Run
from tuning.sweep import Sweep

ROOT = Path(__file__).parents[2]
TEXT = """
data: {name: Digits, test: 100}
partition: {name: IID, clients: 3}
model: {name: Linear}
local: {optimizer: {name: SGD, lr: 0.1}, steps: 1, batch_size: 8}
rounds: 60
evaluate_every: 20
sweep:
  over: {local.batch_size: {grid: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}}      # which no stack can hold
"""


def killed(folder, *overrides, wait=120.0):
    """Start the command, kill it when two runs have ended; the lines that were written."""
    file = folder / "runs" / "sweeps" / "s" / "trials.jsonl"
    (folder / "s.yaml").write_text(TEXT)
    command = [sys.executable, "-m", "raysim.cli", "sweep", "s.yaml", *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    end = time.monotonic() + wait
    while process.poll() is None and time.monotonic() < end:
        if file.exists() and len(file.read_text().splitlines()) >= 2:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    output = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, output
    return file.parent, [line for line in file.read_text().splitlines() if _whole(line)]


def _whole(line):
    try:
        return bool(json.loads(line))
    except json.JSONDecodeError:
        return False


def resumed(folder):
    """Go on with it; the runs."""
    lines = []
    found = Sweep.read(folder).run(resume=True, tell=lines.append)
    assert lines
    return found


def check(folder, before, found):
    """Every run is there once, those from before the kill as they were."""
    assert 2 <= len(before) < 12
    after = (folder / "trials.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    keys = [(line["trial"], line["seed"]) for line in map(json.loads, after)]
    assert sorted(keys) == [(i, 0) for i in range(12)]
    assert {run.status for run in found.runs} == {"finished"}
    assert [[row["round"] for row in run.rows] for run in found.runs] == [[0, 20, 40, 60]] * 12
    assert (folder / "best.yaml").exists()
    assert len(found.table()) == 12


def test_in_this_process(tmp_path):
    folder, before = killed(tmp_path)
    check(folder, before, resumed(folder))


def test_ctrl_c_keeps_what_has_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(TEXT)
    run_all, calls = many.run_all, []

    def interrupted(simulations, tell=None, watch=None):
        calls.append(simulations)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_all(simulations, tell)

    monkeypatch.setattr(many, "run_all", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["sweep", "s.yaml"])
    assert caught.value.code == 130
    assert "raysim sweep --resume runs/sweeps/s" in capsys.readouterr().err
    folder = Path("runs/sweeps/s")
    before = (folder / "trials.jsonl").read_text().splitlines()
    assert len(before) == 2
    assert (folder / "trials.parquet").exists()
    check(folder, before, resumed(folder))
    assert len(calls) == 3 + 10


def test_a_run_that_ctrl_c_cut_short_is_no_result(tmp_path, monkeypatch):
    """Simulation.run() answers Ctrl-C itself: it ends after its round."""
    plan = Plan.from_yaml(TEXT)
    short = lambda simulations, tell=None, watch=None: [
        s.replaced(rounds=20).run(None).metrics for s in simulations
    ]
    monkeypatch.setattr(many, "run_all", short)
    with pytest.raises(KeyboardInterrupt):
        Sweep(plan, tmp_path / "s").run()
    assert Sweep.read(tmp_path / "s").runs == []


def test_how_far_it_is_and_how_long_it_takes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    plan, runs = Plan.from_yaml(TEXT), []
    rows = [{"round": 60, "loss": 0.5}]
    runs.append(Run(0, 0, plan.points[0], "finished", rows))
    lines = []
    watch = Watch(plan, runs, tell=lines.append)
    now[0] += 10
    for i, status in ((1, "finished"), (2, "diverged")):
        runs.append(Run(i, 0, plan.points[i], status, rows))
        watch.ended(runs[-1])
    assert [line.split("  ")[0] for line in lines] == ["2/12", "3/12"]
    assert lines[0].endswith(", 100 s left")  # ten more at 10 s each
    watch.running("3/0", 0.5)
    assert watch.progress() == "3 of 12 runs, 1 under way, 1 diverged, 10 s, 34 s left"  # 8.5 at 4 s each
    watch.gone("3/0")
    runs.append(Run(3, 0, plan.points[3], "failed", error="Traceback\nodd"))
    watch.ended(runs[-1])
    assert lines[-1] == "batch_size=4: failed, 0 s\nTraceback\nodd"
    drawn = io.StringIO()
    Console(file=drawn, width=120).print(watch.drawn())
    assert "so far" in drawn.getvalue()
    assert "4 of 12 runs, 1 diverged, 1 failed" in drawn.getvalue()


@pytest.mark.ray
@pytest.mark.slow
def test_through_ray_tune(tmp_path, ray_session):
    from ray import tune

    folder, before = killed(tmp_path, "sweep.how=tune")
    found = resumed(folder)
    check(folder, before, found)
    assert len([p for p in (folder / "tune").iterdir() if p.is_dir()]) == 12  # taken up where it was
    from tuning import tuned

    grid = tune.Tuner.restore(str(folder / "tune"), tuned.trainable(found.plan)).get_results()
    assert len(grid) == 12
    assert all(result.metrics["done"] for result in grid)
