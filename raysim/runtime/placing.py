"""Reserving CPUs and fractions of GPUs for client actors, and saying at once what can never be placed."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raysim.core.placement import IN_JOB, Placement
from raysim.core.plugin import ConfigError
from raysim.runtime import capacity

DIRECT = "RAY_max_direct_call_object_size"
"""Ray's limit, in bytes, for what travels with a call or its answer. For a model of 200 KB an exchange takes half the
time that way than through the object store, so a Ray that is started here gets 1 MB in place of 100 KB."""

KNOCK = 10.0  # seconds for a cluster to answer at all
END = 6  # lines of a node's traceback
START = 300.0  # seconds for actors to start: each imports torch, and small machines start many at once


def connect(placement: Placement) -> None:
    """Join the cluster that is asked for, the one this process has joined already, or a new one on this machine.

    In a job it is the job's cluster, unless another is asked for.

    Raises:
        ConfigError: nothing answers at the address, or this process has joined another cluster.
    """
    if ray.is_initialized():
        _require_joined(placement)
        return
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # the behaviour Ray is moving to; no warning
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = placement.address or ("auto" if IN_JOB in os.environ else None)
    if address is not None:
        _knock(address)
        ray.init(address=address, **quiet)
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 puts clients behind every idle daemon
    os.environ.setdefault(DIRECT, str(1 << 20))
    cpus = max(os.cpu_count() or 1, math.ceil(placement.actors * placement.cpus_per_actor))
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


def _knock(address: str) -> None:
    """See whether somebody listens at host:port: Ray itself would try for many minutes without a word."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", "local": Ray knows at once
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK).close()
    except OSError as error:
        raise ConfigError(
            f"No Ray cluster answers at placement.address {address!r} ({error}). Start one with `ray start --head` and "
            "use the address it prints, or leave the address out to start Ray on this machine."
        ) from None


def _require_joined(placement: Placement) -> None:
    """A cluster that is asked for by host:port is the one that this process has joined: a process has one."""
    host, colon, port = (placement.address or "").rpartition(":")
    if not colon or not port.isdigit() or IN_JOB in os.environ:
        return
    joined = ray.get_runtime_context().gcs_address
    there, _, number = joined.rpartition(":")
    if port != number or not _hosts(host) & _hosts(there):
        raise ConfigError(
            f"placement.address is {placement.address!r}, but this process has joined the Ray cluster at {joined}. "
            "Leave it first (ray.shutdown()), use another process, or leave the address out to stay there."
        )


def _hosts(name: str) -> set[str]:
    """Addresses of a host; Ray replaces 127.0.0.1 by the machine's own."""
    with contextlib.suppress(OSError):
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)} | {name}
        here = {"127.0.0.1", "::1", ray.util.get_node_ip_address()}
        return found | here if found & here else found
    return {name}


def unfit(error: Exception) -> str:
    """Why an actor could not start, with the end of its traceback; empty if it died of something else."""
    if not isinstance(error, RayActorError) or not error.actor_init_failed:
        return ""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    return (
        f"{lines[-1].strip()}. Every node of the cluster needs what the experiment needs, raysim and your own code "
        "included: raysim doctor --address says what they have. From the node:\n" + "\n".join(lines[-END:])
    )


def inline_bytes() -> int:
    """Largest array that is best sent along with the call itself."""
    return int(0.9 * int(os.environ.get(DIRECT, 100_000)))


def per_gpu(placement: Placement) -> int:
    """Actors that share one GPU."""
    return math.floor(1 / placement.gpus_per_actor + 1e-9)


def bundles(placement: Placement) -> list[dict[str, float]]:
    """One bundle per actor on CPUs, one per GPU otherwise (Ray's own packing does not balance GPUs)."""
    if placement.gpus_per_actor == 0:
        return [{"CPU": placement.cpus_per_actor}] * placement.actors
    share = per_gpu(placement)
    gpus = -(-placement.actors // share)
    return [{"GPU": 1.0, "CPU": placement.cpus_per_actor * share}] * gpus


@dataclass(frozen=True)
class Reserved:
    """Bundles for an experiment's client actors.

    Args:
        group: the placement group.
        first: number of the first bundle that is meant for them.
        own: whether the group was made for them, and goes when they go.
    """

    group: PlacementGroup
    first: int = 0
    own: bool = True

    def release(self) -> None:
        """Give the resources back."""
        if self.own:
            with contextlib.suppress(RayError):  # the cluster is gone, and the group with it
                ray.util.remove_placement_group(self.group)


_lent: list[Reserved] = []


@contextmanager
def lent(first: int) -> Iterator[None]:
    """Inside, client actors go into the placement group that this process is in itself, from that bundle on.

    Args:
        first: number of the first bundle.
    """
    group = ray.util.get_current_placement_group()
    assert group is not None, "this process is in no placement group"
    _lent.append(Reserved(group, first, own=False))
    try:
        yield
    finally:
        _lent.pop()


def reserve(placement: Placement, tell: capacity.Tell) -> Reserved:
    """A placement group for the actors, or the one that is lent to them.

    Args:
        placement: what they need.
        tell: called with what is waited for.

    Raises:
        ConfigError: the cluster cannot have what they need, with the numbers, or nobody gave it back in time.
    """
    if _lent:
        return _lent[-1]
    refuse = lambda growth: _too_few(placement, growth)
    return Reserved(capacity.gathered(bundles(placement), placement.wait, tell, refuse))


def seat(placement: Placement, place: Path | str | None, tell: capacity.Tell) -> PlacementGroup:
    """A placement group for a coordinator that does the work itself: its threads, and a GPU if it asks for one.

    Args:
        placement: without client actors.
        place: the run's folder: a path binds the coordinator to this node.
        tell: called with what is waited for.

    Raises:
        ConfigError: the cluster cannot have that, with the numbers, or nobody gave it back in time.
    """
    needs: capacity.Bundle = {"CPU": placement.threads}
    if placement.device == "cuda":
        needs["GPU"] = 1
    here = ray.get_runtime_context().get_node_id() if isinstance(place, Path) else None

    def refuse(growth: str) -> str:
        nodes = capacity.nodes(here)
        most = {kind: max((n.get(kind, 0) for n in nodes), default=0) for kind in needs}
        where = (
            f"this node, where the folder {place} is, has" if here else "the largest node of the cluster has"
        )
        how = (
            "Use fewer threads"
            + (", give the folder as a URL," if here else "")
            + " or set placement.actors to 1 or more"
        )
        wanted, have = capacity.shown([needs]), capacity.shown([most])
        return f"The run needs {wanted} on one node, but {where} {have}{growth}. {how}."

    return capacity.gathered([needs], placement.wait, tell, refuse, here)


def _too_few(placement: Placement, growth: str) -> str:
    wanted, have = bundles(placement), ray.cluster_resources()
    for kind in ("GPU", "CPU"):
        need = sum(b.get(kind, 0) for b in wanted)
        if need > have.get(kind, 0) + 1e-9:
            return _too_few_of(placement, kind, need, have.get(kind, 0), growth)
    return (
        f"Placement asks for {capacity.shown(wanted)}, each on one node, but the cluster's nodes have "
        f"{'; '.join(capacity.shown([_cores(n)]) for n in capacity.nodes())}{growth}. Use fewer actors or smaller ones."
    )


def _cores(node: dict[str, float]) -> dict[str, float]:
    return {kind: node.get(kind, 0) for kind in ("CPU", "GPU")}


def _too_few_of(placement: Placement, kind: str, need: float, have: float, growth: str) -> str:
    each = placement.cpus_per_actor if kind == "CPU" else placement.gpus_per_actor
    field = "cpus_per_actor" if kind == "CPU" else "gpus_per_actor"
    advice = "use fewer actors" + ("" if kind == "GPU" and have == 0 else f" or a smaller {field}")
    if kind == "GPU" and have == 0:
        advice = "leave gpus_per_actor at 0 to run on CPUs, or join a cluster with GPUs (placement.address)"
    return (
        f"Placement asks for {placement.actors} actors with {field}={each:g}, that is {need:g} {kind}s, but the "
        f"cluster has {have:g}{growth}: {advice}."
    )


def patience(placement: Placement) -> float:
    """Seconds for actors to start, one whose place was lost with its node and has to be found again included."""
    brought = capacity.GROW if capacity.growth() else 0.0
    return START + max(placement.wait, brought)


def options(placement: Placement, reserved: Reserved, i: int) -> dict[str, Any]:
    """Ray options of client actor ``i``."""
    bundle = reserved.first + (i if placement.gpus_per_actor == 0 else i // per_gpu(placement))
    threads = str(placement.threads)
    return {
        "num_cpus": placement.cpus_per_actor,
        "num_gpus": placement.gpus_per_actor,
        "max_restarts": 0,  # a new actor would miss the form and the rows: the fleet starts its own
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            reserved.group, placement_group_bundle_index=bundle
        ),
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
    }
