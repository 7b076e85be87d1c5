"""Room for trials: what each of them needs of a cluster, and what can never be placed, said at once."""

from __future__ import annotations

import math
import os
from typing import Any

import ray
from ray import tune

from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.runtime import placing
from tuning.plan import Plan


def resources(plan: Plan) -> Any:
    """What a trial needs: a share of this machine, or a bundle for its driver, which mostly waits, and its actors'."""
    place = plan.base.placement
    if place.actors == 0:
        return tune.PlacementGroupFactory([{"CPU": float(place.threads), "GPU": plan.block.gpus}])
    seeds = 1 if plan.apart else len(plan.seeds)
    return tune.PlacementGroupFactory([{}, *(placing.bundles(place) * seeds)])


def joined(plan: Plan) -> None:
    """Join the sweep's cluster, or start Ray on this machine, if a trial can be placed there.

    Raises:
        ConfigError: none ever could, or Ray does not start.
    """
    place = plan.base.placement
    if (
        not ray.is_initialized() and place.address is None
    ):  # Ray would be told that there are as many as asked for
        require_room(plan, [{"CPU": float(os.cpu_count() or 1), "GPU": math.inf}], "this machine")
    try:
        placing.connect(place)
    except (RuntimeError, OSError) as error:  # among them its own timeouts
        raise ConfigError(
            f"Ray does not start ({' '.join(str(error).split())}). See: raysim doctor"
        ) from None
    require_room(plan, [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]], "the cluster")


def require_room(plan: Plan, nodes: list[dict[str, float]], where: str) -> None:
    """Refuse trials that could never be placed: they would wait for ever.

    Args:
        plan: the sweep.
        nodes: what each has.
        where: they are, for the message.

    Raises:
        ConfigError: with the numbers.
    """
    bundles = [bundle for bundle in resources(plan).bundles if bundle]
    for kind in ("GPU", "CPU"):
        need, have = (sum(b.get(kind, 0.0) for b in some) for some in (bundles, nodes))
        if need > have + 1e-9:
            raise ConfigError(
                f"A trial of this sweep needs {need:g} {kind}s ({_needs(plan)}), but {where} has {have:g}. "
                f"{_advice(plan.base.placement, kind, have)}"
            )
    for bundle in sorted(bundles, key=lambda b: -sum(b.values())):
        node = next((n for n in nodes if all(n.get(k, 0) >= v - 1e-9 for k, v in bundle.items())), None)
        if node is None:
            raise ConfigError(
                f"A trial of this sweep needs {len(bundles)} bundles such as {bundle} ({_needs(plan)}), and no node "
                "has room for the last of them. Ask for less per actor, or for fewer actors."
            )
        for kind, amount in bundle.items():
            node[kind] -= amount


def _needs(plan: Plan) -> str:
    place = plan.base.placement
    if not place.actors:
        return f"placement.threads={place.threads}, sweep.gpus={plan.block.gpus:g}"
    text = f"{place.actors} actors with cpus_per_actor={place.cpus_per_actor:g}"
    text += f" and gpus_per_actor={place.gpus_per_actor:g}" if place.gpus_per_actor else ""
    together = "" if plan.apart else f" for each of {len(plan.seeds)} seeds, which a scheduler sees as one"
    return text + (together if len(plan.seeds) > 1 else "")


def _advice(place: Placement, kind: str, have: float) -> str:
    if not place.actors:
        return "Ask for less, or join a larger cluster (placement.address)."
    if kind == "GPU" and have == 0:
        return "Leave gpus_per_actor at 0 to run on CPUs, or join a cluster with GPUs (placement.address)."
    field = "cpus_per_actor" if kind == "CPU" else "gpus_per_actor"
    return f"Use fewer actors, a smaller {field}, or 0 actors to compute in the trial's own process."
