"""A probe that goes on where it was cut off: what was tried is found again, and nothing else is."""

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import raysim as rs
from raysim.core.plugin import ConfigError
from tests.experiments import digits
from tests.tuning.fakes import EXPERIMENT, laws, parabola
from tuning.population import many
from tuning.regimes import Regimes, ledger
from tuning.regimes.ledger import Ledger


def bowl(simulation):
    """Rounds to the target: fewest at a step size of 0.3, half as many for a batch twice as large."""
    return parabola(simulation.local.optimizer.lr, 0.3, 200 / simulation.local.batch_size)


def probe(folder, *overrides, fresh=False, tell=None):
    return Regimes.from_yaml(EXPERIMENT, list(overrides)).run(tell, folder, fresh)


def test_nothing_is_run_twice_and_the_findings_are_the_same(monkeypatch, tmp_path):
    asked, told = laws(monkeypatch, bowl), []
    first = probe(tmp_path)
    number = len(asked)
    again = probe(tmp_path, tell=told.append)
    assert len(asked) == number > 0
    assert "Some of it was tried before" in told[0]
    pd.testing.assert_frame_equal(first.table(), again.table())
    assert (first.findings["law"].fit is None) == (again.findings["law"].fit is None)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_cut_off_anywhere_it_takes_the_same_way(monkeypatch, tmp_path, after):
    asked = laws(monkeypatch, bowl)
    whole = probe(tmp_path / "whole")
    number, ran = len(asked), ledger.run_all

    def interrupted(simulations):
        if len(asked) == number + after:
            raise KeyboardInterrupt
        return ran(simulations)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "run_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe(tmp_path / "cut")
    pd.testing.assert_frame_equal(probe(tmp_path / "cut").table(), whole.table())
    assert asked[number:] == asked[:number]


def test_another_value_or_seed_tries_only_what_is_new(monkeypatch, tmp_path):
    asked = laws(monkeypatch, bowl)
    probe(tmp_path, "regimes.values=[1,2]", "regimes.seeds=1")
    number = len(asked)
    probe(tmp_path, "regimes.values=[1,2,4]", "regimes.seeds=1")
    assert len(asked) > number
    with_three = len(asked)
    alone = probe(None, "regimes.values=[1,2,4]", "regimes.seeds=1")
    assert len(asked) - with_three > with_three - number
    assert alone.findings["law"].best.keys() == {1, 2, 4}


def test_fresh_tries_all_of_it_anew_and_removes_nothing_else(monkeypatch, tmp_path):
    asked = laws(monkeypatch, bowl)
    probe(tmp_path)
    (tmp_path / "mine.parquet").write_text("kept")
    (tmp_path / "tried" / "note.txt").write_text("kept")
    number = len(asked)
    probe(tmp_path, fresh=True)
    assert len(asked) == 2 * number
    assert (tmp_path / "mine.parquet").exists()
    assert (tmp_path / "tried" / "note.txt").exists()


def counted(monkeypatch):
    """How often each experiment runs for real."""
    ran = []

    def run_all(simulations):
        ran.extend(simulations)
        return many.run_all(simulations)

    monkeypatch.setattr(ledger, "run_all", run_all)
    return ran


def rate(lr, **fields):
    return digits(
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=2, batch_size=8), rounds=2, **fields
    )


def test_metrics_come_back_as_they_were_and_in_order(monkeypatch, tmp_path):
    ran = counted(monkeypatch)
    pair = [rate(0.1), rate(0.3)]
    kept = Ledger(tmp_path).run_all(pair)
    back = Ledger(tmp_path).run_all([pair[1], rate(0.2), pair[0]])
    assert [s.local.optimizer.lr for s in ran] == [0.1, 0.3, 0.2]
    pd.testing.assert_frame_equal(back[0], kept[1], check_exact=True)
    pd.testing.assert_frame_equal(back[2], kept[0], check_exact=True)


def test_where_and_under_which_name_it_ran_does_not_matter_and_everything_else_does(monkeypatch, tmp_path):
    ran, kept = counted(monkeypatch), Ledger(tmp_path)
    kept.run_all([rate(0.1)])
    kept.run_all([rate(0.1, name="other", placement=rs.Placement(threads=2))])
    assert len(ran) == 1
    kept.run_all([rate(0.1, seed=9), rate(0.1).replaced(rounds=3)])
    monkeypatch.setattr(ledger, "__version__", "another")
    kept.run_all([rate(0.1)])
    assert len(ran) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
import raysim as rs
from tests.experiments import digits
from tuning.population import many
from tuning.regimes import ledger

def run_all(simulations, left=[2]):
    left[0] -= 1
    os.kill(os.getpid(), signal.SIGKILL) if left[0] < 0 else None
    return many.run_all(simulations)

ledger.run_all = run_all
local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=2, batch_size=8)
ledger.Ledger(Path(sys.argv[1])).run_all([digits(local=local, rounds=2, seed=seed) for seed in range(4)])
"""


def test_after_a_kill_only_what_was_in_progress_is_lost(monkeypatch, tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False, timeout=200)
    assert done.returncode == -signal.SIGKILL
    ran = counted(monkeypatch)
    assert len(Ledger(tmp_path).run_all([rate(0.1, seed=seed) for seed in range(4)])) == 4
    assert [s.seed for s in ran] == [2, 3]


def test_a_file_that_cannot_be_read_counts_as_none(monkeypatch, tmp_path):
    ran = counted(monkeypatch)
    Ledger(tmp_path).run_all([rate(0.1)])
    [file] = (tmp_path / "tried").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:50])
    Ledger(tmp_path).run_all([rate(0.1)])
    Ledger(tmp_path).run_all([rate(0.1)])
    assert len(ran) == 2


def test_a_disk_that_takes_no_more_is_said(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(ConfigError, match=r"cannot be kept in .*No space left on device. Make room"):
        Ledger(tmp_path).run_all([rate(0.1)])
    assert not list((tmp_path / "tried").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        Ledger(tmp_path / "file")


def test_data_that_exist_in_python_only_are_not_kept(tmp_path):
    x, y = rs.data.Digits().load().x_train[:40], rs.data.Digits().load().y_train[:40]
    own = rate(0.1, data=rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y))
    with pytest.raises(ConfigError, match=r"data.* exists in Python only"):
        Ledger(tmp_path).run_all([own])
    assert len(Ledger(None).run_all([own])) == 1
