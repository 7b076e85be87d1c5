"""Driving a run: in this process, or watching a coordinator actor; either way the same coordinator class."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.core.plugin import ConfigError
from raysim.report.progress import Progress
from raysim.result import Result
from raysim.runtime import folder as folders
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.outcome import Outcome

if TYPE_CHECKING:
    from raysim.simulation import Simulation

Watch = Callable[[dict[str, Any]], None]


def drive(simulation: Simulation, folder: str | Path | None, *, progress: bool = False) -> Result:
    """Run an experiment from the start (see ``Simulation.run``)."""
    from raysim import spec

    if folder == "auto":
        folder = folders.fresh(simulation.name)
    path = None if folder is None else Path(folder)
    if path is not None:
        hidden = spec.opaque(simulation)
        text = (
            f"# Not complete: {', '.join(hidden)} exists in Python only.\n"
            if hidden
            else spec.dump(simulation)
        )
        folders.RunFolder(path).begin(text)
    return _run(simulation, path, False, progress)


def resume(folder: str | Path, simulation: Simulation | None = None, *, progress: bool = False) -> Result:
    """Continue a run from its last checkpoint; the end is the same to the last bit as without the interruption.

    Args:
        folder: the run's folder.
        simulation: the experiment, where it had parts that no file can hold.
        progress: show a progress bar and a closing table.

    Raises:
        ConfigError: no run there, or it ended already.
    """
    from raysim.simulation import Simulation

    path = Path(folder)
    status = folders.read_status(path)
    if status["status"] == "finished" and (simulation is None or simulation.rounds <= status["round"]):
        raise ConfigError(
            f"The run in {path} has finished all its {status['round']} rounds: there is nothing to resume."
        )
    if status["status"] == "diverged":
        raise ConfigError(
            f"The run in {path} diverged after round {status['round']}, and would again. Start a new one with a "
            "smaller step size."
        )
    if simulation is None:
        text = (path / "experiment.yaml").read_text()
        if text.startswith("# raysim") and "# Not complete" in text:
            raise ConfigError(
                f"{path}/experiment.yaml is not complete ({text.splitlines()[1].strip('# ')}). Resume it from Python: "
                "raysim.resume(folder, simulation)."
            )
        simulation = Simulation.from_yaml(text)
    else:
        _require_same_channel(simulation, path)
    return _run(simulation, path, True, progress)


def _require_same_channel(simulation: Simulation, path: Path) -> None:
    """Memories and what privacy was spent belong to the transforms, in their places."""
    text = (path / "experiment.yaml").read_text()
    if "# Not complete" in text:
        return
    there = type(simulation).from_yaml(text)
    for name in ("rule", "uplink", "downlink"):
        if getattr(there, name) != getattr(simulation, name):
            raise ConfigError(
                f"The run in {path} was made with another {name}, and what it remembers is of no use to this one. "
                "Resume it as it was, or start a new run."
            )


def _run(simulation: Simulation, path: Path | None, again: bool, progress: bool) -> Result:
    with Progress(simulation.rounds, shown=progress) as bar:
        run = _in_process if simulation.placement.actors == 0 else _on_ray
        outcome = run(simulation, path, again, bar.watch)
    result = Result(simulation, outcome.status, outcome.rows, outcome.server.x_P, path, outcome.seconds)
    if path is not None and len(outcome.rows) > 1:
        result.save_figures()
    if progress:
        bar.close(result)
    return result


def _in_process(simulation: Simulation, path: Path | None, again: bool, watch: Watch) -> Outcome:
    coordinator = Coordinator(simulation, path, again, watch)
    with _interruptible(coordinator.stop):
        return coordinator.run()


def _on_ray(simulation: Simulation, path: Path | None, again: bool, watch: Watch) -> Outcome:
    """Start a coordinator actor and pass its events on until it has run."""
    import ray
    from ray.exceptions import RayTaskError

    from raysim.runtime import placing

    placing.connect(simulation.placement)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 2}  # one thread runs, one answers
    actor = ray.remote(**options)(Coordinator)
    coordinator: Any = actor.remote(simulation, None if path is None else path.resolve(), again)
    ended = coordinator.run.remote()
    seen = 0
    with _interruptible(lambda: coordinator.stop.remote()):
        try:
            while True:
                done, _ = ray.wait([ended], timeout=0.2)
                events = ray.get(coordinator.events_since.remote(seen), timeout=60)
                seen += len(events)
                for event in events:
                    watch(event)
                if done:
                    return ray.get(ended)
        except RayTaskError as error:
            raise error.cause from None
        finally:
            ray.kill(coordinator)


@contextmanager
def _interruptible(stop: Callable[[], Any]) -> Iterator[None]:
    """The first Ctrl-C ends the run after its round, with a checkpoint; the second is the usual one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def once(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
