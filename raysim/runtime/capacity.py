"""What a cluster has, what it may grow to, and waiting for a part of it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import ray
import yaml
from ray.util.placement_group import PlacementGroup

from raysim.core.plugin import ConfigError
from raysim.runtime import node_facts, turns

GROW = 1800.0  # seconds for an autoscaling cluster to bring machines: clouds take minutes, and ask in vain at times
QUIET, EACH = 2.0, 60.0  # seconds before the first word about waiting, and between words

GROUP = (
    "RAYSIM_GROUP"  # a job's name for what it gathers: a process of it waits, and another one finds it there
)
KUBERAY = "RAY_USAGE_STATS_KUBERAY_IN_USE"  # set in its pods

Bundle = dict[str, float]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Growth:
    """What a cluster may come to.

    Args:
        kinds: resources and greatest number of each kind of node.
        most: greatest number of nodes of all kinds.
        head: resources of the head, which is there in any case.
    """

    kinds: Sequence[tuple[dict[str, float], float]]
    most: float = math.inf
    head: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        total = lambda kind: self._sum(lambda node: node.get(kind, 0))
        return f"may grow to {total('CPU'):g} CPUs and {total('GPU'):g} GPUs"

    def fitting(self, bundle: Bundle) -> float:
        """How many such bundles it can have at most."""
        return self._sum(lambda node: each(bundle, node))

    def _sum(self, of: Callable[[dict[str, float]], float]) -> float:
        """Over as many nodes as there may be, those that have most."""
        total, left = float(of(self.head)), self.most
        for value, number in sorted(((of(node), number) for node, number in self.kinds), reverse=True):
            total += value * min(number, left) if value and left else 0.0
            left -= min(number, left)
        return total


ANYTHING = Growth([({"CPU": 1e9, "GPU": 1e9}, math.inf)])


def nodes(only: str | None = None) -> list[dict[str, float]]:
    """Resources of the cluster's nodes; of the one with that id."""
    return [n["Resources"] for n in ray.nodes() if n["Alive"] and only in (None, n["NodeID"])]


def growth() -> Growth | None:
    """What the autoscaler may have; None if nothing says so.

    Ray's state has it on some platforms. `ray up` leaves its configuration on the head node, where Ray's monitor reads
    it: there it can be read by a run whose coordinator is on that node, as a job's is. KubeRay's autoscaler has a
    container of its own and shows its limits to nobody: it may have anything, and says in `ray status` if not.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        groups = config.node_group_configs
        return Growth([(dict(g.resources), math.inf if g.max_count < 0 else g.max_count) for g in groups])
    limits = _limits()
    if limits is None:
        return ANYTHING if _kuberay() else None
    workers = [(kind["resources"], kind["max"]) for kind in limits["types"].values()]
    return Growth(workers, math.inf if limits["max"] is None else limits["max"], limits["head"])


def _limits() -> dict[str, Any] | None:
    """What the autoscaler of this cluster may add, if it runs on this machine and its configuration can be read."""
    with contextlib.suppress(OSError, yaml.YAMLError):
        return node_facts.autoscaler(ray.get_runtime_context().gcs_address)
    return None


def _kuberay() -> bool:
    """Whether this is the head of a KubeRay cluster that scales: Ray's own monitor is off there."""
    if KUBERAY not in os.environ:
        return False
    context = ray.get_runtime_context()
    head = any("node:__internal_head__" in node for node in nodes(context.get_node_id()))
    return head and not node_facts.monitors(context.gcs_address)


def each(bundle: Bundle, node: dict[str, float]) -> int:
    """How many such bundles a node holds when nothing else is on it."""
    return min(math.floor(node.get(k, 0) / v + 1e-9) for k, v in bundle.items() if v > 0)


def gathered(
    bundles: list[Bundle], wait: float, tell: Tell, refuse: Callable[[str], str], on: str | None = None
) -> PlacementGroup:
    """A placement group of equal bundles, once the cluster has them to spare.

    Jobs get what the cluster has in the order in which they came (see turns.py). One that needs machines which have yet
    to be brought stands in no line: a cloud may never bring them, and others shall not wait for that.

    Args:
        bundles: what is wanted, spread over nodes.
        wait: seconds to wait for what others have.
        tell: called with what is waited for.
        refuse: the message for what the cluster cannot have; it is given what the cluster may grow to, in words.
        on: id of the node that is to have them; None for any.

    Raises:
        ConfigError: the cluster cannot have that much, or nobody gave it back in time.
    """
    fits = lambda: sum(each(bundles[0], node) for node in nodes(on)) >= len(bundles)
    grows = not fits()
    if grows:
        most = None if on else growth()
        if most is None or most.fitting(bundles[0]) < len(bundles):
            raise ConfigError(refuse(f" and {most}" if most else ""))
    where: dict[str, Any] = {"bundle_label_selector": [{"ray.io/node-id": on}] * len(bundles)} if on else {}
    group, name = _named(), os.environ.get(GROUP, "")
    kind = "GPU" if bundles[0].get("GPU") else "CPU"
    alone = group is not None or grows or not name
    turn = nullcontext() if alone else turns.in_turn(name, kind, tell, turns.own_number())
    with turn as leave:
        group = group or ray.util.placement_group(bundles, strategy="SPREAD", name=name, **where)

        def still(text: str) -> None:
            tell(text)
            if leave and not fits():  # a node is gone, and with it what this one waits for: let others pass
                leave()

        try:
            _await(group, bundles, max(wait, GROW) if grows else wait, grows, still)
        except BaseException:
            ray.util.remove_placement_group(group)
            raise
    return group


def _named() -> PlacementGroup | None:
    """The group that this process's job has gathered before."""
    with contextlib.suppress(ValueError):
        return ray.util.get_placement_group(os.environ.get(GROUP, ""))
    return None


def _await(group: PlacementGroup, bundles: list[Bundle], wait: float, grows: bool, tell: Tell) -> None:
    begin, word = time.monotonic(), QUIET
    while not group.wait(1):  # whole seconds: Ray makes none of a part of one
        waited = time.monotonic() - begin
        if waited >= wait:
            raise ConfigError(_in_vain(bundles, wait, grows))
        if waited >= word:
            whom = "machines that the autoscaler brings" if grows else "other work to give them back"
            tell(
                f"waiting for {shown(bundles)} ({_free()}), that is for {whom}; {wait - waited:.0f} s at most"
            )
            word = waited + EACH


def _in_vain(bundles: list[Bundle], wait: float, grows: bool) -> str:
    if grows:
        return (
            f"The cluster may grow to {shown(bundles)}, but has not within {wait:.0f} s ({_free()}). See `ray status` "
            "for what the cloud said: a quota, or no such machine to be had now."
        )
    return (
        f"The run needs {shown(bundles)}, which the cluster has but nobody gave back within {wait:.0f} s ({_free()}). "
        "Wait for other work to end, or raise placement.wait."
    )


def shown(bundles: list[Bundle]) -> str:
    """Bundles in words: 3 x (1 GPU, 4 CPU)."""
    words = ", ".join(f"{v:g} {k}" for k, v in bundles[0].items())
    return f"{len(bundles)} x ({words})" if len(bundles) > 1 else words


def _free() -> str:
    free = ray.available_resources()
    return f"free: {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"
