"""A run in a coordinator actor, watched from here until it has ended.

With client actors the coordinator needs no CPU of its own and sits on this process's node, where the run's folder is.
Without them it is the run: it reserves CPUs (and a GPU, if asked for one), on this node if the folder is a path, and
anywhere in the cluster if it is behind a URL. Everything on Ray belongs to this process and goes when it dies.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.runtime import capacity, folder as folders, placing, storage
from raysim.runtime.coordinator import Coordinator
from raysim.runtime.fleet import HostLost
from raysim.runtime.outcome import Outcome
from raysim.runtime.telling import Watch, interruptible

if TYPE_CHECKING:
    from raysim.simulation import Simulation

LOOK = 0.2  # seconds between looks at the coordinator's events


class CoordinatorLost(HostLost):
    """The coordinator died, most likely with its node: what the run has written, and how to go on."""


def run(simulation: Simulation, place: Path | str | None, again: bool, watch: Watch) -> Outcome:
    """Start a coordinator actor and pass its events on until it has run.

    Args:
        simulation: the experiment.
        place: the run's folder, a path or a URL; None for nowhere.
        again: continue the run in that folder.
        watch: called with each event.

    Raises:
        ConfigError: the cluster has not got what the run needs.
        CoordinatorLost: the coordinator died.
    """
    _require_shared(place)
    placing.connect(simulation.placement)
    placement = simulation.placement
    tell = lambda text: watch({"kind": "waiting", "text": text})
    # What a coordinator reserves itself outlasts it, should it be killed, for as long as this process runs.
    if placement.actors:
        reserved = placing.reserve(placement, tell)
    else:
        reserved = placing.Reserved(placing.seat(placement, place, tell))
    try:
        actor = ray.remote(**_options(placement, reserved))(Coordinator)
        folder = place.resolve() if isinstance(place, Path) else place
        theirs = replace(reserved, own=False) if placement.actors else None
        coordinator: Any = actor.remote(simulation, folder, again, telemetry=True, reserved=theirs)
        try:
            return _watched(coordinator, place, watch, tell)
        except (RayActorError, OutOfMemoryError) as error:
            reason = placing.unfit(error)
            if reason:
                raise ConfigError(f"The coordinator cannot start: {reason}") from None
            raise CoordinatorLost(_lost(place, error)) from None
        finally:
            ray.kill(coordinator)
    finally:
        reserved.release()


def _require_shared(place: Path | str | None) -> None:
    if str(place).startswith("memory://"):
        raise ConfigError(
            f"The folder {place} is in this process's memory, but the run is in another process. Use a path or other "
            "storage, or run it without Ray (placement.actors: 0, no address)."
        )


def _options(placement: Placement, reserved: placing.Reserved) -> dict[str, Any]:
    """Ray options of the coordinator: two threads, one runs and one answers."""
    if placement.actors:
        here = ray.get_runtime_context().get_node_id()
        strategy: Any = NodeAffinitySchedulingStrategy(here, soft=False)
        return {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": strategy}
    strategy = PlacementGroupSchedulingStrategy(reserved.group, placement_group_bundle_index=0)
    gpus = 1 if placement.device == "cuda" else 0
    return {
        "num_cpus": placement.threads,
        "num_gpus": gpus,
        "max_concurrency": 2,
        "scheduling_strategy": strategy,
    }


def _watched(coordinator: Any, place: Path | str | None, watch: Watch, tell: capacity.Tell) -> Outcome:
    """The run's outcome, once it is there; its own error where it has one."""
    _await_start(coordinator, tell)
    ended = coordinator.run.remote()
    seen, asked, last = 0, None, False
    with interruptible(lambda: coordinator.stop.remote()):
        try:
            while True:
                done, _ = ray.wait([ended], timeout=LOOK)
                if asked is None:
                    asked, last = coordinator.events_since.remote(seen), bool(done)
                if not ray.wait([asked], timeout=LOOK)[0]:
                    continue  # a busy machine; never a reason to give up
                for event in ray.get(asked):
                    seen += 1
                    watch(event)
                asked = None
                if last:
                    return ray.get(ended)
        except RayTaskError as error:
            raise _own(error, place) from None


def _own(error: RayTaskError, place: Path | str | None) -> BaseException:
    """The run's own error. One of Ray's that the coordinator met is about others than the coordinator."""
    cause = error.cause
    if not isinstance(cause, RayError):
        return cause
    return HostLost(f"The cluster failed the run: {storage.reason(cause)}. {folders.left(place)}")


def _await_start(coordinator: Any, tell: capacity.Tell) -> None:
    """Until the actor answers: a busy machine takes long to start a process."""
    first, waited = coordinator.events_since.remote(0), 0.0
    while not ray.wait([first], timeout=capacity.EACH)[0]:
        waited += capacity.EACH
        if waited >= placing.START:
            raise RuntimeError(
                f"The coordinator has not started within {waited:.0f} s. See `ray status` and the node's logs."
            )
        tell("waiting for the coordinator to start")
    try:
        ray.get(first)
    except RayTaskError as error:
        raise error.cause from None


def _lost(place: Path | str | None, error: Exception) -> str:
    what = f"The coordinator of the run died, with its node or alone ({type(error).__name__})."
    return f"{what} {folders.left(place)}"
