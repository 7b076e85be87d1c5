"""Asks for nodes on demand where the cloud refuses spot nodes; runs on the head of a `ray up` cluster.

Ray 2.60's autoscaler takes the node type with the higher priority and, where the cloud refuses it, asks for the same
again, for ever. This process reads the autoscaler's status: where a launch of a type named `*-spot` has just been
refused and something still waits for resources, it requests what waits from nodes labelled on-demand, on top of
what is in use there, and takes the request back when nothing waits any more (idle nodes then go as usual).

    python fallback.py [HOST:PORT of the head's GCS, 127.0.0.1:6379] [seconds between looks, 10] [`ray up`'s file]
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import yaml

MARKET = "ray.io/market-type"
FRESH = 120.0  # seconds for which a refused launch says that there are no spot nodes

Bundle = dict[str, float]


def waiting(status: Any) -> list[list[Bundle]]:
    """Bundles that nothing has room for, those of a placement group together; others are of actors and tasks."""
    demands = status.resource_demands
    found = []
    for demand in demands.placement_group_demand + demands.ray_task_actor_demand:
        plain = [c for c in demand.bundles_by_count if c.bundle and not any("_group_" in n for n in c.bundle)]
        found.append([dict(c.bundle) for c in plain for _ in range(c.count)])
    return [bundles for bundles in found if bundles]


def refused(status: Any, now: float) -> bool:
    """Whether the cloud has just refused a spot node."""
    launches = [launch for launch in status.failed_launches if launch.ray_node_type_name.endswith("-spot")]
    return any(now - (launch.failed_ts_s or 0) < FRESH for launch in launches)


def wanted(
    status: Any, now: float, asking: bool, launcher: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What to request: nothing, or what is in use on nodes on demand together with what waits.

    Args:
        status: the autoscaler's (``ray.autoscaler.v2.schema.ClusterStatus``).
        now: seconds since the epoch.
        asking: whether there is a request already; it stays for as long as something waits.
        launcher: `ray up`'s file. Ray takes no notice of a request of which it cannot bring a part, so only as much is
            asked for as the nodes on demand come to: what waits first, first, placement groups whole. None: all.
    """
    groups = waiting(status)
    if not groups or not (asking or refused(status, now)):
        return []
    up = status.active_nodes + status.idle_nodes
    nodes = [n for n in up if n.ray_node_type_name.endswith("-on-demand")]
    used = [{k: v for k, v in n.used_resources().items() if k in ("CPU", "GPU") and v > 0} for n in nodes]
    bundles = [u for u in used if u]
    kinds, most = nodes_on_demand(launcher) if launcher else ([], 0)
    most -= sum(n.ray_node_type_name.endswith("-spot") for n in up + status.pending_nodes)
    for group in groups:
        if launcher is None or packed(bundles + group, kinds, most):
            bundles = bundles + group
    return [{"resources": bundle, "label_selector": {MARKET: "on-demand"}} for bundle in bundles]


def nodes_on_demand(launcher: dict[str, Any]) -> tuple[list[tuple[Bundle, int]], int]:
    """Kinds of nodes with the greatest number of each, those without GPUs first; greatest number of nodes in all."""
    types = {n: t for n, t in launcher["available_node_types"].items() if n.endswith("-on-demand")}
    most = launcher["max_workers"]
    kinds = [(t["resources"], t.get("max_workers", most)) for t in types.values()]
    return sorted(kinds, key=lambda kind: kind[0].get("GPU", 0)), most


def packed(bundles: list[Bundle], kinds: list[tuple[Bundle, int]], most: int) -> bool:
    """Whether so many nodes hold these bundles: each goes where there is room, else to a new node."""
    room: list[tuple[int, Bundle]] = []
    fits = lambda bundle, free: all(free.get(name, 0) >= need for name, need in bundle.items())
    for bundle in bundles:
        free = next((free for _, free in room if fits(bundle, free)), None)
        if free is None:
            there = [kind for kind, _ in room]
            new = [
                k for k, (has, number) in enumerate(kinds) if fits(bundle, has) and there.count(k) < number
            ]
            if not new or len(room) >= most:
                return False
            free = dict(kinds[new[0]][0])
            room.append((new[0], free))
        for name, need in bundle.items():
            free[name] -= need
    return True


def watch(address: str, period: float, launcher: dict[str, Any] | None) -> None:
    """Look every ``period`` seconds."""
    from ray.autoscaler.v2 import sdk  # noqa: TID251 (no part of raysim: the head runs it by itself)

    asked: list[dict[str, Any]] = []
    while True:
        try:
            request = wanted(sdk.get_cluster_status(address), time.time(), bool(asked), launcher)
            if request != asked:
                sdk.request_cluster_resources(address, request)
                print(time.strftime("%F %T"), f"{len(request)} bundles on demand", flush=True)  # noqa: T201
            asked = request
        except Exception as error:  # the head is starting, or busy: look again
            print(time.strftime("%F %T"), error, flush=True)  # noqa: T201
        time.sleep(period)


def alone(path: str) -> TextIO:
    """The lock, taken from whoever has it: one process per head, the one started last.

    An earlier one has the code and the token of an earlier `ray up`.
    """
    lock = open(path, "a+")  # noqa: SIM115 (held until this process ends)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.seek(0)
            with contextlib.suppress(
                ValueError, OSError
            ):  # it is about to write its number, or has just ended
                pid = int(lock.read())
                if "fallback" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def main() -> None:
    """Watch until another one begins."""
    given = dict(enumerate(sys.argv))
    address, file = (
        given.get(1, "127.0.0.1:6379"),
        Path(given.get(3, "~/ray_bootstrap_config.yaml")).expanduser(),
    )
    name = f"raysim-fallback-{os.getuid()}-{address.rpartition(':')[2]}.lock"
    launcher = yaml.safe_load(file.read_text()) if file.exists() else None
    with alone(os.path.join(tempfile.gettempdir(), name)):
        watch(address, float(given.get(2, 10.0)), launcher)


if __name__ == "__main__":
    main()
