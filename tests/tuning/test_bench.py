"""The benchmark of sweeps: what it measures is what it says."""

import re

from tuning import bench
from tuning.population import stackable


def test_its_experiments_can_be_stacked():
    assert stackable([bench.digits(0.1), bench.digits(0.2)]) is None
    assert stackable(bench.mlp()) is None


def test_a_line_names_both_times(monkeypatch):
    monkeypatch.setattr(bench, "TURNS", 1)
    line = bench.stacked("tiny", [bench.digits(lr).replaced(rounds=2, evaluate_every=2) for lr in (0.1, 0.2)])
    alone, stack, ratio = (float(n) for n in re.findall(r"\d+\.\d+", line))
    assert line.startswith("tiny: 2 runs one by one")
    assert ratio > 0
    assert min(alone, stack) >= 0


def test_trivial_trials_are_a_hundred():
    assert "100 trials in" in bench.timed("trials", bench.trivial(how="population"))
