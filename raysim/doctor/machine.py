"""Whether this machine is fit for raysim: one small function per question, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from raysim.doctor.finding import GB, Finding
from raysim.doctor.process import Silent, answer

_SHM = Path("/dev/shm")
_SHM_WANTED = 1.0  # GB; containers come with 0.064, and Ray then keeps its objects on disk
_DISK_WANTED = 2.0  # GB
_START = 120  # seconds that Ray has for starting: slow on a busy laptop, never longer

_PROBE = """
import json, os
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
import ray
quiet = dict(log_to_driver=False, logging_level="ERROR")
ray.init(address="local", num_cpus=1, include_dashboard=False, **quiet)
answer = ray.get(ray.remote(num_cpus=1)(lambda: 42).remote(), timeout=90)
assert answer == 42
nodes = sum(node["Alive"] for node in ray.nodes())
print("FOUND" + json.dumps({"nodes": nodes, **ray.cluster_resources()}))
ray.shutdown()
"""


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
        return Finding("ok", "gpus", ", ".join(f"{g.name} with {g.total_memory / GB:.0f} GB" for g in found))
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
    what = f"{usage.free / GB:.2f} GB free of {usage.total / GB:.2f} GB in {_SHM}"
    if usage.free < _SHM_WANTED * GB:
        advice = "Ray's object store would go to disk, which is slow. In Docker: docker run --shm-size=4g."
        return Finding("warning", "shared memory", what, advice)
    return Finding("ok", "shared memory", what)


def disk() -> Finding:
    """Room for runs here, and for Ray's session in the folder for temporary files."""
    places = {"here": Path.cwd(), "for temporary files": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(path).free / GB for name, path in places.items()}
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


def ray_runs() -> Finding:
    """Whether Ray starts here and runs a task."""
    try:
        found = answer(["-c", _PROBE], _START)
    except Silent as error:
        advice = (
            "Its logs are in /tmp/ray/session_latest/logs. Runs with placement.actors: 0 work without Ray."
        )
        return Finding("problem", "ray starts", str(error), advice)
    nodes, cpus = found["nodes"], found.get("CPU", 0)
    gpus = f", {found['GPU']:g} GPUs" if found.get("GPU") else ""
    what = f"yes: {nodes} node{'s' * (nodes != 1)}, {cpus:g} CPU{'s' * (cpus != 1)}{gpus}"
    return Finding("ok", "ray starts", what)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
