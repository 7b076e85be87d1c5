"""Calibrating: a few rounds of the very experiment in this process, and a few exchanges with actors."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raysim.core import cohorts, streams
from raysim.core.cohorts import Shards
from raysim.core.host import Setup
from raysim.core.interfaces import Aggregator, Topology
from raysim.core.mixing import Mixing
from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.plan import calls as talking
from raysim.plan.facts import Calibration, Calls, Memory, fingerprint, most_steps
from raysim.plan.recorder import Watched, evaluation, patterns

if TYPE_CHECKING:
    from raysim.core.interfaces import Rule
    from raysim.simulation import Simulation

ROUNDS = 9  # recorded, the first of which begins what later ones go on with
LEAST = 3
MOST = 60  # of rounds so short that more of them cost nothing, and tell better which disturbances there were
ENOUGH = 1.0  # seconds
SECONDS = 60.0  # after which no further round begins
COHORT = 1000  # clients that are enough to know the others by, where a rule samples them
SIZES = 10_000  # clients whose number of examples is kept
ACTORS = 4
TIMED = 20_000  # clients that the coordinator's own work is timed with
EDGES = 1_000_000  # at most, likewise
ROWS_BYTES = 64 << 20  # at most, likewise
LONG = (
    0.05  # seconds that one timing of it may take: some aggregators' work grows with the square of the rows
)


def calibrate(
    simulation: Simulation,
    *,
    ray: bool = True,
    actors: int | None = None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    tell: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Measure an experiment on this machine.

    Args:
        simulation: the experiment; where it is to run does not matter.
        ray: also start client actors; otherwise what they cost is assumed.
        actors: how many; one per core, at most 4, if not given.
        rounds: to record; more if they are short.
        seconds: after which no further round begins.
        tell: called with a line about each step.

    Raises:
        ConfigError: the experiment cannot be built, or diverges.
    """
    empty = talking.private_bytes()
    threads = torch.get_num_threads()
    sim = _here(simulation, rounds)
    torch.set_num_threads(sim.placement.threads)
    watched = Watched(sim)
    try:
        tell("calibrating: rounds in this process")
        watched.begin()
        _advance(watched, rounds, seconds)
        found = _facts(simulation, watched, empty)
        if not ray:
            return found
        tell("calibrating: exchanges with client actors")
        return replace(found, calls=_calls(watched, found, actors))
    finally:
        torch.set_num_threads(threads)
        watched.close()


def _here(simulation: Simulation, rounds: int) -> Simulation:
    """The experiment in this process, on the GPU if there is one; a cohort no larger than it takes to measure."""
    cuda = torch.cuda.is_available() and simulation.placement.device != "cpu"
    place = Placement(threads=simulation.placement.threads, device="cuda" if cuda else "cpu")
    cohort = simulation.cohort
    if isinstance(cohort, int):
        cohort = min(cohort, COHORT)
    return simulation.replaced(
        placement=place,
        cohort=cohort,
        rounds=max(rounds, MOST),
        evaluate_every=2,
        checkpoint_every=0,
    )


def _advance(watched: Watched, rounds: int, seconds: float) -> None:
    begin = time.perf_counter()
    for done in range(watched.simulation.rounds):
        took = time.perf_counter() - begin
        if done >= LEAST and (took > seconds or (done >= rounds and took > ENOUGH)):
            return
        if watched.advance(1).status == "diverged":
            raise ConfigError(
                f"The experiment diverged in round {watched.server.round + 1} of its calibration, so there is nothing "
                "to plan. Use a smaller step size."
            )


def _facts(simulation: Simulation, watched: Watched, empty: float) -> Calibration:
    sim, shards, host = watched.simulation, watched.shards, watched.recorder.fleet.host
    size = sim.cohort_size(shards.number)
    state = sim.local.optimizer.init(watched.initial.unsqueeze(0))
    at = np.arange(min(shards.number, SIZES)) * shards.number // min(shards.number, SIZES)
    sizes = tuple(shards.sizes_N[at].tolist())
    client_s, registered_s = _coordinator(watched, size)
    return Calibration(
        experiment=fingerprint(simulation),
        processor=processor(host.device.type),
        device=host.device.type,
        cores=cores(),
        clients=shards.number,
        cohort=size,
        parameters=watched.P,
        row_floats=watched.P + sum(rows.shape[1] for rows in state.values()),
        steps=most_steps(sim.local, sizes),
        sizes=sizes,
        patterns=patterns(watched.seen),
        evaluation=evaluation(watched),
        client_s=client_s,
        mixed_s=_mixed(sim.rule, shards.number),
        gathered_s=_gathered(sim.rule, watched.P, size),
        registered_s=registered_s,
        calls=replace(talking.ASSUMED, process_bytes=empty),
        memory=_memory(watched),
    )


def _memory(watched: Watched) -> Memory:
    host = watched.recorder.fleet.host
    rows, data = host.rows, host.examples
    wide = {name: t.shape[1] * t.element_size() for name, t in rows.tensors.items()}
    server = [watched.server.x_P, *watched.server.state.values()]
    return Memory(
        _bytes([data.x, data.y]) / watched.shards.number,
        _bytes(host.test),
        sum(wide.values()),
        sum(width for name, width in wide.items() if name in rows._spares),
        _bytes(server),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _coordinator(watched: Watched, size: int) -> tuple[float, float]:
    """Seconds per client for putting a cohort in order and cutting it up; per registered client for drawing it."""
    sim = watched.simulation
    shards = Shards(np.concatenate([[0], np.cumsum(np.resize(watched.shards.sizes_N, TIMED))]))
    exchanges = max(len(r.exchanges) for r in watched.seen)

    def ordered(number: int) -> float:
        own = sim.rule.own_models
        begin = time.perf_counter()
        plan = cohorts.plan(sim.local, shards, np.arange(number), 0, watched.block, neighbours=own)
        for _ in range(exchanges):
            cohorts.runs(plan, sim.local, shards, 2)
        return time.perf_counter() - begin

    def drawn(number: int) -> float:
        begin = time.perf_counter()
        cohorts.cohort_ids(0, 0, number, min(size, number - 1))
        return time.perf_counter() - begin

    slope = lambda call: max(0.0, _best(call, TIMED) - _best(call, TIMED // 10)) / (TIMED - TIMED // 10)
    return slope(ordered), slope(drawn) if size < watched.shards.number else 0.0


def _mixed(rule: Rule, known: int) -> float:
    """Seconds per client for the matrix of a mixing: taking it apart, as fleets do, and counting its messages."""
    topology = next((v for v in vars(rule).values() if isinstance(v, Topology)), None)
    if topology is None:
        return 0.0
    degree = max(1, topology.mixing(known, 0).nnz // known)
    number = min(TIMED, EDGES // degree) if degree < known / 2 else min(known, 1000)
    try:
        topology.fit(number)
    except ConfigError:
        number = known  # the one number that it can have for certain

    def mixed(number: int) -> float:
        begin = time.perf_counter()
        ids = np.arange(number)
        mixing = Mixing.of(topology.mixing(number, 0), ids)
        mixing.messages()
        mixing.part(ids)
        return time.perf_counter() - begin

    return _best(mixed, number) / number


def _gathered(rule: Rule, P: int, cohort: int) -> float:
    """Seconds per client for aggregating its row, of as many rows as do not take long."""
    aggregator = next((v for v in vars(rule).values() if isinstance(v, Aggregator)), None)
    if aggregator is None:
        return 0.0
    key, before_P = streams.key(0, "plan"), torch.zeros(P)
    most = max(cohort, min(TIMED, ROWS_BYTES // (4 * P)))
    rows_CP = torch.rand(most, P)

    def combined(number: int) -> float:
        begin = time.perf_counter()
        aggregator.combine(rows_CP[:number], key, before_P)
        return time.perf_counter() - begin

    number = cohort  # which it can work on for certain
    while number < most and combined(number) < LONG:
        number = min(most, 2 * number)
    return _best(combined, number) / number


def _best(call: Callable[[int], float], number: int) -> float:
    return min(call(number) for _ in range(3))


def _calls(watched: Watched, found: Calibration, actors: int | None) -> Calls:
    """Measure actors on the experiment as it was prepared here."""
    sim = watched.simulation
    wanted = actors or max(1, min(ACTORS, found.cores if found.device == "cpu" else 2))
    dataset, _ = sim.load()
    form = (
        "stacked" if watched.form == "compiled" else watched.form
    )  # a compilation in each would tell nothing
    module = sim.initial_model(dataset)
    setup = Setup(dataset, watched.shards, module, sim.local, sim.seed, form)
    plan = watched._plan(watched.server.round)
    fraction = round(1 / wanted, 6) if found.device == "cuda" else 0.0
    placement = Placement(
        actors=wanted,
        cpus_per_actor=min(1.0, found.cores / wanted),
        gpus_per_actor=fraction,
        threads=sim.placement.threads,
    )
    return talking.measured(setup, plan, watched.server.x_P, watched.recorder.fleet, placement, wanted)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(device: str) -> str:
    """What this machine computes with."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
