"""Two-way tables and heat maps: every number in its cell, the best one bold, runs that diverged named."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from raysim.core.plugin import ConfigError
from raysim.report.grid import Grid, figure, final, tables

GRID = Grid(("calm", "storm", "flood"), ("a", "b"))


def metrics(loss, accuracy=0.5):
    """A run's metrics."""
    return pd.DataFrame(
        {"round": [0, 1], "loss": [2.0, loss], "accuracy": [0.1, accuracy], "bits_up": 8e6, "seconds": 1.0}
    )


def runs(**changed):
    """Two seeds of every cell; losses 1, 2, ..., 6 plus and minus a tenth."""
    made = {}
    for i, (name, _, _) in enumerate(GRID.cells()):
        made[name] = [metrics(i + 1 + e, 0.1 * (i + 1) + e / 10) for e in (-0.1, 0.1)]
    return made | changed


def text(found, metric, styles=False):
    colours = "standard" if styles else None
    console = Console(file=io.StringIO(), width=160, force_terminal=styles, color_system=colours)
    console.print(tables(found, GRID, [metric], "tiny"))
    return console.file.getvalue()


def test_labels_go_row_by_row():
    assert [name for name, _, _ in GRID.cells()] == [
        "a, calm",
        "b, calm",
        "a, storm",
        "b, storm",
        "a, flood",
        "b, flood",
    ]


def test_final_values_are_means_and_standard_deviations_in_their_cells():
    shuffled = dict(reversed(runs().items()))
    mean, sd, diverged = final(shuffled, GRID, "loss")
    assert mean.loc["storm", "b"] == pytest.approx(4)
    assert mean.to_numpy() == pytest.approx(np.arange(1, 7).reshape(3, 2))
    assert sd.loc["flood", "a"] == pytest.approx(0.2 / math.sqrt(2))
    assert diverged.to_numpy().sum() == 0


def test_the_table_marks_the_best_of_every_row():
    said = lambda metric: " ".join(text(runs(), metric).split())
    assert "tiny: final test loss, mean ± standard deviation of 2 seeds" in said("loss")
    assert "tiny: final test accuracy, %, mean" in said("accuracy")
    shown = text(runs(), "loss", styles=True)
    assert "\x1b[1m3.00 ± 0.14\x1b[0m" in shown  # the least loss
    assert "\x1b[1m4.00" not in shown
    shown = text(runs(), "accuracy", styles=True)
    assert "\x1b[1m40.0 ± 1.4\x1b[0m" in shown  # the highest accuracy
    assert "\x1b[1m30.0" not in shown


def test_one_seed_has_no_spread():
    shown = text({name: many[:1] for name, many in runs().items()}, "loss")
    assert "one seed" in " ".join(shown.split())
    assert "±" not in shown


def test_runs_that_diverged_are_named_and_drawn_grey():
    bad = metrics(math.nan, math.nan)
    found = runs(**{"a, calm": [bad, bad], "b, storm": [bad, metrics(1.0)]})
    shown = text(found, "loss")
    assert next(line for line in shown.splitlines() if "calm" in line).split()[3] == "diverged"
    assert "1 of 2 diverged" in next(line for line in shown.splitlines() if "storm" in line)
    panel = figure(found, GRID, ["loss"]).axes[0]
    assert panel.images[0].get_array().mask.tolist() == [[True, False], [False, True], [False, False]]
    assert [t.get_text() for t in panel.texts] == ["diverged", "2.00", "3.00", "diverged", "5.00", "6.00"]


def test_nothing_is_left_when_all_diverged():
    bad = {name: [metrics(math.nan, math.nan)] for name, _, _ in GRID.cells()}
    assert text(bad, "loss").count("diverged") == 6
    figure(bad, GRID, ["loss"]).savefig(io.BytesIO())


def test_a_heat_map_has_a_panel_for_each_metric_and_brighter_is_better():
    out = figure(runs(), GRID, ["accuracy", "loss", "loss"])
    accuracy, loss = (axes for axes in out.axes if axes.images)
    assert [t.get_text() for t in accuracy.get_yticklabels()] == ["calm", "storm", "flood"]
    assert [t.get_text() for t in accuracy.get_xticklabels()] == ["a", "b"]
    assert accuracy.images[0].get_array()[1, 0] == pytest.approx(30)  # in per cent
    brightness = lambda image, value: sum(image.cmap(image.norm(value))[:3])
    assert brightness(accuracy.images[0], 60) > brightness(accuracy.images[0], 10)
    assert brightness(loss.images[0], 1) > brightness(loss.images[0], 6)
    out.savefig(io.BytesIO())


def test_losses_over_many_decades_are_on_a_logarithmic_scale():
    found = runs(**{"b, flood": [metrics(1e6), metrics(1e6)]})
    norm = figure(found, GRID, ["loss"]).axes[0].images[0].norm
    assert norm(1e3) == pytest.approx(0.5)


def test_a_column_that_no_run_has_is_refused():
    with pytest.raises(ConfigError, match=r"column 'f1'\. Known: round, loss"):
        figure(runs(), GRID, ["f1"])
