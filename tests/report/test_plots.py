"""Figures: the right numbers on the right axes, with units; refused columns named."""

import io
import math

import numpy as np
import pandas as pd
import pytest

from raysim.core.plugin import ConfigError
from raysim.report.plots import curves, overview


def metrics(losses, accuracy=True):
    """A run's metrics."""
    rows = []
    for i, loss in enumerate(losses):
        row = {
            "round": 10 * i,
            "loss": loss,
            "bits_up": 8e6 * i,
            "seconds": 300.0 * i,
            "client_updates": 20000 * i,
        }
        if i:
            row["train_loss"] = loss / 2
        rows.append(row | ({"accuracy": i / len(losses)} if accuracy else {}))
    return pd.DataFrame(rows)


def drawn(figure):
    """The figure really renders, without warnings."""
    file = io.BytesIO()
    figure.savefig(file, dpi=50)
    return file.tell() > 1000


def test_one_panel_for_each_quantity_with_units():
    runs = {"a": metrics([2.0, 1.0, 0.5]), "b": metrics([2.0, 1.5, 1.2])}
    figure = curves(runs, "loss", ["round", "bits_up", "seconds", "client_updates"])
    assert [p.get_xlabel() for p in figure.axes] == [
        "communication rounds",
        "uplink, MB",
        "time in rounds, min",
        "client updates, thousands",
    ]
    assert figure.axes[0].get_ylabel() == "test loss"
    assert figure.axes[1].get_ylabel() == ""
    assert {p.get_yscale() for p in figure.axes} == {"linear"}
    line = figure.axes[1].get_lines()[0]
    assert np.allclose(line.get_xdata(), [0, 1, 2])
    assert np.allclose(line.get_ydata(), [2.0, 1.0, 0.5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert drawn(figure)


def test_a_loss_over_more_than_a_decade_is_logarithmic_in_plain_numbers():
    panel = curves({"a": metrics([2.0, 0.3, 0.1])}, "loss", ["round"]).axes[0]
    assert panel.get_yscale() == "log"
    assert panel.yaxis.get_major_formatter()(0.2) == "0.2"
    zero = curves({"a": metrics([2.0, 0.3, 0.0])}, "loss", ["round"]).axes[0]
    assert zero.get_yscale() == "linear"


def test_accuracy_is_in_percent_and_linear():
    panel = curves({"a": metrics([2.0] * 40)}, "accuracy", ["round"]).axes[0]
    assert panel.get_ylabel() == "test accuracy, %"
    assert panel.get_yscale() == "linear"
    assert panel.get_lines()[0].get_ydata()[-1] == pytest.approx(97.5)


def test_any_column_can_be_drawn():
    table = metrics([2.0, 1.0]).assign(consensus_distance=[0.0, 0.1])
    panel = curves({"a": table}, "consensus_distance", ["round"]).axes[0]
    assert panel.get_ylabel() == "consensus distance"


@pytest.mark.parametrize(("metric", "against"), [("f1", ["round"]), ("loss", ["round", "bits"])])
def test_an_unknown_column_is_refused_with_those_there_are(metric, against):
    with pytest.raises(ConfigError, match=r"Run a has no column '(f1|bits)'\. Known: round, loss, bits_up"):
        curves({"a": metrics([2.0, 1.0])}, metric, against)


def test_a_run_without_metrics_is_refused():
    with pytest.raises(ConfigError, match="none yet"):
        curves({"a": pd.DataFrame()}, "loss", ["round"])


def test_a_diverged_run_ends_in_a_cross():
    figure = curves({"a": metrics([2.0, 1.0, math.nan])}, "loss", ["round"])
    panel = figure.axes[0]
    assert [text.get_text() for text in panel.texts] == ["diverged"]
    assert list(panel.get_lines()[1].get_xdata()) == [10.0]
    assert drawn(figure)


def test_overview_shows_both_losses_and_accuracy():
    figure = overview({"quickstart-1": metrics([2.0, 1.0, 0.5])})
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "test accuracy, %")
    assert sorted(len(line.get_xdata()) for line in loss.get_lines()) == [2, 3]
    assert figure.get_suptitle() == "quickstart-1"
    assert drawn(figure)


def test_overview_without_accuracy_is_one_panel():
    assert len(overview({"a": metrics([2.0, 1.0], accuracy=False)}).axes) == 1


def test_more_runs_than_colours_differ_in_style():
    runs = {f"run {i}": metrics([2.0, 1.0 + i]) for i in range(13)}
    figure = curves(runs, "loss", ["round"])
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 13
    assert drawn(figure)
