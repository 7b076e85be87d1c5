"""Asks for nodes on demand where the cloud refuses spot nodes; runs on the head of a `ray up` cluster.

Ray 2.60's autoscaler takes the node type with the higher priority and, where the cloud refuses it, asks for the same
again, for ever. This process reads the autoscaler's status: where a launch of a type named `*-spot` has just been
refused and something still waits for resources, it requests what waits from nodes labelled on-demand, on top of
what is in use there, and takes the request back when nothing waits any more (idle nodes then go as usual).

    python fallback.py [HOST:PORT of the head's GCS, 127.0.0.1:6379] [seconds between looks, 10]
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from typing import Any

MARKET = "ray.io/market-type"
FRESH = 120.0  # seconds for which a refused launch says that there are no spot nodes


def waiting(status: Any) -> list[dict[str, float]]:
    """Bundles that nothing has room for: of placement groups, of actors and tasks outside of them."""
    demands = status.resource_demands
    both = demands.placement_group_demand + demands.ray_task_actor_demand
    counted = [c for demand in both for c in demand.bundles_by_count]
    plain = [c for c in counted if c.bundle and not any("_group_" in name for name in c.bundle)]
    return [dict(c.bundle) for c in plain for _ in range(c.count)]


def refused(status: Any, now: float) -> bool:
    """Whether the cloud has just refused a spot node."""
    launches = [launch for launch in status.failed_launches if launch.ray_node_type_name.endswith("-spot")]
    return any(now - (launch.failed_ts_s or 0) < FRESH for launch in launches)


def wanted(status: Any, now: float, asking: bool) -> list[dict[str, Any]]:
    """What to request: nothing, or what is in use on nodes on demand together with what waits.

    Args:
        status: the autoscaler's (``ray.autoscaler.v2.schema.ClusterStatus``).
        now: seconds since the epoch.
        asking: whether there is a request already; it stays for as long as something waits.
    """
    bundles = waiting(status)
    if not bundles or not (asking or refused(status, now)):
        return []
    nodes = [
        n for n in status.active_nodes + status.idle_nodes if n.ray_node_type_name.endswith("-on-demand")
    ]
    used = [{k: v for k, v in n.used_resources().items() if k in ("CPU", "GPU") and v > 0} for n in nodes]
    return [
        {"resources": bundle, "label_selector": {MARKET: "on-demand"}}
        for bundle in [u for u in used if u] + bundles
    ]


def watch(address: str, period: float) -> None:
    """Look every ``period`` seconds."""
    from ray.autoscaler.v2 import sdk  # noqa: TID251 (no part of raysim: the head runs it by itself)

    asked: list[dict[str, Any]] = []
    while True:
        try:
            request = wanted(sdk.get_cluster_status(address), time.time(), bool(asked))
            if request != asked:
                sdk.request_cluster_resources(address, request)
                print(time.strftime("%F %T"), f"{len(request)} bundles on demand", flush=True)  # noqa: T201
            asked = request
        except Exception as error:  # the head is starting, or busy: look again
            print(time.strftime("%F %T"), error, flush=True)  # noqa: T201
        time.sleep(period)


def main() -> None:
    """One process per head, however often `ray up` starts it."""
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:6379"
    name = f"raysim-fallback-{os.getuid()}-{address.rpartition(':')[2]}.lock"
    with open(os.path.join(tempfile.gettempdir(), name), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        watch(address, float(sys.argv[2]) if len(sys.argv) > 2 else 10.0)


if __name__ == "__main__":
    main()
