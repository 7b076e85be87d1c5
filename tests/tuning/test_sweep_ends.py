"""How sweeps through Ray Tune end: equal draws, shared time, a refused metric, missing data, a full disk, Ctrl-C."""

import dataclasses
import gc
import os
import signal
import threading
import time

import pytest
from ray.tune.search import Searcher

import raysim as rs
import tuning
from tests.tuning.parts import Counting, tiny, training
from tuning import explore, plan
from tuning.folder import Folder

pytestmark = pytest.mark.ray
LR = "local.optimizer.lr"


class Stubborn(Searcher):
    """Draws the same configuration every time."""

    def set_search_properties(self, metric, mode, config, **spec):
        self.fixed = {"trial": -1, "seeds": config["point"]["seeds"]}
        return True

    def suggest(self, trial_id):
        return {"point": self.fixed | {LR: 0.1}}

    def on_trial_complete(self, trial_id, result=None, error=False):
        """It learns nothing."""

    def save(self, checkpoint_path):
        """It knows nothing."""

    def restore(self, checkpoint_path):
        """Nor then."""


def test_equal_draws_of_a_search_end_the_sweep(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(explore, "optuna", lambda plan: Stubborn())
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: True)
    found = tuning.sweep(
        tiny(), {LR: [0.1, 0.2]}, search="optuna", samples=3, concurrent=1, folder=tmp_path / "s"
    )
    assert [run.key for run in found.runs] == [(0, 0)]


def test_time_is_shared_by_seeds_and_a_hundred_of_them_have_a_folder(ray_session, tmp_path):
    slow = training(Counting(lr=0.1, pause=0.5, file=str(tmp_path / "starts")), rounds=1)
    begin = time.monotonic()
    found = tuning.sweep(slow, {LR: [0.1]}, scheduler="asha", seeds=3, concurrent=1, folder=tmp_path / "s")
    assert 1.5 <= found.table()["wall_seconds"].iloc[0] <= time.monotonic() - begin
    many = tuning.sweep(tiny(rounds=1), {LR: [0.1]}, scheduler="asha", seeds=100, folder=tmp_path / "m")
    assert len(many.runs) == 100


def test_a_metric_that_no_run_measures_leaves_nothing_to_go_on_with(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr("tuning.here.try_metric", lambda plan: None)
    with pytest.raises(
        rs.ConfigError, match=r"^sweep.metric is 'acuracy', which no run measures. Known: loss"
    ):
        tuning.sweep(tiny(), {LR: [0.1]}, metric="acuracy", how="tune", folder=tmp_path / "s")
    assert Folder(tmp_path / "s").empty


def test_missing_data_takes_a_line_and_a_full_disk_stops_the_sweep(ray_session, tmp_path, monkeypatch):
    lost = tiny(data=rs.data.Npz(path=str(tmp_path / "nowhere.npz")))
    [run] = tuning.sweep(lost, {LR: [0.1]}, how="tune", folder=None).runs
    assert "nowhere.npz" in run.error
    assert len(run.error.splitlines()) == 1

    def full(self, run):
        raise rs.ConfigError("the disk is full")

    monkeypatch.setattr(Folder, "append", full)
    with pytest.raises(rs.ConfigError, match="the disk is full"):
        tuning.sweep(tiny(), {LR: [0.1, 0.2]}, how="tune", concurrent=1, folder=tmp_path / "s")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray Tune leaves its own files open on Ctrl-C
def test_ctrl_c_is_no_end(ray_session, tmp_path):
    endless = dataclasses.replace(tiny(), rounds=100_000, evaluate_every=10)
    told = []

    def interrupt():
        while not any((tmp_path / "s" / "tune").glob("*/result.json")) and not told:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tuning.sweep(endless, {LR: [0.1]}, how="tune", reports=1000, concurrent=1, folder=tmp_path / "s")
    told.append(True)
    thread.join()
    assert Folder(tmp_path / "s").runs() == []
    gc.collect()
