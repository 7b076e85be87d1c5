"""Clusters as the doctor's survey finds them, made up; and experiments to place on them."""

import raysim as rs
from tests.experiments import digits

HERE = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
    "raysim": "0.1.0",
    "raysim code": "aaaaaaaa",
}
H200 = {"name": "NVIDIA H200", "total": 150e9, "free": 140e9}


def node(address="10.0.0.1", cpus=8, gpus=0, head=False, **changes):
    """A node as the survey finds it, with a GPU that torch sees for each that Ray has."""
    has = {"CPU": float(cpus), "memory": 64e9, "object_store_memory": 20e9} | (
        {"GPU": float(gpus)} if gpus else {}
    )
    fields = {"address": address, "head": head, "has": has, "free": has, "gpus": [H200] * gpus}
    return fields | {"versions": HERE, "error": None} | changes


def found(*nodes, **changes):
    """A survey."""
    return {"nodes": list(nodes), "here": {"versions": HERE}, "autoscaler": None, "storage": None} | changes


def scaling(most, **types):
    """An autoscaler's limits; types as (largest number, CPUs, GPUs)."""
    kinds = {n: {"min": 0, "max": m, "resources": {"CPU": c, "GPU": g}} for n, (m, c, g) in types.items()}
    return {"max": most, "types": kinds}


def place(actors, **fields):
    """A small experiment on so many actors."""
    return digits(placement=rs.Placement(actors=actors, **fields))
