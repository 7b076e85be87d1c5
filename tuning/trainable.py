"""A trial of Ray Tune: one configuration, all its seeds that Tune is to see as one, some evaluations per step."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray import tune

from raysim.runtime import placing
from raysim.runtime.stepwise import Stepwise
from tuning.records import reached

if TYPE_CHECKING:
    from raysim.simulation import Simulation
    from tuning.plan import Plan

WORST = 1e30
"""What a scheduler is told of a run that diverged: a number, as it would compare NaN wrongly."""

NOT_VALUES = ("trial", "seeds")


def values_of(point: dict[str, Any]) -> dict[str, Any]:
    """The coded values in a trial's configuration."""
    return {path: value for path, value in point.items() if path not in NOT_VALUES}


class SweepTrial(tune.Trainable):
    """A configuration of a sweep.

    ``config["point"]`` holds its number (``trial``), the ``seeds`` as text, and the coded values by field. Results have
    ``round``, the metrics (their mean over seeds), ``objective`` (finite, for schedulers) and ``rows``: the evaluations
    by seed as JSON, all of them if ``whole``, else those since the last result.
    """

    def setup(
        self, config: dict[str, Any], plan: Plan | None = None, ended: dict[str, Any] | None = None
    ) -> None:
        """Take in the sweep; what costs time waits for the first step."""
        assert plan is not None
        torch.set_num_threads(plan.base.placement.threads)
        self.plan, self.ended = plan, ended or {}
        self.runs: list[Stepwise] = []
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process."""
        self.cleanup()
        self._take(new_config)
        return True

    def cleanup(self) -> None:
        """Give client actors back."""
        for run in self.runs:
            run.close()
        self.runs = []

    def _take(self, config: dict[str, Any]) -> None:
        point = config["point"]
        self.values = values_of(point)
        self.seeds = [int(seed) for seed in str(point["seeds"]).split(",")]
        self.known = self.ended.get(identity(point))
        self.history: list[Any] = [[0, self.values]]
        self.told, self.whole, self.idle = [0] * len(self.seeds), True, 0

    def _begin(self) -> None:
        """Start every seed's run."""
        size = len(placing.bundles(self.plan.base.placement)) if self.plan.base.placement.actors else 0
        for i, seed in enumerate(self.seeds):
            run = Stepwise(self.plan.simulation(self.values, seed))
            self.runs.append(run)
            with placing.lent(i * size) if size else contextlib.nullcontext():
                run.begin()

    # ---- Ray Tune's side ---------------------------------------------------------------------------------------

    def step(self) -> dict[str, Any]:
        """Some evaluations further."""
        if self.known is not None:  # it ended before the sweep was interrupted, after Tune's last note of it
            return self.known
        if not self.runs:
            self._begin()
        first = self.runs[0].simulation
        step = evaluations_per_step(first, self.plan.block.reports) * first.evaluate_every
        statuses = []
        if not self.idle:
            statuses = [run.advance(step - run.server.round % step).status for run in self.runs]
        return self._result(self.idle > 0 or "diverged" in statuses, step)

    def _result(self, diverged: bool, step: int) -> dict[str, Any]:
        rounds = self.runs[0].simulation.rounds
        self.idle = self.idle + step if diverged else 0
        result = self._means(diverged)
        result["round"] = min(rounds, max(run.server.round for run in self.runs) + self.idle)
        over = diverged and not self.plan.revives  # a population replaces what diverged by what did not
        result["done"] = over or result["round"] >= rounds
        result["status"] = "diverged" if diverged else "finished" if result["done"] else "running"
        each = zip(self.seeds, self.runs, self.told, strict=True)
        since = {seed: run.rows[told:] for seed, run, told in each}
        result |= {"rows": json.dumps(since), "whole": self.whole, "history": json.dumps(self.history)}
        result["warnings"] = json.dumps(
            [e["text"] for r in self.runs for e in r.events if e["kind"] == "warning"]
        )
        for run in self.runs:
            run.events.clear()
        self.told, self.whole = [len(run.rows) for run in self.runs], False
        return result

    def _means(self, diverged: bool) -> dict[str, Any]:
        """Metrics, their mean over seeds, and the number that schedulers compare."""
        block, mode = self.plan.block, self.plan.mode
        last = [run.rows[-1] for run in self.runs]
        columns = [c for c in last[0] if c != "round" and all(c in row for row in last)]
        means = {c: math.fsum(row[c] for row in last) / len(last) for c in columns}
        if not diverged:
            self.plan.require_metric(columns)
        values = [reached(run.rows, block.metric, mode, block.at) for run in self.runs]
        value = math.nan if diverged else math.fsum(values) / len(values)
        worst = WORST if mode == "min" else -WORST
        return means | {"objective": value if math.isfinite(value) else worst}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write models, what rules and clients keep, and the metrics so far."""
        root = Path(checkpoint_dir)
        facts = {"history": self.history, "values": self.values, "idle": self.idle}
        (root / "trial.json").write_text(json.dumps(facts))
        for seed, run in zip(self.seeds, self.runs, strict=False):
            run.save(root / str(seed))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there, with this trial's own values: they may not be those that the checkpoint was made with."""
        root = Path(checkpoint)
        facts = json.loads((root / "trial.json").read_text())
        if self.known is not None or not (root / str(self.seeds[0])).exists():
            return
        if not self.runs:
            self._begin()
        for seed, run in zip(self.seeds, self.runs, strict=True):
            run.load(root / str(seed))
        self.history = facts["history"]
        if facts["values"] != self.values:
            self.history = [*self.history, [self.runs[0].server.round, self.values]]
            facts["idle"] = 0
        self.told, self.whole, self.idle = [0] * len(self.seeds), True, facts["idle"]


def identity(point: dict[str, Any]) -> str:
    """What tells a trial from the others, over restarts."""
    trial = point.get("trial", -1)
    return f"{trial}/{point['seeds']}" if trial >= 0 else json.dumps(values_of(point))


def evaluations_per_step(simulation: Simulation, reports: int) -> int:
    """Evaluations between two results."""
    evaluations = -(-simulation.rounds // simulation.evaluate_every)
    return max(1, -(-evaluations // reports))
