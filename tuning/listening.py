"""What Ray Tune reports, as runs of the sweep."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray import tune

from raysim.core.plugin import ConfigError
from tuning.live import Watch
from tuning.plan import Plan
from tuning.records import Run
from tuning.trainable import identity, values_of

Keep = Callable[[Run], None]

_sinks: list[Sink] = []  # Ray Tune pickles callbacks with its state: what they hand over to cannot be in them


@contextlib.contextmanager
def listening(sink: Sink) -> Iterator[None]:
    """Inside, the sink hears of every trial."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


class Recorder(tune.Callback):
    """Hands what Ray Tune reports to the sweep that is running in this process, if there is one."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its clock runs."""
        for sink in _sinks:
            sink.started.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Some more evaluations."""
        for sink in _sinks:
            sink.take(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's last result is there."""
        for sink in _sinks:
            sink.end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's code failed."""
        for sink in _sinks:
            sink.fail(trial)


class Refusal(tune.Stopper):
    """Ends everything where no trial can be right."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A trial ends by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep cannot go on."""
        return any(sink.refused or sink.lost for sink in _sinks)


class Sink:
    """Turns Ray Tune's results into runs of the sweep.

    Args:
        plan: the sweep.
        kept: runs that have ended before.
        keep: called with each run that ends.
        watch: shows how far it is.
    """

    def __init__(self, plan: Plan, kept: list[Run], keep: Keep, watch: Watch) -> None:
        self.plan, self.keep, self.watch = plan, keep, watch
        self.known = {run.key for run in kept if run.status != "failed"}
        self.numbers = {json.dumps(run.values): run.trial for run in kept}
        self.started: dict[str, float] = {}
        self.curves: dict[str, dict[int, list[dict[str, Any]]]] = {}
        self.refused = self.lost = ""

    def take(self, trial: Any, result: dict[str, Any]) -> None:
        """Evaluations of a trial."""
        if "rows" not in result:
            return
        curves = self.curves.setdefault(trial.trial_id, {})
        for seed, rows in json.loads(result["rows"]).items():
            curves[int(seed)] = rows if result["whole"] else curves.get(int(seed), []) + rows
        for text in json.loads(result["warnings"]):
            self.watch.once(f"warning: {text}")
        self.watch.running(self._name(trial), result["round"] / self.plan.base.rounds, len(curves))

    def end(self, trial: Any) -> None:
        """Keep what a trial came to."""
        result = trial.last_result or {}
        if self.refused or self.lost or "status" not in result:
            return
        if result["status"] == "known":
            self._close(trial)
            return
        history = json.loads(result["history"])
        values = history[-1][1]
        for seed, rows in self.curves.get(trial.trial_id, {}).items():
            self._keep(
                Run(
                    self._number(trial),
                    seed,
                    values,
                    _status(rows, result),
                    rows,
                    self._seconds(trial),
                    "",
                    history,
                )
            )
        self._close(trial)

    def fail(self, trial: Any) -> None:
        """Keep why a trial failed."""
        error = _traceback(trial)
        if error.startswith("sweep.metric is"):
            self.refused = error
            return
        point = self._point(trial)
        for seed in map(int, str(point["seeds"]).split(",")):
            rows = self.curves.get(trial.trial_id, {}).get(seed, [])
            values, number = values_of(point), self._number(trial)
            self._keep(Run(number, seed, values, "failed", rows, self._seconds(trial), error))
        self._close(trial)

    def _keep(self, run: Run) -> None:
        if run.key in self.known and not self.plan.revives:
            return
        try:
            self.keep(run)
            self.known.add(run.key)
        except ConfigError as error:  # the disk is full: Ray Tune is to end what runs before it is said
            self.lost = str(error)

    def _close(self, trial: Any) -> None:
        self.watch.gone(self._name(trial))

    def _seconds(self, trial: Any) -> float:
        """What each of its runs took of the time that the trial has computed for; of one that broke, since it began."""
        now = time.monotonic()
        whole = (trial.last_result or {}).get("time_total_s") or now - self.started.get(trial.trial_id, now)
        return whole / len(str(self._point(trial)["seeds"]).split(","))

    def _point(self, trial: Any) -> dict[str, Any]:
        """What the trial started with: population-based training gives it another's."""
        return trial.evaluated_params.get("point") or trial.config["point"]

    def _name(self, trial: Any) -> str:
        return identity(self._point(trial))

    def _number(self, trial: Any) -> int:
        """Of the configuration; those that a search invents are counted."""
        point = self._point(trial)
        if point.get("trial", -1) >= 0:
            return point["trial"]
        return self.numbers.setdefault(
            json.dumps(values_of(point)), 1 + max(self.numbers.values(), default=-1)
        )


def _traceback(trial: Any) -> str:
    """The last of what Ray Tune has written of a trial's failures, without its headline."""
    file = trial.error_file
    if not file or not Path(file).exists():
        return "The trial's process died, and nothing is known of it."
    text = Path(file).read_text(encoding="utf-8").rpartition("Failure # ")[2].partition("\n")[2].strip()
    said = re.search(r"^[\w.]*(?:ConfigError|DataError): (.*)\Z", text, re.MULTILINE | re.DOTALL)
    return said[1] if said else text  # a message that was written for it says all there is to know


def _status(rows: list[dict[str, Any]], result: dict[str, Any]) -> str:
    if rows and not math.isfinite(rows[-1]["loss"]):
        return "diverged"
    return "finished" if result["status"] == "finished" else "stopped"
