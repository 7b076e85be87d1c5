"""Machines that an experiment may run on: what a cluster's file says, and what is known of rented instances."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raysim.core.plugin import ConfigError

GIB = 1.074  # GB


@dataclass(frozen=True)
class Machine:
    """A machine.

    Args:
        name: of the worker type or the instance.
        cpus: logical CPUs that Ray gives out.
        gpus: GPUs.
        gbits: network, Gbit/s each way.
        memory_gb: of the machine.
        gpu_memory_gb: of each GPU.
        source: where the numbers are from.
    """

    name: str
    cpus: float
    gpus: int
    gbits: float
    memory_gb: float
    gpu_memory_gb: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Cluster:
    """Workers of one kind and the machine of the coordinator.

    Args:
        worker: each node with clients.
        head: where the coordinator is; None where it sits among the clients, on one machine.
        nodes: how many workers.
        most: workers that the file allows; None where it does not say.
    """

    worker: Machine
    head: Machine | None
    nodes: int
    most: int | None = None


SHEET = "vendor's data sheet, 2026; check"
"""Where the table is from. Network rates are mostly "up to": small instances keep them for minutes only."""

# name: CPUs, GPUs, Gbit/s, memory in GiB, memory of a GPU in GiB
_INSTANCES: dict[str, tuple[float, int, float, float, float]] = {
    # AWS
    "m5.large": (2, 0, 10, 8, 0), "m5.xlarge": (4, 0, 10, 16, 0), "m5.2xlarge": (8, 0, 10, 32, 0),
    "m5.4xlarge": (16, 0, 10, 64, 0), "m6i.large": (2, 0, 12.5, 8, 0), "m6i.xlarge": (4, 0, 12.5, 16, 0),
    "m6i.2xlarge": (8, 0, 12.5, 32, 0), "m6i.4xlarge": (16, 0, 12.5, 64, 0), "m7i.large": (2, 0, 12.5, 8, 0),
    "m7i.xlarge": (4, 0, 12.5, 16, 0), "m7i.2xlarge": (8, 0, 12.5, 32, 0), "m7i.4xlarge": (16, 0, 12.5, 64, 0),
    "c6i.4xlarge": (16, 0, 12.5, 32, 0), "c7i.4xlarge": (16, 0, 12.5, 32, 0), "c7i.8xlarge": (32, 0, 12.5, 64, 0),
    "g4dn.xlarge": (4, 1, 25, 16, 16), "g4dn.12xlarge": (48, 4, 50, 192, 16),
    "g5.xlarge": (4, 1, 10, 16, 24), "g5.2xlarge": (8, 1, 10, 32, 24), "g5.12xlarge": (48, 4, 40, 192, 24),
    "g5.48xlarge": (192, 8, 100, 768, 24), "g6.xlarge": (4, 1, 10, 16, 24), "g6.2xlarge": (8, 1, 10, 32, 24),
    "g6.12xlarge": (48, 4, 40, 192, 24), "p3.2xlarge": (8, 1, 10, 61, 16), "p4d.24xlarge": (96, 8, 400, 1152, 40),
    "p5.48xlarge": (192, 8, 3200, 2048, 80),
    # Google Cloud
    "e2-standard-4": (4, 0, 8, 16, 0), "e2-standard-8": (8, 0, 16, 32, 0), "n1-standard-8": (8, 0, 16, 30, 0),
    "n2-standard-4": (4, 0, 10, 16, 0), "n2-standard-8": (8, 0, 16, 32, 0), "n2-standard-16": (16, 0, 32, 64, 0),
    "g2-standard-4": (4, 1, 10, 16, 24), "g2-standard-8": (8, 1, 16, 32, 24), "g2-standard-48": (48, 4, 50, 192, 24),
    "a2-highgpu-1g": (12, 1, 24, 85, 40), "a2-highgpu-8g": (96, 8, 100, 680, 40),
    # Azure
    "Standard_D4s_v5": (4, 0, 12.5, 16, 0), "Standard_D8s_v5": (8, 0, 12.5, 32, 0),
    "Standard_F16s_v2": (16, 0, 12.5, 32, 0), "Standard_D16s_v5": (16, 0, 12.5, 64, 0),
    "Standard_NC4as_T4_v3": (4, 1, 8, 28, 16),
    "Standard_NC8as_T4_v3": (8, 1, 8, 56, 16), "Standard_NC16as_T4_v3": (16, 1, 8, 110, 16),
    "Standard_NC24ads_A100_v4": (24, 1, 20, 220, 80), "Standard_NC96ads_A100_v4": (96, 4, 80, 880, 80),
}  # fmt: skip

UNKNOWN = Machine("", 0, 0, 10.0, 16.0, 16.0, "assumed; say --gbits, --memory-gb, --gpu-memory-gb")


def instance(name: str) -> Machine | None:
    """What the table knows about an instance."""
    if name not in _INSTANCES:
        return None
    cpus, gpus, gbits, memory, gpu_memory = _INSTANCES[name]
    return Machine(name, cpus, gpus, gbits, round(memory * GIB, 1), round(gpu_memory * GIB, 1), SHEET)


def read(file: Path, nodes: int, worker: str | None = None, **known: float | None) -> Cluster:
    """The cluster that a file for ``ray up`` (or a RayCluster of KubeRay) describes.

    Args:
        file: YAML.
        nodes: workers to plan for.
        worker: name of the worker type; the one with most GPUs, then CPUs, if not given.
        known: what the caller knows better of every worker: gbits, gpus, cpus, memory_gb, gpu_memory_gb.

    Raises:
        ConfigError: no such file, no cluster in it, or no worker that can have clients.
    """
    tree = _tree(file)
    better = {name: value for name, value in known.items() if value is not None}
    head, workers = (
        _kuberay(tree, file) if str(tree.get("kind", "")).startswith("Ray") else _ray_up(tree, file)
    )
    found = {name: _better(machine, better) for name, (machine, _) in workers.items()}
    name = _chosen({n: m for n, m in found.items() if m.gpus or m.cpus}, worker, file)
    if "gbits" in better:
        head = replace(head, gbits=better["gbits"])
    return Cluster(found[name], head, nodes, workers[name][1])


def _tree(file: Path) -> dict[str, Any]:
    """The document that describes a cluster: a file for KubeRay may hold others, such as a network policy."""
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "it is not YAML"
        raise ConfigError(f"The cluster {file} cannot be read: {reason}.") from None
    trees = [d for d in documents if isinstance(d, dict)]
    if not trees:
        raise ConfigError(
            f"The cluster {file} holds no mapping. Name a file for `ray up`, such as cluster/aws.yaml."
        )
    return next((t for t in trees if str(t.get("kind", "")).startswith("Ray")), trees[0])


def _better(machine: Machine, known: dict[str, Any]) -> Machine:
    return (
        replace(machine, **known, source=f"{machine.source}; {', '.join(known)} as given")
        if known
        else machine
    )


def _chosen(workers: dict[str, Machine], wanted: str | None, file: Path) -> str:
    if not workers:
        raise ConfigError(
            f"The cluster {file} has no worker type with CPUs or GPUs for clients. Give one resources (CPU, GPU) or an "
            "instance type that is known, or say --cpus and --gpus."
        )
    if wanted is None:
        return max(workers, key=lambda name: (workers[name].gpus, workers[name].cpus))
    if wanted not in workers:
        near = difflib.get_close_matches(wanted, workers, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(sorted(workers))}."
        raise ConfigError(f"The cluster {file} has no worker type {wanted!r}. {hint}")
    return wanted


Workers = dict[str, tuple[Machine, int | None]]


def _ray_up(tree: dict[str, Any], file: Path) -> tuple[Machine, Workers]:
    """Node types of a file for ``ray up``."""
    provider = tree.get("provider") or {}
    if provider.get("type") == "local":
        addresses = provider.get("worker_ips") or []
        own = here()
        return own, {"local": (own, len(addresses) or None)}
    types = tree.get("available_node_types")
    if not isinstance(types, dict) or not types:
        raise ConfigError(
            f"The cluster {file} has no available_node_types. Name a file for `ray up`, such as cluster/aws.yaml."
        )
    head = tree.get("head_node_type", "")
    machines = {name: _node_type(name, body or {}) for name, body in types.items()}
    workers: Workers = {
        name: (machine, types[name].get("max_workers")) for name, machine in machines.items() if name != head
    }
    return machines.get(head, replace(UNKNOWN, name="head")), workers


def _node_type(name: str, body: dict[str, Any]) -> Machine:
    """A node type: what the file says of CPUs and GPUs, what the table says of the rest."""
    config, resources = body.get("node_config") or {}, body.get("resources") or {}
    kind = config.get("InstanceType") or str(config.get("machineType") or "").rpartition("/")[2]
    kind = kind or (config.get("azure_arm_parameters") or {}).get("vmSize") or ""
    machine = instance(kind) or replace(UNKNOWN, name=kind)
    label = f"{name} ({kind})" if kind else name
    attached = sum(int(a.get("acceleratorCount", 0)) for a in config.get("guestAccelerators") or [])
    gpus = int(resources.get("GPU", attached or machine.gpus))
    return replace(machine, name=label, cpus=float(resources.get("CPU", machine.cpus)), gpus=gpus)


def _kuberay(tree: dict[str, Any], file: Path) -> tuple[Machine, Workers]:
    """Worker groups of a RayCluster, or of the one inside a RayJob."""
    spec = tree["spec"].get("rayClusterSpec", tree["spec"])
    groups = spec.get("workerGroupSpecs") or []
    head = _pod("head", spec.get("headGroupSpec") or {})
    return head, {g["groupName"]: (_pod(g["groupName"], g), g.get("maxReplicas")) for g in groups}


def _pod(name: str, group: dict[str, Any]) -> Machine:
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or [{}]
    resources = containers[0].get("resources") or {}
    limits = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    memory = _quantity(limits["memory"]) / 1e9 if "memory" in limits else UNKNOWN.memory_gb
    return replace(
        UNKNOWN,
        name=name,
        cpus=_quantity(limits.get("cpu", 0)),
        gpus=int(limits.get("nvidia.com/gpu", 0)),
        memory_gb=memory,
    )


def _quantity(text: Any) -> float:
    """A quantity as Kubernetes writes it: 500m, 4, 16Gi, 64G."""
    units = {
        "m": 1e-3,
        "k": 1e3,
        "M": 1e6,
        "G": 1e9,
        "T": 1e12,
        "Ki": 2**10,
        "Mi": 2**20,
        "Gi": 2**30,
        "Ti": 2**40,
    }
    text = str(text)
    unit = next((u for u in sorted(units, key=len, reverse=True) if text.endswith(u)), "")
    return float(text.removesuffix(unit)) * units.get(unit, 1.0)


def here() -> Machine:
    """This machine."""
    import torch

    from raysim.plan.calibration import cores

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else math.inf
    )
    each = min((g.total_memory / 1e9 for g in gpus), default=0.0)
    return Machine(
        "this machine", cores(), len(gpus), UNKNOWN.gbits, memory, each, "seen here; network assumed"
    )
