"""Sweeps in this process: the same numbers as separate runs, ranked, written, taken up again."""

import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import raysim as rs
import tuning
from tests.commands import call
from tests.tuning.parts import TEXT, Brittle, tiny, training
from tuning.plan import Plan
from tuning.records import Run, reached
from tuning.sweep import Sweep
from tuning.table import summarised

LR = "local.optimizer.lr"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets its own
    Path("tiny.yaml").write_text(TEXT)
    return tmp_path


def printed(thing):
    console = Console(width=200, file=io.StringIO())
    console.print(thing)
    return console.file.getvalue()


# ---- numbers ---------------------------------------------------------------------------------------------------


def test_equals_separate_runs_with_mean_and_spread_over_seeds():
    got = tuning.sweep(tiny(), {LR: [0.03, 0.3]}, seeds=3, folder=None).table()
    for lr in (0.03, 0.3):
        finals = []
        for seed in (0, 1, 2):
            alone = training(rs.optimizers.SGD(lr=lr), seed=seed)
            finals.append(alone.run(None).metrics["loss"].iloc[-1])
        row = got[got[LR] == lr].iloc[0]
        assert row["loss"] == pytest.approx(np.mean(finals), rel=1e-5)
        assert row["loss_sd"] == pytest.approx(np.std(finals, ddof=1), rel=1e-3)
    assert list(got["loss"]) == sorted(got["loss"])
    assert list(got["runs"]) == [3, 3]


def test_curves_and_trials_hold_every_run():
    got = tuning.sweep(tiny(), {LR: [0.03, 0.3], "local.batch_size": [4, 8]}, folder=None)
    assert got.curves().groupby(["trial", "seed"]).size().tolist() == [4, 4, 4, 4]  # rounds 0 to 3
    trials = got.trials()
    assert list(zip(trials[LR], trials["local.batch_size"], strict=True)) == [
        (0.03, 4),
        (0.03, 8),
        (0.3, 4),
        (0.3, 8),
    ]
    ends = got.curves().groupby("trial")["loss"].last()
    assert trials["value"].tolist() == ends.tolist()


@pytest.mark.parametrize(
    ("mode", "at", "naive"), [("min", "last", 3.0), ("min", "best", 1.0), ("max", "best", 5.0)]
)
def test_last_and_best_value(mode, at, naive):
    rows = [{"loss": v} for v in (5.0, 1.0, math.nan, 3.0)]
    assert reached(rows, "loss", mode, at) == naive
    assert math.isnan(reached(rows, "accuracy", mode, at))


def test_accuracy_is_better_when_high():
    got = tuning.sweep(tiny(), {LR: [0.001, 0.3]}, metric="accuracy", folder=None)
    assert got.best().local.optimizer.lr == 0.3
    worst = tuning.sweep(tiny(), {LR: [0.001, 0.3]}, metric="accuracy", mode="min", folder=None)
    assert worst.best().local.optimizer.lr == 0.001


def run_of(trial, values, status="finished", seed=0, rounds=3):
    rows = [{"round": i, "loss": v} for i, v in enumerate(values)]
    return Run(trial, seed, {LR: float(trial)}, status, rows, error="oh" if status == "failed" else "")


def test_ranking_complete_then_stopped_then_diverged_then_failed():
    plan = Plan(tiny(), tuning.plan.read_block({"over": {LR: [float(i) for i in range(1, 9)]}, "seeds": 2}))
    runs = [
        *[run_of(1, [2, 0.1], "failed"), run_of(1, [2, 0.1], seed=1)],
        *[run_of(2, [2, math.nan], "diverged"), run_of(2, [2, 0.1], seed=1)],
        *[run_of(3, [2, 0.1], "stopped"), run_of(3, [2, 0.1], seed=1)],
        *[run_of(4, [2, 9.0, 9.0]), run_of(4, [2, 9.0, 9.0], seed=1)],
        *[run_of(5, [2, 8.0, 8.0]), run_of(5, [2, 9.0, 9.0], seed=1)],
        *[run_of(6, [2, 0.3, 0.3], "stopped"), run_of(6, [2, 0.3, 0.3], "stopped", seed=1)],
        *[run_of(7, [2, math.nan], "diverged"), run_of(7, [2, math.nan], "diverged", seed=1)],
    ]
    table = summarised(runs, plan)
    assert table["trial"].tolist() == [5, 4, 6, 3, 2, 7, 1]
    text = printed(tuning.table.printed(table, plan))
    assert "0.3000 ± 0.0000 (stopped)" in text
    assert "1 of 2 diverged" in text
    assert "1 of 2 failed" in text


def test_divergence_is_a_result_and_ranks_last(here):
    hot = tuning.sweep(tiny(model=rs.models.MLP(hidden=(8,)), rounds=12), {LR: [1e30, 0.1]}, folder="s")
    assert hot.table()[LR].tolist() == [0.1, 1e30]
    assert hot.trials().set_index(LR)["status"].to_dict() == {1e30: "diverged", 0.1: "finished"}
    assert hot.failed == []
    lost = tuning.sweep(tiny(model=rs.models.MLP(hidden=(8,)), rounds=12), {LR: [1e30, 1e31]}, folder="t")
    assert not Path("t/best.yaml").exists()
    assert Path("t/sweep.png").exists()
    with pytest.raises(rs.ConfigError, match="Try smaller step sizes"):
        lost.best()


# ---- failures --------------------------------------------------------------------------------------------------


def test_a_crash_is_shown_and_the_others_go_on(here):
    lines = []
    broken = training(Brittle(lr=0.1))
    got = tuning.sweep(broken, {LR: [0.1, 2.0, 0.3]}, folder="s", tell=lines.append)
    assert got.trials()["status"].tolist() == ["finished", "failed", "finished"]
    assert "broken at 2.0" in got.failed[0].error
    assert "Traceback" in got.failed[0].error
    shown = next(line for line in lines if "failed" in line)
    assert shown.startswith("lr=2: failed")
    assert "broken at 2.0" in shown
    assert got.best().local.optimizer == Brittle(lr=0.3)
    assert Path("s/best.yaml").read_text().splitlines()[1].startswith("# Not complete: local.optimizer")


def test_a_metric_that_nobody_measures():
    with pytest.raises(
        rs.ConfigError, match=r"sweep.metric is 'acuracy', which no run measures. Known: loss, accuracy"
    ):
        tuning.sweep(tiny(), {LR: [0.1, 0.2]}, metric="acuracy", folder=None)


# ---- folders ---------------------------------------------------------------------------------------------------


def test_the_command_writes_a_folder_and_its_best_runs(here, capsys):
    assert call("sweep", "tiny.yaml") == 0
    out = capsys.readouterr().out
    assert "6/6" in out
    assert "mean ± standard deviation of 2 seeds" in out
    root = Path("runs/sweeps/tiny")
    assert {p.name for p in root.iterdir()} == {
        *("sweep.yaml", "trials.jsonl", "trials.parquet", "curves.parquet", "best.yaml", "sweep.png", "lock")
    }
    trials = pd.read_parquet(root / "trials.parquet")
    assert sorted(set(trials[LR])) == [0.01, 0.1, 1]
    assert len(pd.read_parquet(root / "curves.parquet")) == 6 * 4
    best = trials.groupby(LR)["loss"].mean().idxmin()
    assert call("run", str(root / "best.yaml"), "--quiet") == 0
    again = pd.read_parquet("runs/tiny-best-1/metrics.parquet")
    one = trials[(trials[LR] == best) & (trials["seed"] == 0)].iloc[0]
    assert again["loss"].iloc[-1] == pytest.approx(one["loss"], rel=1e-5)


def test_overrides_reach_the_experiment_and_the_block(here):
    assert call("sweep", "tiny.yaml", "rounds=1", "sweep.seeds=1", "--folder", "s", "--quiet") == 0
    trials = pd.read_parquet("s/trials.parquet")
    assert trials["rounds_done"].tolist() == [1, 1, 1]


def test_a_field_that_is_varied_need_not_be_given(here):
    text = TEXT.replace("lr: 0.1", "").replace("SGD, }", "SGD}")
    assert Plan.from_yaml(text).points == Plan.from_yaml(TEXT).points
    with pytest.raises(rs.ConfigError, match=r"SGD has no field 'lrr'. Did you mean 'lr'"):
        Plan.from_yaml(text.replace("optimizer.lr", "optimizer.lrr"))


def test_the_written_sweep_is_the_same_sweep():
    plan = Plan.from_yaml(TEXT, ["sweep.scheduler=asha", "sweep.how=tune"], "tiny")
    again = Plan.from_yaml(plan.to_yaml())
    assert (again.points, again.base, again.scheduler) == (plan.points, plan.base, plan.scheduler)
    assert again.to_yaml() == plan.to_yaml()


def test_a_folder_is_not_written_over(here, capsys):
    assert call("sweep", "tiny.yaml", "--quiet") == 0
    before = Path("runs/sweeps/tiny/trials.jsonl").read_text()
    assert call("sweep", "tiny.yaml") == 2
    assert (
        "holds a sweep already. Go on with it: raysim sweep --resume runs/sweeps/tiny"
        in capsys.readouterr().err
    )
    assert call("sweep", "tiny.yaml", "rounds=9", "--resume") == 2
    assert "holds another sweep than this one" in capsys.readouterr().err
    assert call("sweep", "--resume", "runs/sweeps/tiny") == 0  # nothing left to do: the table again
    assert Path("runs/sweeps/tiny/trials.jsonl").read_text() == before
    assert call("sweep", "tiny.yaml", "sweep.seeds=1", "--fresh", "--quiet") == 0
    assert len(Path("runs/sweeps/tiny/trials.jsonl").read_text().splitlines()) == 3


def test_resuming_runs_what_is_missing_only(here, capsys):
    assert call("sweep", "tiny.yaml", "--quiet") == 0
    file = Path("runs/sweeps/tiny/trials.jsonl")
    lines = file.read_text().splitlines()
    marked = [json.loads(line) | {"seconds": 1234.5} for line in lines[:3]]  # what must survive
    marked[1] |= {"status": "failed", "error": "power cut"}  # which is no result
    file.write_text(
        "".join(json.dumps(m) + "\n" for m in marked) + lines[3][: len(lines[3]) // 2]
    )  # and a torn line
    assert call("sweep", "--resume", "runs/sweeps/tiny") == 0
    out = capsys.readouterr().out
    assert "6/6" in out
    assert "3/6" in out
    assert "2/6" not in out
    runs = Sweep.read("runs/sweeps/tiny").runs
    assert sorted(run.key for run in runs) == [(t, s) for t in range(3) for s in range(2)]
    assert sum(run.seconds == 1234.5 for run in runs) == 2
    assert {run.status for run in runs} == {"finished"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sweep", "nothing.yaml"), "cannot be read"),
        (("sweep", "--resume", "."), "not a sweep's folder: it has no sweep.yaml"),
        (("sweep", "."), "is a folder. Go on with the sweep in it"),
        (("sweep", "tiny.yaml", "sweep.metrc=loss"), "Did you mean 'metric'"),
        (("sweep", "plain.yaml"), "has no block `sweep:`"),
    ],
)
def test_mistakes_of_the_command(here, capsys, arguments, said):
    Path("plain.yaml").write_text(TEXT.split("sweep:")[0])
    assert call(*arguments) == 2
    assert said in capsys.readouterr().err


def test_exit_codes(here):
    assert (
        call(
            "sweep",
            "tiny.yaml",
            f"sweep.over={{{LR}: [1e30, 1e31]}}",
            "model={name: MLP}",
            "rounds=12",
            "--quiet",
        )
        == 3
    )


# ---- figures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "options", "panels"),
    [
        ({LR: [0.1, 1e30]}, {"seeds": 2}, 1),
        ({"rule": ["Averaging", "Scaffold"]}, {}, 1),
        ({LR: [0.1, 1.0], "local.batch_size": [4, 8]}, {"metric": "accuracy"}, 2),  # with its colour bar
        ({LR: {"log_uniform": [0.01, 1]}, "local.batch_size": [4, 8]}, {"samples": 3}, 1),
        (
            {LR: {"log_uniform": [0.01, 1]}, "local.optimizer.momentum": {"uniform": [0, 0.9]}},
            {"samples": 3},
            2,
        ),
        ({LR: [0.1, 1.0], "local.batch_size": [4, 8], "local.steps": [1, 2]}, {}, 3),
    ],
)
def test_a_figure_for_every_number_of_fields(over, options, panels, tmp_path):
    figure = tuning.sweep(tiny(rounds=1), over, folder=None, **options).figure()
    assert len(figure.axes) == panels
    figure.savefig(tmp_path / "f.png")


def test_the_line_shows_every_value_and_marks_what_diverged():
    plan = Plan(tiny(), tuning.plan.read_block({"over": {LR: [1.0, 2.0, 3.0]}}))
    runs = [run_of(1, [2, 0.5]), run_of(2, [2, 0.25]), run_of(3, [2, math.nan], "diverged")]
    panel = tuning.plots.figure(runs, plan).axes[0]
    assert panel.lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.25]]
    assert [t.get_text() for t in panel.texts] == ["diverged", "best: lr=2, 0.2500"]
    assert panel.get_xlabel() == LR
