"""What a Ray cluster has, whether its nodes run what runs here, and what fits on it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.doctor import experiment
from raysim.doctor.finding import GB, Finding, asked
from raysim.doctor.process import Silent, answer

if TYPE_CHECKING:
    from raysim.simulation import Simulation

_SURVEY = [
    "-c",
    "import importlib.util as u, sys, types; m = types.ModuleType('raysim'); "
    "m.__path__ = list(u.find_spec('raysim').submodule_search_locations); sys.modules['raysim'] = m; "
    "from raysim.runtime.survey import main; main(sys.argv[1:])",
]
"""The survey as a program; ``import raysim`` does not run its ``__init__`` there, which takes seconds for torch."""
_SECONDS = 600.0  # for a survey: a node has two minutes for each of three questions
_KNOCK = 120.0  # for the head to say whether it wants a token: two, unless this machine is very busy
_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_SPLITS = (1, 2, 4, 8)  # client actors per GPU
_EXPORT = "Export RAY_AUTH_MODE=token and the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token)."


def examine(address: str, simulation: Simulation | None = None, storage: str | None = None) -> list[Finding]:
    """All findings about a cluster; if it cannot be joined, why.

    Args:
        address: "auto" or host:port.
        simulation: experiment that is to fit.
        storage: path or URL that all nodes are to see.
    """
    try:
        found = answer([*_SURVEY, address, *([storage] if storage else [])], _SECONDS)
    except Silent as error:
        said, _, _ = str(error).partition(". ")  # Ray goes on for a page
        return [Finding("problem", f"ray at {address}", said, _advice(str(error)))]
    findings = [
        asked(lambda: token(found["address"]), "token"),
        asked(lambda: resources(found, address), "cluster"),
        *nodes(found),
        asked(lambda: versions(found), "versions"),
        asked(lambda: autoscaler(found), "autoscaler"),
        asked(lambda: fractions(found), "client actors"),
    ]
    if found["storage"]:
        findings.append(asked(lambda: shared(found), "storage"))
    return findings + (experiment.examine(simulation, found) if simulation else [])


def _advice(error: str) -> str:
    if "uthenticat" in error or "token" in error:
        return _EXPORT
    return (
        "Is the cluster up (ray status), the address right, and its Python and Ray version the same as here?"
    )


def token(address: str) -> Finding:
    """Whether the cluster lets in who has no token."""
    bare = {name: value for name, value in os.environ.items() if name not in _TOKEN}
    try:
        answer([*_SURVEY, "open", address], _KNOCK, bare | {"RAY_AUTH_MODE": "disabled"})
    except Silent as error:
        if "uthenticat" not in str(error):
            return Finding("warning", "token", f"cannot be examined: {error}", "Ask again.")
        return Finding("ok", "token", f"needed, and found in {_source()}")
    advice = (
        "Whoever reaches its ports runs code as its user. Start it with RAY_AUTH_MODE=token, or see that nobody "
        "else does."
    )
    return Finding("warning", "token", "not needed: the cluster lets everybody in", advice)


def _source() -> str:
    """Where this process has its token from."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path("~/.ray/auth_token"))


def resources(found: dict[str, Any], address: str) -> Finding:
    """All nodes together, and what of it nobody uses."""
    total, free = (_sum(node[kind] for node in found["nodes"]) for kind in ("has", "free"))
    heads = [node["address"] for node in found["nodes"] if node["head"]]
    number, store = len(found["nodes"]), total["object_store_memory"] / GB
    what = (
        f"{_number(number, 'node')} alive, {_number(total['CPU'], 'CPU')} ({free['CPU']:g} free), "
        f"{_number(total['GPU'], 'GPU')} ({free['GPU']:g} free), object store {store:.1f} GB, "
        f"head {', '.join(heads) or 'none'}"
    )
    return Finding("ok", f"ray at {address}", what)


def _sum(parts: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        for name, amount in part.items():
            total[name] += amount
    return total


def nodes(found: dict[str, Any]) -> list[Finding]:
    """One finding per kind of node: those that are alike, but for how full they are, share a line."""
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for node in found["nodes"]:
        gpus = [(gpu["name"], gpu["total"]) for gpu in node.get("gpus", [])]
        logical = [node["has"].get(kind, 0) for kind in ("CPU", "GPU")]
        kinds.setdefault((node["head"], node["error"], *logical, *gpus), []).append(node)
    return [asked(lambda alike=alike: _kind(alike), "node") for alike in kinds.values()]


def _kind(alike: list[dict[str, Any]]) -> Finding:
    """What each of some nodes has that are alike; memory is that of the least."""
    first, sees = alike[0], alike[0].get("gpus", [])
    name = f"node {first['address']}" + (f" and {len(alike) - 1} more" if len(alike) > 1 else "")
    least = {kind: min(n["has"].get(kind, 0) for n in alike) for kind in ("memory", "object_store_memory")}
    cpus, gpus = (first["has"].get(kind, 0) for kind in ("CPU", "GPU"))
    what = f"{'head, ' * first['head']}{_number(cpus, 'CPU')}, {_number(gpus, 'GPU')}"
    if sees:
        free = [[n["gpus"][i]["free"] for n in alike] for i in range(len(sees))]
        what += f" ({', '.join(_gpu(gpu, f) for gpu, f in zip(sees, free, strict=True))})"
    what += f", memory {least['memory'] / GB:.0f} GB, object store {least['object_store_memory'] / GB:.1f} GB"
    if first["error"]:
        advice = "Is it busy or full? Its logs are in /tmp/ray/session_latest/logs there."
        return Finding("problem", name, f"{what}; {first['error']}", advice)
    if len(sees) < gpus:
        advice = "Install a CUDA build of torch there, and look at nvidia-smi."
        return Finding("problem", name, f"{what}; torch sees {len(sees)} of {_number(gpus, 'GPU')}", advice)
    return Finding("ok", name, what)


def _gpu(gpu: dict[str, Any], free: list[float | None]) -> str:
    """A GPU's name and memory, and what is free of it, on the fullest if there are several nodes."""
    what = f"{gpu['name']} with {gpu['total'] / GB:.0f} GB"
    known = [number for number in free if number is not None]
    return (
        f"{what}, {min(known) / GB:.0f} free" if len(known) == len(free) else f"{what}, which lets nobody in"
    )


def _number(amount: float, unit: str) -> str:
    return f"{amount:g} {unit}{'s' * (amount != 1)}"


def versions(found: dict[str, Any]) -> Finding:
    """Python, Ray, torch and raysim on every node against this machine."""
    here = found["here"].get("versions", {})
    differ: dict[str, dict[str, list[str]]] = {}
    for node in found["nodes"]:
        for name, there in node.get("versions", {}).items():
            if _release(there) != _release(here.get(name)):
                differ.setdefault(name, {}).setdefault(str(there), []).append(node["address"])
    if "raysim" in differ:
        differ.pop("raysim code", None)
    if not differ:
        same = ", ".join(f"{name} {here.get(name)}" for name in sorted(here))
        return Finding("ok", "versions", f"the same on every node as here: {same}")
    what = "; ".join(
        f"{name} is {here.get(name) or 'missing'} here but {_there(there)}" for name, there in differ.items()
    )
    grave = differ.keys() & {"python", "ray"}
    advice = (
        "Ray refuses to mix them: install the same on every node and here."
        if grave
        else "Client actors run what their node has: install the same there. `raysim submit` brings raysim along; "
        "another torch may change the last bits."
    )
    return Finding("problem" if grave else "warning", "versions", what, advice)


def _release(version: str | None) -> str | None:
    """Without the build (2.13.0+cu130): a laptop's torch is for CPUs."""
    return version.partition("+")[0] if version else None


def _there(there: dict[str, list[str]]) -> str:
    return ", ".join(
        f"{'missing' if version == 'None' else version} on {_few(where)}" for version, where in there.items()
    )


def _few(addresses: list[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
    return ", ".join(addresses[:3]) + more


def autoscaler(found: dict[str, Any]) -> Finding:
    """How many nodes of which kind may be added."""
    limits = found["autoscaler"]
    if limits is None:
        what = "none with limits that the head can read (KubeRay's shows them to nobody)"
        return Finding("ok", "autoscaler", f"{what}; without one, what is there is all there is")
    kinds = [
        f"{kind['min']} to {kind['max']} {name} ({_words(kind)})" for name, kind in limits["types"].items()
    ]
    most = "" if limits["max"] is None else f", at most {limits['max']} in all"
    return Finding("ok", "autoscaler", f"workers: {'; '.join(kinds) or 'none'}{most}")


def _words(kind: dict[str, Any]) -> str:
    shown = [_number(amount, name) for name, amount in kind["resources"].items() if name in ("CPU", "GPU")]
    return ", ".join(shown) or "resources as found"


def fractions(found: dict[str, Any]) -> Finding:
    """Client actors that fit on the GPUs, whole and shared, with a CPU each."""
    sees = [gpu["total"] for node in found["nodes"] for gpu in node.get("gpus", [])]
    if not _actors(found, {"GPU": 1.0}).strip("0"):
        cpus = _actors(found, {"CPU": 1.0})
        return Finding(
            "ok", "client actors", f"{cpus} of 1 CPU; no GPUs, so leave placement.gpus_per_actor at 0"
        )
    fits = []
    for split in _SPLITS:
        actors = _actors(found, {"GPU": 1.0, "CPU": float(split)}, split)
        memory = f", {min(sees) / split / GB:.0f} GB each" if sees else ""
        fits.append(f"{actors} with gpus_per_actor {1 / split:g}{memory}")
    return Finding("ok", "client actors", f"with a CPU each: {'; '.join(fits)}")


def _actors(found: dict[str, Any], bundle: dict[str, float], each: int = 1) -> str:
    """Actors in all bundles that fit, and with the nodes that may be added."""
    here = each * sum(experiment.bundles_on(node["has"], bundle) for node in found["nodes"])
    most = here + each * experiment.to_come(found, bundle)
    return f"{here} (up to {most} as nodes are added)" if most > here else str(here)


def shared(found: dict[str, Any]) -> Finding:
    """Whether every node writes to the storage of runs and sees what the others write."""
    at, number = found["storage"], len(found["nodes"])
    if at["errors"]:
        (node, error), *more = at["errors"].items()
        what = f"{at['where']}: {error} (on {node}{f' and {len(more)} more' if more else ''})"
        advice = (
            "Every node needs the address, the credentials and fsspec's package for it (s3fs, gcsfs, adlfs)."
        )
        return Finding("problem", "storage", what, advice)
    if at["unseen"]:
        (node, others), *more = at["unseen"].items()
        what = f"{at['where']} is not the same place everywhere: {node} sees nothing of {_few(others)}"
        what += f", and so for {len(more)} more" if more else ""
        return Finding(
            "problem", "storage", what, "Use a folder that all nodes mount, or a URL such as s3://."
        )
    if at["left behind"]:
        what = f"all {number} nodes see it, but {_few(at['left behind'])} cannot delete there"
        return Finding("warning", "storage", what, "Allow it: old checkpoints are deleted as new ones come.")
    return Finding(
        "ok", "storage", f"{at['where']}: all {number} nodes write there and see the others' files"
    )
