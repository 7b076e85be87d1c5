"""Sweeps through Ray Tune: trials stopped early, populations, room for actors, and what a trial costs."""

import os
import time

import numpy as np
import pytest

import raysim as rs
import tuning
from tests.tuning.parts import tiny
from tuning import tuned

pytestmark = pytest.mark.ray
LR = "local.optimizer.lr"


@pytest.mark.parametrize(
    "scheduler", [{"name": "asha", "grace": 2, "reduction": 2}, {"name": "median", "grace": 4}]
)
def test_early_stopping_spares_bad_trials(ray_session, scheduler, tmp_path):
    found = tuning.sweep(
        tiny(rounds=12),
        {LR: [0.5, 0.3, 0.001, 0.002, 0.003, 1e38]},
        scheduler=scheduler,
        concurrent=1,
        seeds=2,
        folder=tmp_path / "s",
    )
    table = found.table().set_index(LR)
    assert table.loc[0.5, "rounds_done"] == 12
    assert table.loc[0.5, "stopped"] == 0
    assert (table.loc[[0.002, 0.003], "stopped"] == 2).all()  # both seeds together
    assert (table.loc[[0.002, 0.003], "rounds_done"] < 12).all()
    assert table.loc[1e38, "diverged"] >= 1
    assert found.best().local.optimizer.lr in (0.5, 0.3)


@pytest.mark.slow
def test_a_population_goes_on_from_its_best(ray_session, tmp_path):
    found = tuning.sweep(
        tiny(rounds=6),
        {LR: [1e-4, 0.1, 0.3]},
        scheduler={"name": "pbt", "every": 3, "resample": 0},
        folder=tmp_path / "s",
    )
    assert found.trials()["status"].tolist() == ["finished"] * 3
    assert [[row["round"] for row in run.rows] for run in found.runs] == [list(range(7))] * 3
    runs = {run.trial: run for run in found.runs}
    assert [len(runs[i].history) for i in (1, 2)] == [1, 1]
    assert runs[0].history == [
        [0, {LR: 0.3}],
        [3, {LR: 0.1}],
    ]  # the best's model; a listed value moves to the next
    assert runs[0].rows[:4] == runs[2].rows[:4]
    assert runs[0].rows[4]["loss"] != runs[2].rows[4]["loss"]
    alone = tiny(local=rs.Local(rs.optimizers.SGD(lr=1e-4), steps=2, batch_size=8), rounds=6).run(None)
    assert runs[0].rows[-1]["loss"] < alone.metrics["loss"].iloc[-1]


@pytest.mark.slow
def test_trials_over_actors(ray_session, tmp_path):
    placed = tiny(placement=rs.Placement(actors=2, cpus_per_actor=0.5))
    found = tuning.sweep(placed, {LR: [0.1, 0.3]}, concurrent=1, folder=tmp_path / "s")
    assert found.plan.how == "tune"
    here = tuning.sweep(tiny(), {LR: [0.1, 0.3]}, folder=None)
    assert np.allclose(found.trials()["value"], here.trials()["value"], rtol=1e-5)
    bundles = tuned.resources(found.plan).bundles
    assert [b.get("CPU", 0) for b in bundles if b] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("place", "options", "said"),
    [
        (
            {"actors": 6},
            {},
            "A trial of this sweep needs 6 CPUs (6 actors with cpus_per_actor=1), but the cluster has 4.",
        ),
        (
            {"actors": 3},
            {"seeds": 2, "scheduler": "asha"},
            "needs 6 CPUs (3 actors with cpus_per_actor=1 for each of 2 seeds, which a scheduler sees as one), but the",
        ),
        (
            {"actors": 2, "gpus_per_actor": 0.5},
            {},
            "needs 1 GPUs (2 actors with cpus_per_actor=1 and gpus_per_actor=0.5)",
        ),
        (
            {"threads": 8},
            {"how": "tune"},
            "needs 8 CPUs (placement.threads=8, sweep.gpus=0), but the cluster has 4",
        ),
    ],
)
def test_too_little_room_is_said_at_once(ray_session, place, options, said):
    experiment = tiny(placement=rs.Placement(**place))
    begin = time.monotonic()
    with pytest.raises(rs.ConfigError) as error:
        tuning.sweep(experiment, {LR: [0.1, 0.2]}, folder=None, **options)
    assert said in str(error.value)
    assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_a_hundred_trivial_trials_take_less_than_half_a_minute(ray_session, tmp_path, capsys):
    over = {LR: {"log_uniform": [1e-3, 1]}}
    trivial = tiny(rounds=1, local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=8))
    load = os.getloadavg()[0] / (os.cpu_count() or 1)  # others' work is not ours
    seconds = {}
    for how, options in (("tune", {"concurrent": 2}), ("population", {})):
        begin = time.monotonic()
        found = tuning.sweep(trivial, over, samples=100, how=how, folder=tmp_path / how, **options)
        seconds[how] = time.monotonic() - begin
        assert len(found.runs) == 100
    with capsys.disabled():
        print(
            f"\n100 trivial trials: {seconds['tune']:.1f} s through Tune, {seconds['population']:.1f} s as a population"
        )
    assert seconds["tune"] < 30 * max(1, load)
    assert seconds["population"] < 5 * max(1, load)
