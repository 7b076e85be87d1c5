"""Runs of a sweep in this process, those that can in one stack."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from raysim.core.interfaces import DataError
from raysim.core.plugin import ConfigError
from raysim.simulation import Simulation
from tuning.live import Watch
from tuning.plan import Plan
from tuning.population import many
from tuning.records import Run, rows_of, status_of

Keep = Callable[[Run], None]
Job = tuple[int, int, Simulation]
"""Configuration, seed, experiment."""

_USUAL = ("loss", "accuracy", "train_loss", "client_updates", "bits_up", "bits_down", "seconds")


def try_metric(plan: Plan) -> None:
    """See in a run of one round whether an unusual metric is measured at all: better than when all have run.

    Raises:
        ConfigError: it is not.
        KeyboardInterrupt: Ctrl-C.
    """
    if plan.block.metric in _USUAL or plan.base.placement.actors:
        return
    point = plan.points[0] if plan.points else {}
    try:
        rows = rows_of(plan.simulation(point).replaced(rounds=1, evaluate_every=1).run(None).metrics)
    except Exception:  # the runs will fail too, and show it
        return
    status = status_of(rows, 1)
    if status == "stopped":
        raise KeyboardInterrupt
    if status == "finished":
        plan.require_metric(_columns(rows))


def run(plan: Plan, kept: list[Run], keep: Keep, watch: Watch) -> None:
    """Run what is left of a sweep.

    Args:
        plan: the sweep.
        kept: runs that have ended before.
        keep: called with each run that ends.
        watch: shows how far it is.

    Raises:
        ConfigError: no run measures the metric.
        KeyboardInterrupt: Ctrl-C.
    """
    ended = {run.key for run in kept if run.status != "failed"}
    for seed in plan.seeds:
        jobs = [
            (i, seed, plan.simulation(p, seed)) for i, p in enumerate(plan.points) if (i, seed) not in ended
        ]
        for stack in _stacks(jobs, plan.block.chunk, watch):
            for found in _ran(plan, stack, watch):
                if found.status == "finished":
                    plan.require_metric(_columns(found.rows))
                keep(found)


def _stacks(jobs: list[Job], size: int, watch: Watch) -> Iterator[list[Job]]:
    """Jobs that can train as one, at most so many at a time: what has run is kept before the next ones start."""
    for group, reason in many.grouped([simulation for _, _, simulation in jobs]):
        if reason and len(group) == 1:
            watch.once(f"Not every run trains in a stack with others: {reason}.")
        yield from ([jobs[k] for k in group[i : i + size]] for i in range(0, len(group), size))


def _ran(plan: Plan, jobs: list[Job], watch: Watch) -> Iterator[Run]:
    """The runs of a stack; where one of them fails, each by itself."""
    name = ",".join(f"{i}/{seed}" for i, seed, _ in jobs)
    watch.running(name, 0.0, len(jobs))
    begin = time.monotonic()
    try:
        share = lambda part: watch.running(name, part, len(jobs))
        tables = many.run_all([simulation for _, _, simulation in jobs], watch.once, share)
    except Exception as error:
        watch.gone(name)
        if len(jobs) > 1:
            for job in jobs:
                yield from _ran(plan, [job], watch)
            return
        i, seed, _ = jobs[0]
        seconds = time.monotonic() - begin
        yield Run(i, seed, plan.points[i], "failed", seconds=seconds, error=_why(error))
        return
    watch.gone(name)
    each = (time.monotonic() - begin) / len(jobs)
    for (i, seed, simulation), table in zip(jobs, tables, strict=True):
        yield _ended(plan, i, seed, simulation, table, each)


def _ended(plan: Plan, i: int, seed: int, simulation: Simulation, table: pd.DataFrame, seconds: float) -> Run:
    rows = rows_of(table)
    status = status_of(rows, simulation.rounds)
    if status == "stopped":  # nothing but Ctrl-C ends a run here
        raise KeyboardInterrupt
    return Run(i, seed, plan.points[i], status, rows, seconds)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every metric that some row has."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _why(error: Exception) -> str:
    """What to show of an error: all there is to know of one whose message was written for it is that message."""
    return str(error) if isinstance(error, (ConfigError, DataError)) else traceback.format_exc()
