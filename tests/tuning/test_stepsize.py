"""The search for a step size: crossings of a target, grids that grow, rounds that double."""

import math

import pandas as pd
import pytest

from raysim.core.plugin import ConfigError
from tests.tuning.fakes import curve, parabola
from tuning.regimes import stepsize
from tuning.regimes.stepsize import Goal, Grid, Search

# ---- reaching a target ------------------------------------------------------------------------------------------


def test_a_crossing_is_interpolated_in_logarithms():
    table = pd.DataFrame({"round": [0, 10, 20], "loss": [1.0, 0.1, 0.001], "accuracy": [0.0, 0.4, 0.8]})
    assert Goal("loss", 0.01).rounds(table) == pytest.approx(15)
    assert Goal("loss", 0.1).rounds(table) == pytest.approx(10)
    assert Goal("accuracy", 0.5).rounds(table) == pytest.approx(12.5)
    assert Goal("loss", 1e-4).rounds(table) == math.inf
    diverged = pd.DataFrame({"round": [0, 1], "loss": [1.0, math.nan]})
    assert Goal("loss", 0.1).rounds(diverged) == math.inf


def test_targets_without_meaning_are_refused():
    table = pd.DataFrame({"round": [0, 1], "loss": [0.5, 0.1]})
    with pytest.raises(ConfigError, match=r"no column 'accuracy'.*Known: round, loss"):
        Goal("accuracy", 0.5).rounds(table)
    with pytest.raises(ConfigError, match=r"reached before training starts \(0\.5 at"):
        Goal("loss", 0.7).rounds(table)


# ---- step sizes -------------------------------------------------------------------------------------------------


class Fake:
    """Stands for an experiment in a search."""

    def __init__(self, lr, seed, rounds):
        self.lr, self.seed, self.rounds = lr, seed, rounds


def search(needed, grid=(0.25, 4.0, 5), limit=1000, seeds=(0, 1)):
    """A search over faked runs, and the (step sizes, rounds) of every call."""
    calls = []

    def run_all(fakes):
        calls.append((sorted({f.lr for f in fakes}), fakes[0].rounds))
        return [curve(needed(f.lr) * (1 + 0.1 * f.seed), f.rounds) for f in fakes]

    return Search(Fake, Goal("loss", 0.01), seeds, Grid(grid), limit, run_all), calls


def test_the_best_of_the_grid_by_the_mean_over_seeds():
    found, calls = search(lambda lr: parabola(lr, 1.9, 40))
    assert found.run(1.0, 100) == 2.0
    assert calls == [([0.25, 0.5, 1.0, 2.0, 4.0], 100)]
    least = parabola(2.0, 1.9, 40)
    assert found.rounds[2.0] == pytest.approx([least, 1.1 * least])


@pytest.mark.parametrize(("best", "direction"), [(8.0, "up"), (0.125, "down")])
def test_a_best_at_the_edge_extends_the_grid(best, direction):
    found, calls = search(lambda lr: parabola(lr, best, 10))
    assert found.run(1.0, 200) == pytest.approx(best)
    assert len(calls) == 2
    assert calls[1][0] == pytest.approx([8.0, 16.0, 32.0] if direction == "up" else [1 / 32, 1 / 16, 1 / 8])


def test_the_grid_is_extended_a_few_times_and_its_end_is_known():
    found, calls = search(lambda lr: 1500 / lr**0.5)
    assert found.run(1.0, 1000) == 4.0 * 2 ** (3 * stepsize.EXTENSIONS)
    assert len(calls) == 1 + stepsize.EXTENSIONS
    assert found.edge == "high"
    inside, _ = search(lambda lr: parabola(lr, 1.9, 40))
    inside.run(1.0, 100)
    assert inside.edge is None


@pytest.mark.parametrize("grid", [(0.25, 4.0, 7), (0.3, 3.0, 6), (0.6, 2.4, 7), (0.5, 2.5, 7)])
@pytest.mark.parametrize("guess", [0.01, 0.1, 10.0, 100.0])
def test_a_guess_a_hundred_times_off_is_found_with_few_rounds(grid, guess):
    """Gradient descent on a quadratic: 40 / (1 - (1 - lr)²) rounds, NaN from twice the best on."""
    law = lambda lr: math.nan if lr >= 2 else 40 / (1 - (1 - lr) ** 2)
    found, calls = search(law, grid, limit=2000)
    best = found.run(guess, 62)
    assert law(best) < 1.1 * 40
    assert found.edge is None
    assert max(rounds for _, rounds in calls) <= 62


def test_steps_that_get_nowhere_make_the_search_go_down():
    """Too large steps that give no NaN: the loss stays as it is, or rises; no round more is spent on them."""
    found, calls = search(lambda lr: math.inf if lr > 2 else parabola(lr, 1.0, 40))
    assert found.run(10.0, 100) == pytest.approx(1.0, rel=0.3)
    assert all(rounds == 100 for _, rounds in calls)
    assert max(lr for rates, _ in calls for lr in rates) == 40.0


def test_a_step_size_with_one_slow_seed_may_still_be_the_best():
    """Rounds 10, 10, 110 against 95, 95, 95 where the first horizon is 100."""

    def run_all(fakes):
        slow = lambda f: (10, 10, 110)[f.seed] if f.lr == 1 else 95
        return [curve(slow(f), f.rounds) for f in fakes]

    found = Search(Fake, Goal("loss", 0.01), (0, 1, 2), Grid((0.25, 4.0, 5)), 1000, run_all)
    assert found.run(1.0, 100) == 1.0
    assert found.rounds[1.0] == pytest.approx([10, 10, 110])


def test_rounds_double_until_the_target_is_reached_and_diverged_runs_stay():
    found, calls = search(lambda lr: parabola(lr, 0.5, 350))
    assert found.run(1.0, 100) == 0.5
    assert [rounds for _, rounds in calls] == [100, 200, 400]
    assert calls[1][0] == [0.25, 0.5, 1.0, 2.0]  # 4.0 diverged


def test_a_target_out_of_reach_is_none():
    found, calls = search(lambda lr: parabola(lr, 1.0, 500), limit=50)
    assert found.run(1.0, 100) is None
    assert [rounds for _, rounds in calls] == [50]
    down, calls = search(lambda lr: math.nan)
    assert down.run(1.0, 100) is None
    assert calls[-1][0][0] == pytest.approx(0.25 / 2 ** (3 * stepsize.EXTENSIONS))


def test_a_step_size_must_work_with_every_seed():
    found, _ = search(lambda lr: parabola(lr, 1.0, 95), limit=100)
    assert found.run(1.0, 100) is None  # the second seed takes 104.5
