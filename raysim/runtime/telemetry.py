"""What a run says of itself while it goes: Ray metrics for Prometheus, and its events as lines of JSON for logs.

Metrics carry one tag, the run: never a client, since every value of a tag makes a series of its own. Ray exports them
on each node's metrics port as ``ray_<name>`` (counters as ``ray_<name>_total``), about ten seconds late, and drops
gauges soon after the process that set them. Importing this takes neither Ray nor torch: a job that waits for its turn
writes lines too.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysim.runtime.outcome import Tally

PERIOD = 1.0  # seconds between updates, at least: short rounds come by the thousand

GAUGES = {
    "raysim_round": "Rounds that the run has done.",
    "raysim_rounds": "Rounds that the run is to do.",
    "raysim_loss": "Loss on the test set, the last that was finite.",
    "raysim_accuracy": "Accuracy on the test set, from 0 to 1.",
    "raysim_client_updates_per_second": "Client updates per second spent in rounds, since the last update.",
    "raysim_seconds_per_round": "Seconds per round, without evaluation and checkpoints, since the last update.",
    "raysim_coordinator_bytes": "Memory resident in the coordinator's process.",
    "raysim_clients_bytes": "Memory resident in all client actors; mapped data sets count once per actor.",
}
COUNTERS = {
    "raysim_client_updates": "Client updates done, those of rounds done again included.",
    "raysim_bits_up": "Bits that clients sent to the server.",
    "raysim_bits_down": "Bits that the server sent to clients.",
}


def exported() -> set[str]:
    """Names under which Prometheus finds them."""
    return {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}


class Telemetry:
    """Exports a run's progress as Ray metrics, at most once per ``PERIOD``.

    Args:
        run: the run's name, the only tag.
        clock: seconds, increasing.
    """

    def __init__(self, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        from ray.util import metrics

        self.clock, self.due = clock, -math.inf
        self.tags = {"run": run}
        self.gauges = {name: metrics.Gauge(name, text, ("run",)) for name, text in GAUGES.items()}
        self.counters = {name: metrics.Counter(name, text, ("run",)) for name, text in COUNTERS.items()}
        self.latest: dict[str, float] = {}
        self.round = 0
        self.seen: dict[str, float] = dict.fromkeys(
            ("round", "client_updates", "bits_up", "bits_down", "seconds"), 0
        )
        self.more = dict.fromkeys(self.seen, 0.0)  # since the last update
        self.asked: list[Any] = []

    def see(self, event: Mapping[str, Any], tally: Tally, fleet: Any = None) -> None:
        """Take note of an event of the coordinator's, and export if it is time.

        Args:
            event: what ``Coordinator`` tells.
            tally: the run's totals so far.
            fleet: where its clients live; its actors are asked for their memory.
        """
        kind = event["kind"]
        if kind in ("metrics", "round", "resumed"):
            self._count(event["round"], tally, again=kind == "resumed")
        if kind == "ended":  # the process goes away soon: whatever is left is told now
            self._export(None)
            return
        self.latest |= {f"raysim_{key}": event[key] for key in ("rounds", "loss", "accuracy") if key in event}
        now = self.clock()
        if now >= self.due:
            self.due = now + PERIOD
            self._export(fleet)

    def _count(self, round: int, tally: Tally, again: bool) -> None:
        """Add what was done since the last event; a run that goes back, to a checkpoint or its start, did nothing."""
        now: dict[str, float] = {"round": round, **vars(tally)}
        if not again and round >= self.round:
            self.more = {name: self.more[name] + now[name] - self.seen[name] for name in now}
        self.seen, self.round = now, round

    def _export(self, fleet: Any) -> None:
        more, self.more = self.more, dict.fromkeys(self.seen, 0.0)
        self.latest["raysim_round"] = self.round
        if more["seconds"] > 0 and more["round"] > 0:
            self.latest["raysim_client_updates_per_second"] = more["client_updates"] / more["seconds"]
            self.latest["raysim_seconds_per_round"] = more["seconds"] / more["round"]
        for name, counter in self.counters.items():
            if (number := more[name.removeprefix("raysim_")]) > 0:
                counter.inc(number, self.tags)
        self.latest["raysim_coordinator_bytes"] = resident()
        self._ask(getattr(fleet, "actors", []))
        for name, value in self.latest.items():
            if math.isfinite(value):  # Ray drops what is not
                self.gauges[name].set(value, self.tags)

    def _ask(self, actors: list[Any]) -> None:
        """Collect what client actors answered since the last time, and ask again: no round waits for it."""
        import ray
        from ray.exceptions import RayError

        try:
            done, busy = (
                ray.wait(self.asked, num_returns=len(self.asked), timeout=0) if self.asked else ([], [])
            )
            if done and not busy:
                self.latest["raysim_clients_bytes"] = sum(ray.get(done))
            if not busy:
                self.asked = [actor.resident.remote() for actor in actors]
        except RayError:  # an actor died, which the fleet sees to
            self.asked = []


def name_of(folder: Any, otherwise: str) -> str:
    """A run's name: that of its folder, wherever it is."""
    return str(folder or "").rstrip("/").rpartition("/")[2] or otherwise or "run"


def resident() -> int:
    """Bytes of memory that this process holds; its peak where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


# ---- lines of a log --------------------------------------------------------------------------------------------------


def line(run: str, event: Mapping[str, Any], round: int | None = None) -> str:
    """An event as one line of JSON: time (UTC), level, run, event (its kind), round and what else it says.

    A number that is not finite is null: JSON has no way to write it, and logs that index numbers take no strings.

    Args:
        run: the run's id.
        event: what ``Coordinator`` tells.
        round: used where the event names no round, such as that of the last one that did.
    """
    bad = event["kind"] == "warning" or event.get("status") == "diverged"
    head = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": "warning" if bad else "info",
        "run": run,
        "event": event["kind"],
        "round": _plain(event.get("round", round)),
    }
    rest = {str(key): _plain(value) for key, value in event.items() if key not in head and key != "kind"}
    return json.dumps(head | rest, allow_nan=False)


def read(line: str) -> dict[str, Any]:
    """What ``line`` wrote.

    Raises:
        ValueError: it is no line of a run's log.
    """
    found = json.loads(line)
    if not isinstance(found, dict) or "event" not in found or "run" not in found:
        raise ValueError(f"A line of a run's log is a JSON object with run and event, got {line[:80]!r}.")
    return found


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
