"""Progress: lines in a file, a bar on a terminal, warnings once, and a closing table."""

import io
import json
import math
import time
import warnings

import pandas as pd
import pytest
import torch
from rich.console import Console

import raysim as rs
from raysim.report.progress import Progress
from raysim.result import Result

PREPARED = {
    "kind": "prepared",
    "clients": 1000,
    "cohort": 100,
    "parameters": 4810,
    "form": "inplace",
    "block": 25,
    "examples": 28740,
    "rounds": 100,
}


def events(rounds):
    """What the coordinator tells of a run."""
    yield PREPARED
    for round in range(rounds + 1):
        yield {"kind": "metrics", "round": round, "loss": 2.0 / (round + 1), "accuracy": round / rounds}
        if round:
            yield {"kind": "round", "round": round, "client_updates": 100 * round, "seconds": 0.05 * round}
    yield {"kind": "ended", "status": "finished", "round": rounds}


def watched(rounds, console=None):
    """Everything a run of so many rounds prints."""
    bar = Progress(rounds, shown=True)
    bar.console = console or Console(file=io.StringIO(), width=100)
    with bar:
        for event in events(rounds):
            bar.watch(event)
    return bar.console.file.getvalue()


def test_a_log_file_gets_about_ten_lines():
    lines = watched(100).splitlines()
    assert lines[0] == (
        "1,000 clients (100 a round), 28,740 training examples, 4,810 parameters; "
        "computed inplace in blocks of 25 clients"
    )
    assert 10 <= len(lines[1:]) <= 12
    assert lines[-1] == "round 100/100  loss 0.01980  accuracy 100.0 %  2,000 client updates/s"
    assert "\x1b" not in "".join(lines)


def test_a_short_run_gets_a_line_per_round():
    assert [line.split()[1] for line in watched(3).splitlines()[1:]] == ["1/3", "2/3", "3/3"]


def test_a_terminal_gets_a_bar_that_ends_at_the_last_round():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    text = watched(50, console)
    assert "50/50" in text
    assert "accuracy 100.0 %" in text
    assert "1,000 clients" in text


def test_a_thousand_quick_rounds_cost_little():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    begin = time.process_time()
    watched(1000, console)
    assert time.process_time() - begin < 1.0


def test_a_warning_is_shown_once_and_as_it_is():
    bar = Progress(3, shown=True)
    bar.console = Console(file=io.StringIO(), width=60)
    with bar:
        for _ in range(3):
            bar.watch({"kind": "warning", "text": "block [2] was lost"})
    assert bar.console.file.getvalue() == "warning: block [2] was lost\n"


def test_not_shown_it_prints_nothing_and_warns_once_per_text(capsys):
    bar = Progress(3, shown=False)
    with warnings.catch_warnings(record=True) as caught, bar:
        warnings.simplefilter("always")
        for event in events(3):
            bar.watch(event)
        for text in ("one", "two", "one"):
            bar.watch({"kind": "warning", "text": text})
        bar.close(None)
    assert [str(w.message) for w in caught] == ["one", "two"]
    assert capsys.readouterr().out == ""


def test_what_a_resumed_and_timed_run_says():
    bar = Progress(10, shown=True)
    bar.console = Console(file=io.StringIO(), width=60)
    with bar:
        bar.watch({"kind": "timed", "seconds": {"loop": 0.02, "stacked": 0.004}, "form": "stacked"})
        bar.watch({"kind": "resumed", "round": 5})
        bar.watch({"kind": "checkpoint", "round": 6})
    first, second = bar.console.file.getvalue().splitlines()
    assert first == "Timed the first block: loop 20 ms, stacked 4 ms. Running as stacked."
    assert second == "Continuing after round 5."


@pytest.fixture
def simulation():
    """Any experiment; it is not run."""
    return rs.Simulation(
        data=rs.data.Digits(),
        partition=rs.partitions.IID(clients=10),
        model=rs.models.MLP(),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1),
        rounds=2,
    )


def closed(simulation, status, losses, folder=None):
    """The closing table of a run with those losses, as text."""
    rows = [
        {
            "round": i,
            "loss": x,
            "bits_up": 8e6 * i,
            "bits_down": 16e6 * i,
            "client_updates": 10 * i,
            "seconds": i,
        }
        for i, x in enumerate(losses)
    ]
    result = Result(simulation, status, rows, torch.zeros(1), folder, float(len(rows) - 1))
    bar = Progress(2, shown=True)
    bar.console = Console(file=io.StringIO(), width=100)
    bar.close(result)
    return " ".join(bar.console.file.getvalue().split())


def test_closing_table_of_a_finished_run(simulation):
    text = closed(simulation, "finished", [2.3, 0.5, 0.75])
    assert "status finished rounds 2 of 2" in text
    assert "test loss 0.7500, best 0.5000 after round 1" in text
    assert "client updates 20, 10 per second" in text
    assert "uplink 2 MB, 100 kB per client update" in text
    assert "downlink 4 MB, 200 kB per client update" in text
    assert "time in rounds 2 s" in text
    assert "diverged" not in text


def test_closing_table_of_a_diverged_run_gives_advice(simulation, tmp_path):
    text = closed(simulation, "diverged", [2.3, 0.5, math.nan], tmp_path)
    assert "test loss not finite, best 0.5000 after round 1" in text
    assert "smaller step size" in text
    assert "is kept in" in text


def test_a_run_that_never_improved_is_told_so(simulation):
    assert "never fell below" in closed(simulation, "finished", [2.3, 9.0, 8.0])


def test_a_stopped_run_says_how_to_continue(simulation, tmp_path):
    folder = tmp_path / ("long" * 30)
    assert f"raysim resume {folder}" in closed(
        simulation, "stopped", [2.3, 0.5], folder
    )  # in one piece, to copy


def test_a_run_without_metrics_has_a_status(simulation):
    assert closed(simulation, "stopped", []).startswith("status stopped")
    assert pd.DataFrame(json.loads("[]")).empty
