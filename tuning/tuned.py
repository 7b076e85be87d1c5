"""Trials of a sweep through Ray Tune: placed, scheduled, watched, taken up again."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from raysim.core.plugin import ConfigError
from tuning import explore
from tuning.listening import Keep, Recorder, Refusal, Sink, listening
from tuning.live import Watch
from tuning.plan import Plan
from tuning.records import Run
from tuning.room import joined, resources
from tuning.trainable import WORST, SweepTrial, identity

NAME = "tune"
"""Ray Tune's folder in the sweep's."""


def run(plan: Plan, folder: Path, kept: list[Run], keep: Keep, watch: Watch) -> None:
    """Run what is left of a sweep.

    Ray Tune takes its trials up from where its last note of them is, at most some ten seconds before it died; what has
    ended since is told to it again from our own notes. A scheduler begins anew: it does not know of trials that ended.

    Args:
        plan: the sweep.
        folder: of the sweep; Ray Tune's is in it.
        kept: runs that have ended before.
        keep: called with each run that ends.
        watch: shows how far it is.

    Raises:
        ConfigError: the cluster cannot place a trial, or no run measures the metric.
        KeyboardInterrupt: Ctrl-C.
    """
    joined(plan)
    sink = Sink(plan, kept, keep, watch)
    with _quiet(), listening(sink):
        grid = _tuner(plan, folder.resolve(), kept).fit()
    if sink.refused and not sink.known:  # there is nothing to go on with
        shutil.rmtree(folder / NAME, ignore_errors=True)
    if sink.refused or sink.lost:
        raise ConfigError(sink.refused or sink.lost)
    wanted = plan.samples if plan.block.search == "optuna" else len(_units(plan))
    if sum(bool(trial.error or (trial.metrics or {}).get("done")) for trial in grid) < wanted:
        raise KeyboardInterrupt


def trainable(plan: Plan, kept: list[Run] | None = None) -> type[tune.Trainable]:
    """What ``tune.Tuner.restore`` takes beside the folder ``tune`` of a sweep.

    Args:
        plan: the sweep: ``Plan.from_yaml`` of its sweep.yaml.
        kept: runs that have ended: they are not run again, whatever Ray Tune remembers.
    """
    ended = {} if plan.revives else _ended(plan, kept or [])
    return tune.with_resources(tune.with_parameters(SweepTrial, plan=plan, ended=ended), resources(plan))


def _units(plan: Plan) -> list[dict[str, Any]]:
    """Points as Ray Tune has them."""
    together = ",".join(map(str, plan.seeds))
    seeds = [str(seed) for seed in plan.seeds] if plan.apart else [together]
    return [{"trial": i, "seeds": s} | point for s in seeds for i, point in enumerate(plan.points)]


def _tuner(plan: Plan, root: Path, kept: list[Run]) -> tune.Tuner:
    """A new tuner, or the one that was interrupted."""
    made, path = trainable(plan, kept), root / NAME
    if tune.Tuner.can_restore(str(path)):
        return tune.Tuner.restore(str(path), made, resume_unfinished=True, restart_errored=True)
    optuna = plan.block.search == "optuna"
    domains = {path: explore.domain(space) for path, space in plan.spaces.items()} if optuna else {}
    fixed = {"trial": -1, "seeds": ",".join(map(str, plan.seeds))}
    point = fixed | domains if optuna else tune.grid_search(_units(plan))
    config = tune.TuneConfig(
        metric="objective",
        mode=plan.mode,
        num_samples=plan.samples if optuna else 1,
        scheduler=explore.scheduler(plan),
        search_alg=explore.optuna(plan) if optuna else None,
        max_concurrent_trials=None if plan.revives else plan.block.concurrent,
        reuse_actors=True,
        trial_dirname_creator=_dirname,
    )
    run_config = tune.RunConfig(
        name=NAME,
        storage_path=str(root),
        verbose=0,
        callbacks=[Recorder()],
        stop=Refusal(),
        checkpoint_config=tune.CheckpointConfig(
            num_to_keep=4 if plan.revives else 1,  # others may be about to go on from the ones before
            checkpoint_frequency=max(1, plan.block.reports // 4),
            checkpoint_at_end=True,
        ),
    )
    return tune.Tuner(made, param_space={"point": point}, tune_config=config, run_config=run_config)


def _dirname(trial: Any) -> str:
    """A short name for a trial's folder."""
    point = trial.config["point"]
    number = point["trial"] if point["trial"] >= 0 else trial.trial_id
    first, *others = str(point["seeds"]).split(",")
    return f"{number}-seed-{first}" + (f"-to-{others[-1]}" if others else "")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune without its own tables and tracebacks: ours say it."""
    before = os.environ.get("RAY_AIR_NEW_OUTPUT")
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            del os.environ["RAY_AIR_NEW_OUTPUT"]
        else:
            os.environ["RAY_AIR_NEW_OUTPUT"] = before


def _ended(plan: Plan, kept: list[Run]) -> dict[str, dict[str, Any]]:
    """The last result of every trial whose runs have all ended, by what identifies it."""
    by_trial: dict[int, list[Run]] = {}
    for run in kept:
        if run.status != "failed":
            by_trial.setdefault(run.trial, []).append(run)
    found = {}
    for trial, runs in by_trial.items():
        groups = [[run] for run in runs] if plan.apart else [runs] if len(runs) >= len(plan.seeds) else []
        for group in groups:
            number = trial if plan.block.search == "random" else -1
            seeds = ",".join(str(run.seed) for run in sorted(group, key=lambda run: run.seed))
            point = {"trial": number, "seeds": seeds} | group[0].values
            found[identity(point)] = _last(plan, group)
    return found


def _last(plan: Plan, runs: list[Run]) -> dict[str, Any]:
    """A trial's last result over again."""
    block = plan.block
    values = [run.value(block.metric, plan.mode, block.at) for run in runs]
    worst = WORST if plan.mode == "min" else -WORST
    mean = math.fsum(values) / len(values)
    return {
        "round": max(run.round for run in runs),
        "objective": mean if math.isfinite(mean) else worst,
        "loss": math.fsum(run.rows[-1]["loss"] for run in runs) / len(runs),
        "status": "known",
        "done": True,
        "rows": "{}",
        "whole": False,
        "history": "[]",
        "warnings": "[]",
    }
