"""Sweeps through Ray Tune: the numbers of this process, processes that are kept, crashes, and Ray's own tools."""

import time

import numpy as np
import pytest
from ray import tune

import raysim as rs
import tuning
from tests.tuning.parts import Counting, tiny, training
from tuning import tuned
from tuning.folder import Folder
from tuning.sweep import Sweep

pytestmark = pytest.mark.ray
LR = "local.optimizer.lr"
SOUND = [0.01, 0.03, 0.1, 0.3, 1.0]
"""Step sizes that end well; 1e38 diverges, 2 breaks."""


@pytest.fixture(scope="module")
def swept(ray_session, tmp_path_factory):
    """Seven configurations, two seeds each, one process at a time; what every start left in a file."""
    root = tmp_path_factory.mktemp("tuned")
    experiment = training(Counting(lr=0.1, file=str(root / "starts")), evaluate_every=2, name="counted")
    over = {LR: [*SOUND, 1e38, 2.0]}
    lines = []
    begin = time.monotonic()
    found = tuning.sweep(
        experiment, over, seeds=2, how="tune", concurrent=1, folder=root / "s", tell=lines.append
    )
    print(f"14 trials through Tune in {time.monotonic() - begin:.1f} s")
    return found, root, lines


def test_the_same_numbers_as_in_this_process(swept):
    found, *_ = swept
    here = tuning.sweep(tiny(evaluate_every=2), {LR: SOUND}, seeds=2, folder=None)
    a, b = (x.curves().query("trial < 5").reset_index(drop=True) for x in (found, here))
    assert a[["trial", "seed", "round"]].equals(b[["trial", "seed", "round"]])
    for column in ("loss", "accuracy", "train_loss"):
        assert np.allclose(a[column], b[column], rtol=1e-4, equal_nan=True)
    assert found.best().local.optimizer.lr == here.best().local.optimizer.lr


def test_one_process_runs_trial_after_trial_until_one_breaks_it(swept):
    _, root, _ = swept
    starts = [line.split() for line in (root / "starts").read_text().splitlines()]
    assert len(starts) >= 14
    assert len({process for process, _ in starts}) == 2  # a crash in each seed's last trial
    assert {float(lr) for _, lr in starts[: len(starts) // 2]} == {*SOUND, 1e38, 2.0}


def test_a_crash_is_shown_and_the_others_go_on(swept):
    found, root, lines = swept
    status = found.trials().groupby(LR)["status"].agg(set)
    assert all(status[lr] == {"finished"} for lr in SOUND)
    assert (status[1e38], status[2.0]) == ({"diverged"}, {"failed"})
    shown = [line for line in lines if "failed" in line.splitlines()[0]]
    assert len(shown) == 2
    assert all("broken at 2.0" in line and "parts.py" in line for line in shown)
    assert len(Folder(root / "s").runs()) == 14


def test_what_diverged_ranks_last_but_for_what_failed(swept):
    found, *_ = swept
    table = found.table()
    assert table[LR].tolist()[-2:] == [1e38, 2.0]
    assert table["diverged"].tolist() == [0] * 5 + [2, 0]
    assert table["failed"].tolist() == [0] * 6 + [2]


def test_rays_own_tools_open_the_folder(swept):
    found, root, _ = swept
    tuner = tune.Tuner.restore(str(root / "s" / "tune"), tuned.trainable(found.plan))
    grid = tuner.get_results()
    assert len(grid) == 14
    assert grid.num_errors == 2
    best = grid.get_best_result()
    assert best.config["point"][LR] == found.trials().sort_values("value")[LR].iloc[0]
    assert best.metrics["loss"] == found.trials()["value"].min()
    assert best.checkpoint is not None
    folders = [p for p in (root / "s" / "tune").iterdir() if p.is_dir()]
    assert len(folders) == 14
    assert sum(len(list(p.glob("events.out.tfevents.*"))) for p in folders) >= 12
    frame = grid.get_dataframe()
    assert set(frame[f"config/point/{LR}"]) == {*SOUND, 1e38}  # what failed has no result to show


def test_resuming_runs_again_what_failed_and_nothing_else(swept):
    found, root, _ = swept
    before = (root / "starts").read_text().splitlines()
    again = Sweep(found.plan, root / "s").run(resume=True)
    new = (root / "starts").read_text().splitlines()[len(before) :]
    assert {line.split()[1] for line in new} == {"2.0"}
    assert len(again.runs) == 14
    assert len(again.failed) == 2


def test_a_metric_that_nobody_measures_ends_the_sweep(ray_session, tmp_path):
    with pytest.raises(
        rs.ConfigError, match=r"sweep.metric is 'acuracy', which no run measures. Known: loss"
    ):
        tuning.sweep(
            tiny(), {LR: [0.1, 0.2]}, metric="acuracy", how="tune", concurrent=1, folder=tmp_path / "s"
        )
