"""Driving a run: in this process, or watching a coordinator actor; either way the same coordinator class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.core.placement import IN_JOB
from raysim.core.plugin import ConfigError
from raysim.report.progress import Progress
from raysim.result import Result
from raysim.runtime import folder as folders
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.outcome import Outcome
from raysim.runtime.storage import Storage, is_url, located
from raysim.runtime.telling import Watch, interruptible

if TYPE_CHECKING:
    from raysim.simulation import Simulation


def drive(
    simulation: Simulation,
    folder: str | Path | None,
    *,
    progress: bool = False,
    on_ray: bool | None = None,
    watch: Watch | None = None,
) -> Result:
    """Run an experiment from the start (see ``Simulation.run``).

    Args:
        simulation: the experiment.
        folder: a path or a URL; "auto" for a new one, None for nowhere.
        progress: show a progress bar and a closing table.
        on_ray: run in a coordinator actor even without client actors; None does so if the placement has an address,
            and in a Ray job.
        watch: called with each event of the run; warnings are then its own to tell.
    """
    from raysim import spec

    if folder == "auto":
        folder = folders.fresh(simulation.name)
    place = None if folder is None else located(folder)
    if place is not None:
        hidden = spec.opaque(simulation)
        text = (
            f"# Not complete: {', '.join(hidden)} exists in Python only.\n"
            if hidden
            else spec.dump(simulation)
        )
        folders.begin(place, text)
    return _run(simulation, place, False, progress, on_ray, watch)


def resume(
    folder: str | Path,
    simulation: Simulation | None = None,
    *,
    progress: bool = False,
    on_ray: bool | None = None,
    watch: Watch | None = None,
) -> Result:
    """Continue a run from its last checkpoint; the end is the same to the last bit as without the interruption.

    Args:
        folder: the run's folder, a path or a URL.
        simulation: the experiment, where it had parts that no file can hold.
        progress: show a progress bar and a closing table.
        on_ray: see ``drive``.
        watch: see ``drive``.

    Raises:
        ConfigError: no run there, or it ended already; or its storage refuses.
    """
    from raysim.simulation import Simulation

    place = located(folder)
    status = folders.begun(place)
    if status["status"] == "finished" and (simulation is None or simulation.rounds <= status["round"]):
        raise ConfigError(
            f"The run in {place} has finished all its {status['round']} rounds: there is nothing to resume."
        )
    if status["status"] == "diverged":
        raise ConfigError(
            f"The run in {place} diverged after round {status['round']}, and would again. Start a new one with a "
            "smaller step size."
        )
    if simulation is None:
        text = folders.read_experiment(place)
        if text.startswith("# raysim") and "# Not complete" in text:
            raise ConfigError(
                f"{place}/experiment.yaml is not complete ({text.splitlines()[1].strip('# ')}). Resume it from Python: "
                "raysim.resume(folder, simulation)."
            )
        simulation = Simulation.from_yaml(text)
    else:
        _require_same_channel(simulation, place)
    if is_url(place):
        Storage(str(place)).check()
    return _run(simulation, place, True, progress, on_ray, watch)


def _require_same_channel(simulation: Simulation, place: Path | str) -> None:
    """Memories and what privacy was spent belong to the transforms, in their places."""
    text = folders.read_experiment(place)
    if "# Not complete" in text:
        return
    there = type(simulation).from_yaml(text)
    for name in ("rule", "uplink", "downlink"):
        if getattr(there, name) != getattr(simulation, name):
            raise ConfigError(
                f"The run in {place} was made with another {name}, and what it remembers is of no use to this one. "
                "Resume it as it was, or start a new run."
            )


def _run(
    simulation: Simulation,
    place: Path | str | None,
    again: bool,
    progress: bool,
    on_ray: bool | None,
    watch: Watch | None,
) -> Result:
    with Progress(simulation.rounds, shown=progress) as bar:
        watches = ([bar.watch] if progress or not watch else []) + ([watch] if watch else [])

        def passed_on(event: dict[str, Any]) -> None:
            for see in watches:
                see(event)

        outcome = _where(simulation, on_ray)(simulation, place, again, passed_on)
    result = Result(simulation, outcome.status, outcome.rows, outcome.server.x_P, place, outcome.seconds)
    if place is not None and len(outcome.rows) > 1:
        try:
            result.save_figures()
        except OSError as error:
            warnings.warn(f"The figures cannot be written to {place}: {error}.", stacklevel=3)
    if progress:
        bar.close(result)
    return result


def _where(simulation: Simulation, on_ray: bool | None) -> Callable[..., Outcome]:
    """In this process, or in a coordinator actor: Ray is imported only for that."""
    place = simulation.placement
    wanted = place.address is not None or IN_JOB in os.environ
    if place.actors == 0 and not (wanted if on_ray is None else on_ray):
        return _in_process
    from raysim.runtime import on_ray as ray_runs

    return ray_runs.run


def _in_process(simulation: Simulation, place: Path | str | None, again: bool, watch: Watch) -> Outcome:
    coordinator = Coordinator(simulation, place, again, watch)
    with interruptible(coordinator.stop):
        return coordinator.run()
