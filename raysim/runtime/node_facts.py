"""What one node has and can do, as a program of its own that is sent to nodes as text.

It imports nothing of raysim's, which a node may have not at all or in another version; and it ends before any work
starts, so that the GPU memory which looking at a GPU takes is given back.

    python -c TEXT QUESTION, a JSON object of what to find out, each with its arguments:
    "machine": [true]                      versions, and GPUs (false: without, which spares importing torch)
    "autoscaler": ["10.0.0.1:6379"]        limits of the autoscaler that runs here for that cluster
    "storage": ["s3://b/runs", "leave", "name"]      see ``storage``
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

MARK = "raysim-doctor-"  # begins the names of files that are left in storage for a moment


def machine(look: bool) -> dict[str, Any]:
    """Versions, and GPUs that torch sees.

    Args:
        look: for GPUs.
    """
    versions = {name: _version(name) for name in ("ray", "torch", "raysim")}
    versions |= {"python": platform.python_version(), "raysim code": _digest()}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"versions": versions, "gpus": gpus() if look and versions["torch"] else [], "visible": visible}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest() -> str | None:
    """Eight digits that differ where raysim's code does: versions change more slowly than code."""
    spec = importlib.util.find_spec("raysim")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    total = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        total.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:8]


def gpus() -> list[dict[str, Any]]:
    """Name and memory in bytes of every GPU that torch sees; free is None where it cannot be asked."""
    import torch

    found = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        try:
            free = torch.cuda.mem_get_info(i)[0]
        except RuntimeError:  # full, or another process has it to itself
            free = None
        found.append({"name": about.name, "total": about.total_memory, "free": free})
    return found


def autoscaler(address: str) -> dict[str, Any] | None:
    """Limits in the configuration of the autoscaler that serves a cluster from this node; None if there is none.

    Args:
        address: the cluster's, host:port as Ray has it.
    """
    for options in monitors(address):
        if "autoscaling-config" in options:
            return _limits(Path(options["autoscaling-config"]).expanduser())
    return None


def monitors(address: str) -> list[dict[str, str]]:
    """Options of Ray's monitors that serve a cluster from this node; one that scales names its configuration."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        options = dict(w[2:].split("=", 1) for w in words if w.startswith("--") and "=" in w)
        if options.get("gcs-address") == address and any(w.endswith("monitor.py") for w in words):
            found.append(options)
    return found


def _limits(file: Path) -> dict[str, Any]:
    """What may be added, and what the head has; no more of the file, which may hold secrets."""
    import yaml

    config = yaml.safe_load(file.read_text())
    kinds, most = dict(config.get("available_node_types") or {}), config.get("max_workers")
    head = kinds.pop(config.get("head_node_type"), None) or {}
    types = {
        name: {
            "min": kind.get("min_workers", 0),
            "max": kind.get("max_workers", most or 0),
            "resources": kind.get("resources") or {},
        }
        for name, kind in kinds.items()
    }
    return {"max": most, "types": types, "head": head.get("resources") or {}}


def storage(where: str, task: str, name: str) -> list[str]:
    """Leave a file in storage, see which files nodes left there, or clear this node's away.

    Args:
        where: a path, or an fsspec URL.
        task: "leave", "seen" or "clear".
        name: the file's, without ``MARK``; for "seen" what all names begin with.
    """
    import fsspec

    files, root = fsspec.core.url_to_fs(where)
    if task == "leave":
        files.makedirs(root, exist_ok=True)
        with files.open(f"{root}/{MARK}{name}", "wb") as file:
            file.write(name.encode())
    elif task == "clear":
        files.rm(f"{root}/{MARK}{name}")
    else:
        files.invalidate_cache()
        found = [path.rpartition("/")[2] for path in files.ls(root, detail=False)]
        return sorted(f.removeprefix(MARK) for f in found if f.startswith(MARK + name))
    return [name]


def main(question: dict[str, list[Any]]) -> dict[str, Any]:
    """Answers by name; under "errors" the reasons where there is none."""
    answers: dict[str, Any] = {"errors": {}}
    for name, arguments in question.items():
        try:
            answers[name] = {"machine": machine, "autoscaler": autoscaler, "storage": storage}[name](
                *arguments
            )
        except Exception as error:  # whatever it is, it is the answer
            answers["errors"][name] = f"{type(error).__name__}: {error}"
    return answers


if __name__ == "__main__":
    sys.path[:] = [p for p in sys.path if p]  # what is installed, not what lies in the folder this runs in
    sys.stdout.write("FOUND" + json.dumps(main(json.loads(sys.argv[1]))) + "\n")
