"""Spaces against draws by hand; dotted paths; every mistake named."""

import itertools
import math

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from tests.tuning.parts import TEXT, tiny
from tuning import paths, spaces
from tuning.block import read_tree
from tuning.plan import Plan, label, names, read_block

LR = "local.optimizer.lr"


def read(written, whole=False):
    return spaces.read("f", written, lambda ends: whole)


def plan(over, **options):
    return Plan(tiny(), read_block({"over": over, **options}))


def values(over, **options):
    """The values of a single field, configuration by configuration."""
    return [point[next(iter(over))] for point in plan(over, **options).points]


# ---- kinds -----------------------------------------------------------------------------------------------------


def test_a_grid_is_every_value_and_grids_multiply():
    found = plan({LR: [0.3, 0.1], "local.batch_size": {"grid": [4, 8, 16]}}).points
    naive = [{LR: a, "local.batch_size": b} for a, b in itertools.product([0.3, 0.1], [4, 8, 16])]
    assert found == naive


def test_a_log_grid_has_a_constant_ratio_and_both_ends():
    got = values({LR: {"log_grid": [1e-3, 1, 4]}})
    assert got == pytest.approx([1e-3, 1e-2, 1e-1, 1])
    assert values({"local.steps": {"log_grid": [1, 64, 7]}}) == [1, 2, 4, 8, 16, 32, 64]
    assert values({"local.steps": {"log_grid": [1, 4, 7]}}) == [1, 2, 3, 4]  # rounding makes twins, which go


@pytest.mark.parametrize("log", [True, False])
def test_drawn_numbers_are_the_inverse_distribution_of_uniform_ones(log):
    low, high = 1e-3, 10.0
    got = values({LR: {"log_uniform" if log else "uniform": [low, high]}}, samples=50, seed=7)
    for i, value in enumerate(got):
        u = streams.uniform(streams.key(7, "sweep", LR, i), 1).item()
        naive = low * (high / low) ** u if log else low + u * (high - low)
        assert value == pytest.approx(naive, rel=6e-4)  # four digits
    spread = np.sort(
        (np.log(got) - math.log(low)) / math.log(high / low) if log else (np.array(got) - low) / (high - low)
    )
    assert np.abs(spread - (np.arange(50) + 0.5) / 50).max() < 0.23  # Kolmogorov and Smirnov at 1 %


def test_whole_numbers_stay_whole_and_reach_both_ends():
    got = values({"local.steps": {"uniform": [1, 4]}}, samples=100)
    assert set(got) == {1, 2, 3, 4}
    assert all(isinstance(v, int) for v in got)
    counts = np.bincount([read({"uniform": [1, 4]}, whole=True).draw(u) for u in np.linspace(0, 0.999, 400)])
    assert counts[1:].tolist() == [100, 100, 100, 100] or abs(counts[1:] - 100).max() <= 1
    assert isinstance(values({"cohort": {"uniform": [1, 3]}}, samples=1)[0], int)  # clients
    assert isinstance(values({"cohort": {"uniform": [0.1, 0.9]}}, samples=1)[0], float)  # a fraction of them


def test_whole_numbers_stay_in_a_range_with_broken_ends():
    assert set(values({"local.steps": {"uniform": [1.5, 4.5]}}, samples=50)) == {2, 3, 4}
    assert set(values({"local.steps": {"log_uniform": [1.5, 3.9]}}, samples=50)) == {2, 3}
    assert values({"local.steps": {"log_grid": [1.5, 8.5, 3]}}) == [2, 4, 8]
    with pytest.raises(
        rs.ConfigError, match=r"uniform needs two whole numbers in its range, got \[1.5, 2.5\]"
    ):
        values({"local.steps": {"uniform": [1.5, 2.5]}})


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
def test_a_narrow_range_gets_the_digits_it_needs(kind):
    got = values({LR: {kind: [0.99990, 0.99999]}}, samples=16)
    assert len(got) == 16
    assert all(0.9999 <= value <= 0.99999 for value in got)
    assert all(len(str(value)) <= len("0.12345678") for value in got)


def test_draws_repeat_and_more_samples_add_to_fewer():
    over = {LR: {"log_uniform": [1e-3, 1]}, "local.batch_size": {"choice": [4, 8]}}
    few, many = plan(over, samples=4).points, plan(over, samples=9).points
    assert many[:4] == few
    assert plan(over, samples=4).points == few
    assert plan(over, samples=4, seed=1).points != few
    torch.manual_seed(5)
    assert plan(over, samples=4).points == few


def test_every_combination_of_grids_gets_the_same_draws_and_twins_run_once():
    got = plan({"local.batch_size": [4, 8], LR: {"uniform": [0.1, 1]}}, samples=3).points
    first, second = ([p[LR] for p in got if p["local.batch_size"] == b] for b in (4, 8))
    assert first == second
    assert len(set(first)) == 3
    assert sorted(values({"local.batch_size": {"choice": [4, 8]}}, samples=20)) == [4, 8]


def test_plug_ins_are_values():
    made = plan({"rule": ["Averaging", {"name": "FedProx", "mu": 0.5}, rs.rules.Scaffold()], LR: [0.1]})
    assert [p["rule"] for p in made.points] == [
        "Averaging",
        "FedProx(mu=0.5)",
        'Scaffold(option="II", server_lr=1.0)',
    ]
    rules = [made.simulation(p).rule for p in made.points]
    assert rules == [rs.rules.Averaging(), rs.rules.FedProx(mu=0.5), rs.rules.Scaffold()]
    again = Plan.from_yaml(made.to_yaml())
    assert [again.simulation(p).rule for p in again.points] == rules
    assert label(made.points[1]) == "rule=FedProx(mu=0.5), lr=0.1"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (3, "sweep.over.f must be one of {grid: [...]}"),
        ({"grid": [1], "choice": [2]}, "must be one of"),
        ({"gird": [1]}, "there is no space 'gird'. Write one of {grid: [...]}"),
        ({"grid": 3}, "grid needs a list, got 3"),
        ([], "grid is empty"),
        ([0.1, 0.2, 0.1], "grid has 0.1 twice"),
        ({"uniform": [1]}, "uniform needs two numbers, [low, high], got [1]"),
        ({"uniform": [2, 1]}, "uniform needs its low end below its high end, got [2, 1]"),
        ({"uniform": ["a", 1]}, "needs two numbers"),
        ({"log_uniform": [0, 1]}, "log_uniform needs a low end above 0, got 0. Use uniform"),
        ({"log_grid": [0.1, 1]}, "log_grid needs [low, high, number of values], got [0.1, 1]"),
        ({"log_grid": [0.1, 1, 1]}, "needs a number of values, at least 2, got 1"),
        ({"uniform": [0, math.inf]}, "needs its low end below"),
    ],
)
def test_a_space_that_is_none(written, said):
    with pytest.raises(rs.ConfigError) as error:
        read(written)
    assert said in str(error.value)


# ---- paths -----------------------------------------------------------------------------------------------------


def test_changes_reach_deep_together():
    sim = tiny(uplink=(rs.compressors.TopK(fraction=0.5),))
    got = paths.changed(
        sim, {"cohort": 7, "partition.clients": 9, "uplink.0.fraction": 0.1, "local": {"steps": 5}}
    )
    assert (got.cohort, got.partition.clients, got.local.steps) == (
        7,
        9,
        5,
    )  # 7 of 3 clients would be refused
    assert got.uplink[0] == rs.compressors.TopK(fraction=0.1)
    assert got.local.optimizer == sim.local.optimizer
    assert sim.partition.clients == 3
    changed = paths.changed(sim, {"local.optimizer": "Adam", "local.optimizer.lr": 0.5})
    assert changed.local.optimizer == rs.optimizers.Adam(lr=0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"local.optimizer.rate": 1}, "local.optimizer: SGD has no field 'rate'"),
        ({"local.objective.radius": 1}, "local.objective is None, which has no field 'radius'"),
        ({"uplink.0.share": 1}, "uplink is a list of 0"),
        ({LR: -1}, "local.optimizer: SGD.lr must be greater than 0"),
        ({"cohort": 4}, "experiment: Simulation.cohort is 4, but there are only 3"),
        ({"rule": "Averging"}, "rule: there is no rule 'Averging'. Did you mean"),
    ],
)
def test_changes_that_are_refused(changes, said):
    with pytest.raises(rs.ConfigError) as error:
        paths.changed(tiny(), changes)
    assert said in str(error.value)


def test_names_are_as_short_as_they_can_be():
    assert names([LR, "rule.server.lr", "cohort"]) == {
        LR: "optimizer.lr",
        "rule.server.lr": "server.lr",
        "cohort": "cohort",
    }
    assert names([LR]) == {LR: "lr"}


@pytest.mark.parametrize(
    ("over", "options", "said"),
    [
        ({"local.optimiser.lr": [1]}, {}, "no field 'local.optimiser.lr'. Did you mean local.optimizer.lr"),
        ({"lr": [1]}, {}, "no field 'lr'. Did you mean local.optimizer.lr?"),
        ({"local.step": [1]}, {}, "Did you mean local.steps"),
        (
            {"seed": [1, 2]},
            {},
            "sweep.over.seed cannot be varied. Every configuration runs with the same seeds",
        ),
        ({"placement.actors": [1, 2]}, {}, "sweep.over.placement.actors cannot be varied"),
        ({LR: [0.1, -1.0]}, {}, "Configuration 1 (lr=-1): local.optimizer: SGD.lr must be greater than 0"),
        ({}, {}, "over is empty"),
        ({LR: [1]}, {"mod": "min"}, "sweep has no field 'mod'. Did you mean 'mode'?"),
        ({LR: [1]}, {"mode": "low"}, "sweep.mode must be 'min'"),
        ({LR: [1]}, {"at": "first"}, "at must be 'last' or 'best'"),
        (
            {LR: [1]},
            {"scheduler": "ahsa"},
            "sweep.scheduler: there is no 'ahsa'. Known: none, asha, median, pbt",
        ),
        ({LR: [1]}, {"scheduler": {"name": "asha", "grce": 1}}, "Did you mean 'grace'?"),
        ({LR: [1]}, {"scheduler": "asha", "how": "population"}, "the scheduler asha needs Ray Tune"),
        ({LR: [1]}, {"concurrent": 2}, "this sweep runs in one process"),
        ({LR: [1]}, {"how": "tune", "gpus": 0.5}, "needs both: device: cuda"),
        ({LR: [1]}, {"gpus": 0.5}, "sweep.gpus is 0.5, but this sweep runs in this process"),
        ({LR: [1]}, {"samples": 4}, "sweep.samples is 4, but nothing is drawn"),
        ({LR: [1, 2]}, {"scheduler": "pbt", "concurrent": 1}, "but in pbt all trials wait for each other"),
        (
            {"rounds": [4, 12], LR: [1]},
            {"scheduler": "asha"},
            "sweep.over.rounds cannot be varied where a sched",
        ),
        ({LR: [1]}, {"scheduler": "pbt"}, "needs at least two configurations"),
        ({"rule": ["Averaging", "Scaffold"]}, {"scheduler": "pbt"}, "which rule does not allow"),
        ({"partition.clients": [3, 4]}, {"scheduler": "pbt"}, "which partition.clients does not allow"),
        ({LR: [1]}, {"samples": 0}, "samples must be greater than or equal to 1"),
    ],
)
def test_mistakes_are_named_before_anything_runs(over, options, said):
    with pytest.raises(rs.ConfigError) as error:
        plan(over, **options)
    assert said in str(error.value)


def test_shares_of_a_gpu_with_actors():
    with pytest.raises(
        rs.ConfigError, match=r"sweep.gpus is 0.5, but this sweep has actors: see gpus_per_actor"
    ):
        Plan(tiny(placement=rs.Placement(actors=2)), read_block({"over": {LR: [1]}, "gpus": 0.5}))


@pytest.mark.parametrize(
    ("overrides", "over"),
    [
        (["sweep.over.local.optimizer.lr=[0.1]"], {LR: [0.1]}),
        (["sweep.over.local.optimizer.lr.log_grid.0=0.1"], {LR: {"log_grid": [0.1, 1, 3]}}),
        (["sweep.over.local.steps=[1, 4]"], {LR: {"log_grid": [1e-2, 1, 3]}, "local.steps": [1, 4]}),
        (["sweep.over={rounds: [1, 2]}", "sweep.over.rounds.1=5"], {"rounds": [1, 5]}),
        (["sweep.over={rule: [Averaging]}", "sweep.over.rule.mu=[1]"], {"rule": ["Averaging"], "rule.mu": [1]}),
    ],
)  # fmt: skip
def test_spaces_on_the_command_line(overrides, over):
    assert read_tree(TEXT, overrides)["sweep"]["over"] == over


def test_an_override_that_leads_nowhere_is_named():
    with pytest.raises(rs.ConfigError, match=r"local/optimizer/lr.log_grid.7: '7' leads into a list of 3"):
        read_tree(TEXT, ["sweep.over.local.optimizer.lr.log_grid.7=1"])


def test_a_swept_field_that_is_missing_and_misspelt():
    text = TEXT.replace("lr: 0.1}, steps", "}, steps").replace("local.optimizer.lr", "local.optimiser.lr")
    with pytest.raises(
        rs.ConfigError, match=r"^With the first value of every field in sweep.over: .*'optimiser'"
    ):
        Plan.from_yaml(text)
    with pytest.raises(rs.ConfigError, match=r"^data: there is no data 'Digitz'"):
        Plan.from_yaml(TEXT.replace("name: Digits", "name: Digitz"))


def test_optuna_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rs.ConfigError, match=r"optuna, which is not installed. Run: pip install optuna"):
        plan({LR: {"uniform": [0.1, 1]}}, search="optuna")
