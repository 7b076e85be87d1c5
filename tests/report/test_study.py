"""A study's table and figure: means and spreads by hand, bands, runs that diverged, columns that are not there."""

import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from raysim.core.plugin import ConfigError
from raysim.report.study import ending, figure, study_table, summarised


def metrics(losses, **more):
    """A run's metrics."""
    rounds = np.arange(len(losses))
    return pd.DataFrame(
        {"round": rounds, "loss": losses, "bits_up": 8e6 * rounds, "seconds": 1.0 * rounds, **more}
    )


def text(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(study_table(table, "tiny"))
    return console.file.getvalue()


def test_final_values_are_mean_and_sample_standard_deviation():
    runs = {
        "a": [metrics([2.0, 1.0], accuracy=[0.1, 0.5]), metrics([2.0, 1.2], accuracy=[0.1, 0.6])],
        "b": [metrics([2.0, 0.5], spread=[math.nan, 3.0]), metrics([2.0, 0.5], spread=[math.nan, 5.0])],
    }
    table = summarised(runs, ["spread"])
    assert table.loc["a", "loss"] == pytest.approx(1.1)
    assert table.loc["a", "loss_sd"] == pytest.approx(0.2 / math.sqrt(2))
    assert table.loc["b", "spread"] == 4.0
    assert math.isnan(table.loc["a", "spread"])
    shown = text(table)
    assert "mean ± standard deviation of 2 seeds" in shown
    for cell in ("1.100 ± 0.141", "55.0 ± 7.1 %", "4.000 ± 1.414", "1 MB", "–"):
        assert cell in shown


def test_one_seed_has_no_spread():
    shown = text(summarised({"a": [metrics([2.0, 1.0])]}))
    assert "±" not in shown
    assert "1.000" in shown


def test_runs_that_diverged_are_counted_not_averaged():
    bad, good = metrics([2.0, math.nan]), metrics([2.0, 1.0])
    table = summarised({"some": [bad, good], "all": [bad, bad]})
    assert table["diverged"].tolist() == [1, 2]
    assert table["loss"].isna().all()
    shown = text(table)
    assert "1 of 2 diverged" in shown
    assert re.search(r"all +│ +diverged", shown)
    assert ending(bad) == "diverged, 1 s"
    assert ending(good) == "loss 1.000, 1 s"


def test_curves_are_means_in_a_band_from_least_to_largest():
    runs = {"a": [metrics([2.0, 1.0, 0.9]), metrics([2.0, 1.2])], "b": [metrics([2.0, 1.5, 1.4])]}
    drawn = figure(runs, [("loss", "round"), ("loss", "bits_up")])
    left, right = drawn.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("communication rounds", "uplink, MB")
    assert np.allclose(left.get_lines()[0].get_ydata(), [2.0, 1.1])  # as far as both seeds came
    assert len(left.collections) == 1  # a single seed has no band
    low, high = left.collections[0].get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == pytest.approx((1.0, 2.0))
    assert [t.get_text() for t in drawn.legends[0].get_texts()] == ["a", "b"]


def test_a_metric_of_some_variants_only_is_drawn_for_those():
    runs = {"a": [metrics([2.0, 1.0])], "b": [metrics([2.0, 1.5], far=[100.0, 0.1])]}
    drawn = figure(runs, [("far", "round"), ("loss", "round")])
    assert len(drawn.axes[0].get_lines()) == 1
    assert drawn.axes[0].get_yscale() == "log"  # three decades
    assert [t.get_text() for t in drawn.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    "make", [lambda runs: figure(runs, [("f1", "round")]), lambda r: summarised(r, ["f1"])]
)
def test_a_column_that_no_run_has_is_refused(make):
    with pytest.raises(ConfigError, match=r"column 'f1'\. Known: round, loss, bits_up, seconds"):
        make({"a": [metrics([2.0, 1.0])]})
