"""Comparisons, and numbers with their units."""

import math

import pandas as pd
import pytest
from rich.console import Console

from raysim.core.plugin import ConfigError
from raysim.report import units
from raysim.report.tables import comparison, comparison_table, summary


def run(losses, accuracies):
    """Metrics of a run evaluated every 5 rounds."""
    n = range(len(losses))
    return pd.DataFrame(
        {
            "round": [5 * i for i in n],
            "loss": losses,
            "accuracy": accuracies,
            "bits_up": [8e6 * i for i in n],
            "bits_down": [16e6 * i for i in n],
            "seconds": [0.5 * i for i in n],
        }
    )


FAST = run([2.0, 0.5, 0.2, 0.3], [0.1, 0.8, 0.95, 0.9])
SLOW = run([2.0, 1.0, 0.6, 0.4], [0.1, 0.5, 0.7, 0.8])
LOST = run([2.0, 1.9, math.nan], [0.1, 0.2, 0.1])


def test_the_target_is_what_the_weakest_sound_run_reaches():
    table = comparison({"fast": FAST, "slow": SLOW, "lost": LOST}, "loss")
    assert table["target"].tolist() == [0.4] * 3
    assert table.loc["fast", ["final", "best", "round", "bits_up", "seconds"]].tolist() == [
        0.3,
        0.2,
        10,
        16e6,
        1.0,
    ]
    assert table.loc["slow", "round"] == 15
    assert math.isnan(table.loc["lost", "round"])
    assert math.isnan(table.loc["lost", "final"])
    assert table.loc["lost", "best"] == 1.9


def test_accuracy_is_better_when_higher():
    table = comparison({"fast": FAST, "slow": SLOW}, "accuracy")
    assert table["target"].tolist() == [0.8] * 2
    assert table["round"].tolist() == [5, 15]


def test_the_printed_table_says_never_and_diverged():
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(
            comparison_table(comparison({"fast": FAST, "slow": SLOW, "lost": LOST}, "loss"), "loss")
        )
    text = capture.get()
    assert "to reach ≤ 0.4000" in text
    lost = next(line for line in text.splitlines() if "lost" in line)
    assert "diverged" in lost
    assert "never" in lost
    assert "2 MB" in next(line for line in text.splitlines() if "fast" in line)


def test_unknown_or_empty_metrics_are_refused():
    with pytest.raises(ConfigError, match="Known: round, loss"):
        comparison({"fast": FAST}, "f1")
    with pytest.raises(ConfigError, match="nothing to compare"):
        comparison({"lost": run([math.nan], [math.nan])}, "loss")


def test_summary_of_a_run_that_never_was_finite():
    final, best, round = summary(run([math.nan], [0.1]), "loss")
    assert math.isnan(final)
    assert math.isnan(best)
    assert round == 0


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("loss", 0.5, "0.5000"),
        ("loss", 12345.6, "12,346"),
        ("loss", math.inf, "not finite"),
        ("accuracy", 0.934, "93.4 %"),
        ("bits_up", 0, "0 bytes"),
        ("bits_up", 80, "10 bytes"),
        ("bits_up", 1e7, "1.25 MB"),
        ("bits_down", 8e15, "1,000 TB"),
        ("seconds", 0.0153, "15.3 ms"),
        ("seconds", 150, "150 s"),
        ("seconds", 1200, "20 min"),
        ("sim_seconds", 36000, "10 h"),
        ("round", 1500, "1,500"),
        ("client_updates", 100000, "100,000"),
    ],
)
def test_numbers_for_people(column, value, text):
    assert units.shown(column, value) == text
