"""Whether an experiment's placement fits on a cluster, and roughly what memory its client actors take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raysim.core.interfaces import DataError
from raysim.core.plugin import ConfigError
from raysim.doctor.finding import GB, Finding, asked

if TYPE_CHECKING:
    from raysim.core.placement import Placement
    from raysim.simulation import Simulation

_PROCESS = {"cpu": 0.42 * GB, "cuda": 0.6 * GB}
"""Bytes that an actor takes before it has anything to do: on a CPU Python with torch (measured), on a GPU the CUDA
context (a guess)."""
_COPIES = (
    3  # of a block's rows during a step: models, gradients, and what the optimiser makes of them (1.6 to 3.4)
)
_MODELS = 4  # besides the block's: the one that came, the sum that goes, and what lies between


_WAITS = "The run waits for other work to end (placement.wait)."


def examine(simulation: Simulation, found: dict[str, Any]) -> list[Finding]:
    """What the cluster has for an experiment.

    Args:
        simulation: the experiment.
        found: by ``raysim.runtime.survey``.
    """
    return [
        asked(lambda: placement(simulation, found), "placement"),
        asked(lambda: memory(simulation, found), "memory per actor"),
    ]


def bundles_on(has: dict[str, float], bundle: dict[str, float]) -> int:
    """Bundles that fit on one node at once."""
    return int(min(has.get(kind, 0) / amount + 1e-9 for kind, amount in bundle.items() if amount))


def placement(simulation: Simulation, found: dict[str, Any]) -> Finding:
    """Whether all its actors find room: now, once other work ends, or once nodes are added."""
    from raysim.runtime import placing

    place = simulation.placement
    if place.actors == 0:
        return _one_process(place, found)
    wanted = placing.bundles(place)
    share = 1 if place.gpus_per_actor == 0 else placing.per_gpu(place)
    each = f"{place.cpus_per_actor:g} CPU" + (
        f" and {place.gpus_per_actor:g} GPU" if place.gpus_per_actor else ""
    )
    room, free = (
        share * sum(bundles_on(node[kind], wanted[0]) for node in found["nodes"]) for kind in ("has", "free")
    )
    what = f"{place.actors} actors of {each}: the cluster takes {room}, {free} of them now"
    if free >= place.actors:
        return Finding("ok", "placement", what)
    if room >= place.actors:
        return Finding("warning", "placement", what, _WAITS)
    most = room + share * to_come(found, wanted[0])
    if most >= place.actors:
        return Finding("ok", "placement", f"{what}, and up to {most} once the autoscaler has added nodes")
    advice = f"Use at most {most} actors" + (
        ", or smaller fractions." if most else ", or ask for less for each."
    )
    if place.gpus_per_actor and not any(node["has"].get("GPU") for node in found["nodes"]) and not most:
        advice = "Leave gpus_per_actor at 0 to run on CPUs, or join a cluster with GPUs."
    return Finding("problem", "placement", what, advice)


def _one_process(place: Placement, found: dict[str, Any]) -> Finding:
    """Whether some node has room for a run without actors, as ``placing.seat`` asks for it."""
    bundle = {"CPU": float(place.threads)} | ({"GPU": 1.0} if place.device == "cuda" else {})
    needs = ", ".join(f"{amount:g} {kind}" for kind, amount in bundle.items())
    what = f"no actors: the run takes {needs} of one node"
    has, free = (any(bundles_on(node[kind], bundle) for node in found["nodes"]) for kind in ("has", "free"))
    if free:
        return Finding("ok", "placement", what)
    if has:
        return Finding("warning", "placement", f"{what}, which other work has now", _WAITS)
    if to_come(found, bundle):
        return Finding("ok", "placement", f"{what}, once the autoscaler has added one")
    advice = "Set placement.actors to 1 or more, use fewer placement.threads, or add a node."
    return Finding("problem", "placement", f"{what}, and none has that", advice)


def to_come(found: dict[str, Any], bundle: dict[str, float]) -> int:
    """Bundles on nodes that the autoscaler may still add, the roomiest kinds first."""
    limits = found["autoscaler"]
    if limits is None:
        return 0
    workers = [node["has"] for node in found["nodes"] if not node["head"]]
    left = math.inf if limits["max"] is None else limits["max"] - len(workers)
    bundles = 0
    for kind in sorted(limits["types"].values(), key=lambda kind: -bundles_on(kind["resources"], bundle)):
        there = sum(_alike(has, kind["resources"]) for has in workers)
        number = max(0, min(kind["max"] - there, left))
        bundles, left = bundles + int(number) * bundles_on(kind["resources"], bundle), left - number
    return bundles


def _alike(has: dict[str, float], kind: dict[str, float]) -> bool:
    """Whether a node is of a kind, as far as one can tell: it does not say."""
    return all(has.get(name, 0) == kind.get(name, 0) for name in ("CPU", "GPU"))


@dataclass(frozen=True)
class Need:
    """Bytes that an experiment's client actors take, roughly.

    Args:
        text: how they come about.
        process: by an actor that has nothing to do.
        work: by each actor's block.
        data: by the data set: once per actor on GPUs, once per node on CPUs.
    """

    text: str
    process: float
    work: float
    data: float


def need(simulation: Simulation) -> Need:
    """From the numbers of parameters and of clients in a block."""
    from raysim.core.execution import choose_block
    from raysim.core.task import Task

    sim = simulation
    dataset, shards = sim.load()
    task = Task(sim.initial_model(dataset), dataset.loss)
    state = sum(rows.shape[1] for rows in sim.local.optimizer.init(task.initial().unsqueeze(0)).values())
    device = "cuda" if _on_gpu(sim.placement) else "cpu"
    size, steps = sim.cohort_size(shards.number), int(sim.local.steps_of(shards.sizes_N).max(initial=0))
    block = sim.execution.block or choose_block(size, task.P + state, device, steps)
    work = 4.0 * (block * (_COPIES * task.P + state) + _MODELS * task.P)
    kept = (task.P * sim.rule.own_models + state * sim.local.keep_state) * shards.number
    work += 4.0 * kept / max(1, sim.placement.actors)
    data = sum(a.nbytes for a in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test))
    text = f"{task.P:,} parameters x (block of {block} x {_COPIES} copies + {_MODELS})"
    text += f" + {state:,} numbers of optimiser state" if state else ""
    text += f" + models and optimisers that {shards.number:,} clients keep" if kept else ""
    return Need(text, _PROCESS[device], work, float(data))


def memory(simulation: Simulation, found: dict[str, Any]) -> Finding:
    """Memory of one actor against what its fraction of a GPU, or its share of a node, has."""
    try:
        place, needed = simulation.placement, need(simulation)
    except (ConfigError, DataError) as error:
        advice = "The cluster needs the data where the experiment says; the estimate needs it here as well."
        return Finding("warning", "memory per actor", f"cannot be estimated: {error}", advice)
    each = needed.process + needed.work
    if _on_gpu(place):
        each += needed.data
    text = f"about {_size(each)} ({needed.text} = {_size(needed.work)}; data set {_size(needed.data)}"
    text += f"; {_size(needed.process)} for the process; activations, and what "
    text += "clients keep besides for a rule or a compressor, come on top: see raysim plan)"
    have, whose = _room(simulation, found, needed)
    if have is None:
        return Finding("ok", "memory per actor", f"{text}; {whose}")
    if each <= have:
        return _stored(found, needed, f"{text}; it has {_size(have)} {whose}")
    advice = f"Use a smaller execution.block or fewer actors per {'GPU' if _on_gpu(place) else 'node'}."
    return Finding("problem", "memory per actor", f"{text}, but it has {_size(have)} {whose}", advice)


def _room(simulation: Simulation, found: dict[str, Any], needed: Need) -> tuple[float | None, str]:
    """Bytes that an actor may take where there is least, and of what."""
    from raysim.runtime import placing

    place = simulation.placement
    if _on_gpu(place):
        sees = [
            g["total"] if g["free"] is None else g["free"] for n in found["nodes"] for g in n.get("gpus", [])
        ]
        if not sees:
            return None, "no GPU of the cluster says how much it has"
        share = place.gpus_per_actor or 1.0
        number = placing.per_gpu(place) if place.gpus_per_actor else 1
        return min(sees) / number, f"of {share:g} GPU, by what is free now"
    bundle = {"CPU": place.cpus_per_actor}
    rooms = []
    for node in found["nodes"]:
        actors = min(max(1, place.actors), bundles_on(node["has"], bundle))
        if actors:
            rooms.append(node["has"].get("memory", 0) / actors)  # which Ray counts without the object store
    if not rooms:
        return None, "no node has CPUs for an actor"
    return min(rooms), "of a node's memory, if as many come there as fit"


def _stored(found: dict[str, Any], needed: Need, what: str) -> Finding:
    """Memory that suffices, unless data sets find no room beside it."""
    stores = [node["has"].get("object_store_memory", 0.0) for node in found["nodes"]]
    if needed.data <= min(stores, default=0.0):
        return Finding("ok", "memory per actor", what)
    what += f"; but the data set is larger than an object store of {_size(min(stores, default=0.0))}"
    advice = (
        "Ray keeps it on that node's disk, which is slow: start it there with a larger --object-store-memory."
    )
    return Finding("warning", "memory per actor", what, advice)


def _on_gpu(place: Placement) -> bool:
    """Whether clients compute on a GPU, in actors or in the run's own process."""
    return place.gpus_per_actor > 0 or (place.actors == 0 and place.device == "cuda")


def _size(bytes: float) -> str:
    return f"{bytes / GB:.1f} GB" if bytes >= GB / 10 else f"{bytes / 1e6:.1f} MB"
