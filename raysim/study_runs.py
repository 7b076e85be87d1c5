"""The runs of a study: each in a folder of its own, on a disk or behind a URL."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import pandas as pd

from raysim.core.plugin import ConfigError
from raysim.runtime import drive, folder as folders, storage
from raysim.simulation import Simulation

ENDED = ("finished", "diverged")


def inside(root: Path | str, name: str) -> Path | str:
    """A run's folder in a study's."""
    return root / name if isinstance(root, Path) else f"{root}/{name}"


def begun(place: Path | str) -> bool:
    """Whether a run has begun in that folder."""
    return storage.text(place, "run.json") is not None


def metrics(simulation: Simulation, place: Path | str | None, fresh: bool) -> pd.DataFrame:
    """The metrics of a run: read if it has ended, continued if it was interrupted, made otherwise."""
    if place is None:
        return simulation.run(None).metrics
    if fresh and begun(place):  # only what is a run is removed
        _remove(place)
    if not begun(place):
        result = simulation.run(place)
    else:
        require_same(simulation, place)
        status = folders.read_status(place)["status"]
        if status in ENDED:
            return pd.DataFrame(folders.read_metrics(place))
        if status == "running" and isinstance(place, str):
            raise ConfigError(
                f"{place} is running, or was cut off. If a cluster runs it, --ended compares what has ended; if nobody "
                f"does, go on with it first: raysim resume {place}"
            )
        result = drive.resume(place)
    if result.status == "stopped":
        raise KeyboardInterrupt(f"The study was stopped in {place}. The same command continues it.")
    return result.metrics


def _remove(place: Path | str) -> None:
    if isinstance(place, str):
        raise ConfigError(
            f"--fresh removes folders on a disk only. Remove {place} yourself, or name another URL."
        )
    shutil.rmtree(place)


def require_same(simulation: Simulation, place: Path | str) -> None:
    """Refuse a folder whose run was another experiment; where it ran does not matter, the numbers are the same."""
    there = Simulation.from_yaml(folders.read_experiment(place)).replaced(
        placement=simulation.placement, name=simulation.name
    )
    changed = [f.name for f in fields(Simulation) if getattr(there, f.name) != getattr(simulation, f.name)]
    if changed:
        raise ConfigError(
            f"{place} holds a run of another experiment: {', '.join(changed)} changed since. Remove that folder to run "
            "this variant again, use --fresh to run all of them again, or --folder to keep both."
        )
