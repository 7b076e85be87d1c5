"""What a sweep's tables say: own columns apart from swept ones, missing seeds, directions; errors in a line."""

import io

import pytest
from rich.console import Console

import raysim as rs
import tuning
from tests.tuning.parts import tiny
from tuning import tuned
from tuning.plan import Plan, read_block
from tuning.population import many
from tuning.sweep import Sweep
from tuning.table import printed, summarised

LR = "local.optimizer.lr"


def shown(found):
    """The table as it is printed."""
    console = Console(width=200, file=io.StringIO())
    console.print(found.printed())
    return console.file.getvalue()


def test_rounds_may_be_swept():
    found = tuning.sweep(tiny(), {"rounds": [1, 4]}, folder=None)
    for table in (found.table(), found.trials()):
        assert sorted(table["rounds"]) == sorted(table["rounds_done"]) == [1, 4]
    assert found.best().rounds == 4


def test_a_configuration_without_all_its_seeds_is_not_yet_the_best(tmp_path, monkeypatch):
    run_all, stacks = many.run_all, []

    def interrupted(simulations, tell=None, watch=None):
        stacks.append([s.local.optimizer.lr for s in simulations])
        if len(stacks) == 4:
            raise KeyboardInterrupt
        return run_all(simulations, tell)

    monkeypatch.setattr(many, "run_all", interrupted)
    plan = Plan(tiny(), read_block({"over": {LR: [0.001, 0.3]}, "seeds": 2, "chunk": 1}))
    cut = Sweep(plan, tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert stacks == [[0.001], [0.3], [0.001], [0.3]]
    assert cut.table()[LR].tolist() == [0.001, 0.3]  # 0.3 is better, with the seed that it has
    assert cut.table()["loss"].tolist() == sorted(cut.table()["loss"], reverse=True)
    assert "(1 of 2 seeds)" in shown(cut)
    alone = Sweep(plan, None)
    alone.runs[:] = [run for run in cut.runs if run.trial == 1]
    assert ", with 1 of 2 seeds so far\n" in alone.best_yaml()
    assert "seeds so far" not in cut.best_yaml()


@pytest.mark.parametrize(("metric", "better"), [("accuracy", "larger"), ("loss", "smaller")])
def test_the_direction_is_said(metric, better):
    found = tuning.sweep(tiny(rounds=1), {LR: [0.1, 0.2]}, metric=metric, folder=None)
    assert f"final test {metric} ({better} is better)" in shown(found)
    assert "so far" not in shown(found)
    console = Console(width=200, file=io.StringIO())
    console.print(printed(summarised(found.runs, found.plan), found.plan, so_far=True))
    assert "so far" in console.file.getvalue()


def test_data_that_is_missing_takes_a_line(tmp_path):
    over = {"data": [{"name": "Npz", "path": str(tmp_path / "nowhere.npz")}, rs.data.Digits(test=100)]}
    lines = []
    found = tuning.sweep(tiny(rounds=1), over, folder=None, tell=lines.append)
    [lost] = found.failed
    assert "nowhere.npz" in lost.error
    assert "Traceback" not in lost.error
    assert len(lost.error.splitlines()) == 1


def test_a_number_is_no_experiment():
    with pytest.raises(
        rs.ConfigError, match="experiment must be an experiment or a file that holds one, got 3"
    ):
        tuning.sweep(3, over={})


def test_a_trial_of_many_seeds_has_a_short_folder():
    trial = type("T", (), {"config": {"point": {"trial": 7, "seeds": ",".join(map(str, range(100)))}}})
    assert tuned._dirname(trial) == "7-seed-0-to-99"
    trial.config["point"]["seeds"] = "3"
    assert tuned._dirname(trial) == "7-seed-3"
