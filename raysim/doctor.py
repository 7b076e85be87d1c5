"""Whether this machine is fit for raysim: one small function per question, each with what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

_GB = 1e9
_SHM = Path("/dev/shm")
_SHM_WANTED = 1.0  # GB; containers come with 0.064, and Ray then keeps its objects on disk
_DISK_WANTED = 2.0  # GB
_START = 120  # seconds that Ray has for starting: slow on a busy laptop, never longer

_PROBE = """
import json, os, sys, warnings
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
import ray
quiet = dict(log_to_driver=False, logging_level="ERROR")
if sys.argv[1:]:
    ray.init(address=sys.argv[1], **quiet)
else:
    ray.init(address="local", num_cpus=1, include_dashboard=False, **quiet)
answer = ray.get(ray.remote(num_cpus=1)(lambda: 42).remote(), timeout=90)
assert answer == 42
nodes = sum(node["Alive"] for node in ray.nodes())
print("FOUND" + json.dumps({"nodes": nodes, **ray.cluster_resources()}))
ray.shutdown()
"""


@dataclass(frozen=True)
class Finding:
    """An answer of the doctor.

    Args:
        level: "ok", "warning" (slower or less than it could be) or "problem" (something will not work).
        name: what was looked at.
        what: what was found.
        advice: what to do about it; empty if nothing.
    """

    level: Literal["ok", "warning", "problem"]
    name: str
    what: str
    advice: str = ""


def examine(address: str | None = None) -> list[Finding]:
    """All findings, the quick ones first.

    Args:
        address: Ray cluster to ask ("auto" or host:port); None starts Ray on this machine for a moment.
    """
    return [asked(check) for check in CHECKS] + [asked(lambda: ray_runs(address), "ray starts")]


def asked(check: Callable[[], Finding], name: str = "") -> Finding:
    """A check's finding; a check that fails itself is a problem, not a traceback."""
    try:
        return check()
    except Exception as error:  # whatever it is, the other checks still have something to say
        name = name or check.__name__.replace("_", " ")
        return Finding(
            "problem", name, f"cannot be examined: {type(error).__name__}: {error}", "Reinstall raysim."
        )


def python() -> Finding:
    """A Python that raysim is written for."""
    what = f"{platform.python_version()} at {sys.executable}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding("ok", "python", what)
    return Finding("problem", "python", what, "Use Python 3.10, 3.11 or 3.12.")


def torch() -> Finding:
    """The build of torch: for which CUDA, or for CPUs only."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding("ok", "torch", f"{torch.__version__}, built for {built}")


def threads() -> Finding:
    """Threads of one process against the cores there are: too many wait for each other."""
    import torch

    cores, wanted = _cores(), os.environ.get("OMP_NUM_THREADS")
    what = f"{torch.get_num_threads()} of torch's on {cores} cores, OMP_NUM_THREADS {wanted or 'not set'}"
    if torch.get_num_threads() > cores:
        advice = f"Set OMP_NUM_THREADS to at most {cores}: more threads than cores wait for each other."
        return Finding("warning", "threads", what, advice)
    return Finding("ok", "threads", f"{what}; runs use placement.threads per process")


def gpus() -> Finding:
    """GPUs that torch can use, with their memory."""
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("ok", "gpus", ", ".join(f"{g.name} with {g.total_memory / _GB:.0f} GB" for g in found))
    if shutil.which("nvidia-smi") is None:
        return Finding("ok", "gpus", "none; runs use the CPU")
    if torch.version.cuda is None:
        advice = "Install a CUDA build of torch (see pytorch.org/get-started) to use the GPU."
        return Finding(
            "warning", "gpus", "there is an NVIDIA driver, but this torch is built for CPUs", advice
        )
    advice = (
        "Run nvidia-smi: the driver may be older than torch needs, or CUDA_VISIBLE_DEVICES may hide the GPU."
    )
    return Finding("warning", "gpus", "there is an NVIDIA driver, but torch sees no GPU", advice)


def torchvision() -> Finding:
    """The reader of MNIST and CIFAR files."""
    from raysim.core import vision

    try:
        vision.datasets()
    except Exception as error:  # its import fails in many ways when it does not fit the torch beside it
        advice = "Install the torchvision that belongs to this torch. Only the image data sets need it."
        return Finding("warning", "torchvision", f"does not import: {error}", advice)
    return Finding("ok", "torchvision", version("torchvision"))


def compiler() -> Finding:
    """A C++ compiler, for the compiled form."""
    from raysim.core.execution import has_compiler

    if has_compiler():
        return Finding("ok", "c++ compiler", "found; execution.form: compiled works on the CPU")
    advice = "Install g++ or clang to use execution.form: compiled on a CPU. Every other form works without."
    return Finding("warning", "c++ compiler", "not found", advice)


def shared_memory() -> Finding:
    """Room for Ray's object store."""
    if not _SHM.exists():
        return Finding("ok", "shared memory", f"no {_SHM} on {platform.system()}; Ray uses files")
    usage = shutil.disk_usage(_SHM)
    what = f"{usage.free / _GB:.2f} GB free of {usage.total / _GB:.2f} GB in {_SHM}"
    if usage.free < _SHM_WANTED * _GB:
        advice = "Ray's object store would go to disk, which is slow. In Docker: docker run --shm-size=4g."
        return Finding("warning", "shared memory", what, advice)
    return Finding("ok", "shared memory", what)


def disk() -> Finding:
    """Room for runs here, and for Ray's session in the folder for temporary files."""
    places = {"here": Path.cwd(), "for temporary files": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(path).free / _GB for name, path in places.items()}
    what = ", ".join(f"{gb:.1f} GB free {name}" for name, gb in free.items())
    if not os.access(places["here"], os.W_OK):
        return Finding(
            "warning", "disk", f"{what}; {places['here']} cannot be written", "Use --folder for runs."
        )
    if min(free.values()) < _DISK_WANTED:
        return Finding(
            "warning", "disk", what, "Make room: a run whose disk is full loses its later checkpoints."
        )
    return Finding("ok", "disk", what)


def ray() -> Finding:
    """Ray's version; a run without actors does not need it."""
    try:
        return Finding("ok", "ray", version("ray"))
    except PackageNotFoundError:
        return Finding("problem", "ray", "not installed", 'Install it: pip install "ray[default,tune]".')


CHECKS: list[Callable[[], Finding]] = [
    python,
    torch,
    threads,
    gpus,
    torchvision,
    compiler,
    shared_memory,
    disk,
    ray,
]


def ray_runs(address: str | None = None) -> Finding:
    """Whether Ray starts here, or answers at ``address``, and runs a task.

    In a process of its own, since Ray may hang or abort.
    """
    name = f"ray at {address}" if address else "ray starts"
    command = [sys.executable, "-c", _PROBE, *([address] if address else [])]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=_START)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            what = f"no answer within {_START} s"
            return Finding("problem", name, what, _ray_advice(address, ""))
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    found = next((line[5:] for line in output.splitlines() if line.startswith("FOUND")), None)
    if found is None:
        last = said[-1] if said else f"exit code {process.returncode}"
        return Finding("problem", name, f"fails: {last}", _ray_advice(address, last))
    return Finding("ok", name, _resources(json.loads(found)))


def _ray_advice(address: str | None, error: str) -> str:
    if address is None:
        return "Its logs are in /tmp/ray/session_latest/logs. Runs with placement.actors: 0 work without Ray."
    if "uthenticat" in error or "token" in error:
        return "Export RAY_AUTH_MODE=token and the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token)."
    return (
        "Is the cluster up (ray status), the address right, and its Python and Ray version the same as here?"
    )


def _resources(found: dict[str, Any]) -> str:
    gpus = f", {found['GPU']:g} GPUs" if found.get("GPU") else ""
    nodes, cpus = found["nodes"], found.get("CPU", 0)
    return f"yes: {nodes} node{'s' * (nodes != 1)}, {cpus:g} CPU{'s' * (cpus != 1)}{gpus}"


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def report(findings: list[Finding]) -> Any:
    """Findings for rich to print."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    colour = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    for f in findings:
        text = Text(f.what)
        if f.advice:
            text.append(f"\n{f.advice}", style="italic")
        table.add_row(Text(f.level, style=colour[f.level]), f.name, text)
    return table
