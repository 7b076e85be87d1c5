"""A trial by itself, without Ray Tune around it: in steps, saved, taken over by another; how values are changed."""

import json
import math
import shutil
from pathlib import Path

import pytest

import raysim as rs
from raysim.runtime.fleet import HostLost
from raysim.runtime.stepwise import Stepwise
from tests.tuning.parts import tiny
from tuning import plan, records
from tuning.explore import Explorer
from tuning.trainable import SweepTrial

LR = "local.optimizer.lr"


def made(over, experiment=None, **options):
    """A plan."""
    return plan.Plan(experiment or tiny(), plan.read_block({"over": over, **options}))


def test_a_run_in_steps_saved_and_loaded_ends_like_one_in_one_go(tmp_path):
    sim = tiny(rule=rs.rules.Scaffold(), rounds=6, evaluate_every=2)
    whole, parts, other = sim.run(None), Stepwise(sim), Stepwise(sim)
    parts.begin()
    assert parts.advance(3).status == "stopped"
    parts.save(tmp_path)
    other.begin()
    other.load(tmp_path)
    for run in (parts, other):
        assert run.advance(2).server.round == 5
        outcome = run.advance(99)
        assert outcome.status == "finished"
        assert outcome.server.x_P.equal(whole.x_P)
        drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        assert drop(outcome.rows) == drop(records.rows_of(whole.metrics))
        run.close()


def test_a_lost_host_after_loading_goes_back_to_what_was_loaded(tmp_path, monkeypatch):
    """And not to round 0: the loaded state may be another trial's, its files may be gone by then."""
    sim = tiny(rule=rs.rules.Scaffold(), rounds=6)
    donor, run = Stepwise(sim), Stepwise(sim)
    donor.begin()
    donor.advance(3)
    donor.save(tmp_path / "donor")
    run.begin()
    run.load(tmp_path / "donor")
    shutil.rmtree(tmp_path / "donor")
    run.advance(1)
    rounds = []
    rule_round = rs.rules.Scaffold.round
    lost = iter([True])

    def round_of(self, handle, server):
        rounds.append(server.round)
        if next(lost, False):
            run.fleet.load_rows([])
            raise HostLost("An actor died.")
        return rule_round(self, handle, server)

    monkeypatch.setattr(rs.rules.Scaffold, "round", round_of)
    outcome = run.advance(99)
    assert rounds == [4, 3, 4, 5]
    monkeypatch.undo()
    whole = sim.run(None)
    assert outcome.server.x_P.equal(whole.x_P)
    assert [row["round"] for row in outcome.rows] == list(range(7))
    kept = Path(run.kept.name)
    run.close()
    assert not kept.exists()


def trial_of(p, point):
    """A trial without Ray Tune around it."""
    trial = SweepTrial.__new__(SweepTrial)
    trial.setup({"point": point}, plan=p)
    return trial


def test_a_trial_reports_new_rows_only_and_takes_over_anothers_state(tmp_path):
    p = made({LR: [0.1, 0.3]}, tiny(rounds=4), how="tune", reports=2)
    trial = trial_of(p, {"trial": 0, "seeds": "0,1", LR: 0.1})
    first = trial.step()
    assert (first["round"], first["done"], first["whole"]) == (2, False, True)
    rows = json.loads(first["rows"])
    assert [row["round"] for row in rows["0"]] == [0, 1, 2]
    assert first["loss"] == pytest.approx((rows["0"][-1]["loss"] + rows["1"][-1]["loss"]) / 2)
    trial.save_checkpoint(str(tmp_path))
    second = trial.step()
    assert (second["round"], second["done"], second["whole"]) == (4, True, False)
    assert [row["round"] for row in json.loads(second["rows"])["1"]] == [3, 4]
    trial.reset_config({"point": {"trial": 1, "seeds": "0,1", LR: 0.3}})
    trial.load_checkpoint(str(tmp_path))
    other = trial.step()
    assert other["whole"]
    assert json.loads(other["history"]) == [[0, {LR: 0.1}], [2, {LR: 0.3}]]
    taken = json.loads(other["rows"])["0"]
    assert taken[:3] == rows["0"]
    assert taken[-1]["loss"] != json.loads(second["rows"])["0"][-1]["loss"]
    trial.cleanup()


def test_a_trial_that_diverged_tells_schedulers_a_number():
    for mode, worst in (("min", 1e30), ("max", -1e30)):
        p = made({LR: [1e38]}, how="tune", mode=mode)
        result = trial_of(p, {"trial": 0, "seeds": "0", LR: 1e38}).step()
        assert result["done"]
        assert result["status"] == "diverged"
        assert result["objective"] == worst
        assert math.isnan(result["loss"])


def test_exploring_stays_in_the_space():
    p = made({LR: {"log_uniform": [0.1, 1]}, "local.steps": [1, 2, 4]}, scheduler="pbt", samples=2)
    explore = Explorer(p, p.scheduler)
    seen = [explore({"point": {LR: 0.9, "local.steps": 4, "trial": 0}})["point"] for _ in range(200)]
    assert {point["local.steps"] for point in seen} == {1, 2, 4}
    assert all(0.1 <= point[LR] <= 1 for point in seen)
    factors = sum(point[LR] in (0.72, 1.0) for point in seen)
    assert 120 < factors < 175  # three of four are moved, one is drawn
    assert Explorer(p, p.scheduler)({"point": {LR: 0.9, "local.steps": 4}})["point"][LR] == seen[0][LR]
