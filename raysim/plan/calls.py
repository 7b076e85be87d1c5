"""What talking to client actors costs on this machine, measured on a few of them."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raysim.core import cohorts
from raysim.core.cohort import Cohort
from raysim.core.cohorts import Plan
from raysim.core.host import Setup
from raysim.core.placement import Placement
from raysim.plan.facts import Calls
from raysim.runtime.fleet import LocalFleet
from raysim.runtime.mailbox import Address

REPEATS = 15  # of exchanges without work
WORKED = 6, 40  # of exchanges with work: at least and at most, as time allows
SECONDS = 5.0  # after which there are no more than the least
VECTOR = 250_000  # floats that show what a byte costs
BLOCKS = 24  # of training that show how fast actors are

ASSUMED = Calls(
    measured=False,
    call_s=0.8e-3,
    actor_s=0.4e-3,
    near_byte_s=2.5e-10,
    far_byte_s=2e-9,
    start_s=10.0,
    slowdown=(1.0,),
    process_bytes=0.0,
)
"""Without Ray: of the size that Ray 2.60 showed on two cores; processes are taken to be as large as this one."""


def measured(
    setup: Setup, plan: Plan, x_P: Tensor, fleet: LocalFleet, placement: Placement, actors: int
) -> Calls:
    """Start client actors and measure them.

    Args:
        setup: the experiment, ready to run.
        plan: of a round.
        x_P: a model.
        fleet: the same experiment in this process.
        placement: where the actors are to be: their number, CPUs or GPUs.
        actors: at most so many are started.
    """
    from raysim.runtime import placing
    from raysim.runtime.ray_fleet import RayFleet

    begin = time.perf_counter()
    placing.connect(placement)
    far = RayFleet(setup, placement)
    start_s = time.perf_counter() - begin
    try:
        return _measure(far, setup, plan, x_P, fleet, start_s, actors)
    finally:
        far.close()


def _measure(
    far: Any, setup: Setup, plan: Plan, x_P: Tensor, fleet: LocalFleet, start_s: float, actors: int
) -> Calls:
    few = {k: _first(far, k) for k in range(1, actors + 1)}
    one_each = {k: _apart(plan, k) for k in few}
    echo = lambda k, x: few[k].exchange(echoed, (x,), one_each[k], "sum", True)
    small, large = torch.zeros(16), torch.zeros(max(VECTOR, len(x_P)))
    call_s = [typical(lambda k=k: echo(k, small)) for k in few]
    near = typical(lambda: echo(actors, large))
    slowdown = _slowdown(far, setup, plan.part(0, min(BLOCKS, plan.blocks)), x_P, fleet, call_s)
    _without_mailboxes(far)
    by_ray = typical(lambda: echo(actors, large)) - typical(lambda: echo(actors, small))
    moved = 2 * 4 * len(large) * actors
    actor_s = max(0.0, (call_s[-1] - call_s[0]) / (actors - 1)) if actors > 1 else call_s[0] / 2
    return Calls(
        True,
        max(0.0, call_s[0] - actor_s),
        actor_s,
        max(0.0, near - call_s[-1]) / moved,
        max(0.0, by_ray) / moved,
        start_s,
        slowdown,
        float(np.mean([private_bytes(far._get(a.pid.remote())) for a in far.actors])),
    )


def _without_mailboxes(fleet: Any) -> None:
    """Let tensors travel by Ray, as they do between machines."""
    fleet._get([actor.join.remote(Address("", b"")) for actor in fleet.actors])
    fleet.post.mailboxes[:] = [None] * len(fleet.actors)


def _first(fleet: Any, number: int) -> Any:
    """The first actors of a fleet."""
    part = copy.copy(fleet)
    part.actors = fleet.actors[:number]
    return part


def _apart(plan: Plan, number: int) -> Plan:
    """A round in which each of so many actors has one client, the same one: nothing to wait for but the calls."""
    ids = np.resize(plan.ids_C[:1], number)
    return Plan(plan.round, ids, np.ones(number), np.arange(number + 1), 0, number, plan.lr)


def _slowdown(
    far: Any, setup: Setup, plan: Plan, x_P: Tensor, fleet: LocalFleet, call_s: list[float]
) -> tuple[float, ...]:
    """Seconds of actors for training, over those of this process for the same blocks, measured in turn.

    The busiest actor's share of the work is known, so what is left is how much slower actors compute side by side.
    """
    numbers = [k for k in range(1, len(call_s) + 1) if k <= plan.blocks]
    here, there = [], {k: [] for k in numbers}
    few = {k: _first(far, k) for k in numbers}
    begin, turn = time.perf_counter(), 0
    while turn <= WORKED[0] or (turn <= WORKED[1] and time.perf_counter() - begin < SECONDS):
        seconds = _seconds(lambda: fleet.exchange(trained, (x_P,), plan, "sum", True))
        here += [seconds] if turn else []  # the first of each warms up
        for k in numbers:
            seconds = _seconds(lambda k=k: few[k].exchange(trained, (x_P,), plan, "sum", True))
            there[k] += [seconds] if turn else []
        turn += 1
    found = []
    for k in numbers:
        share = max(share_of(plan, setup, k))
        work = share * min(here)
        found.append(max(0.5, (min(there[k]) - call_s[k - 1]) / work) if work > call_s[k - 1] else 1.0)
    return tuple(np.maximum.accumulate(found).tolist()) or (1.0,)


def share_of(plan: Plan, setup: Setup, actors: int) -> list[float]:
    """Each actor's share of a round's work."""
    sizes = setup.shards.sizes_N[plan.ids_C]
    batch = np.minimum(sizes, setup.local.batch_size or sizes)
    work_C = setup.local.steps_of(sizes) * batch + 1
    runs = cohorts.runs(plan, setup.local, setup.shards, actors)
    return [float(work_C[plan.bounds[a] : plan.bounds[b]].sum() / work_C.sum()) for a, b in runs]


def echoed(cohort: Cohort, x: Tensor) -> Tensor:
    """What came, to be sent back."""
    return x.expand(len(cohort), -1)


def trained(cohort: Cohort, x_P: Tensor) -> Tensor:
    """Plain local training, whatever the rule makes of it."""
    return cohort.update(x_P)


def typical(call: Callable[[], Any]) -> float:
    """Median of the seconds that it takes, once warm: waking up is part of it."""
    call()
    return float(np.median([_seconds(call) for _ in range(REPEATS)]))


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def private_bytes(pid: int | None = None) -> float:
    """Memory that a process has for itself alone (Linux; elsewhere 0)."""
    try:
        lines = Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return 1024.0 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
