"""What goes to the cluster: the experiment, this very raysim and tuning, and a folder of the user's own."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raysim.core.plugin import ConfigError

REQUEST, EXPERIMENT = "raysim-job.json", "experiment.yaml"  # a job's own files, in the folder it begins in
LIMIT = 200_000_000  # bytes; Ray keeps packages in the head's memory and takes up to 500 MB
GRACE = 600  # seconds between `raysim stop` and the kill: time for the round in progress and its checkpoint

_FOUND = "import importlib.util as u, sys; sys.exit(u.find_spec('ray') is None)"


def identity(name: str, text: str, code: Path | None) -> str:
    """A run's id: the experiment's name and a hash of what it holds.

    Args:
        name: the experiment's.
        text: the experiment, every field written out.
        code: the user's own folder, None for none.
    """
    content = hashlib.sha256(text.encode())
    for file in files(code) if code else []:
        assert code is not None
        content.update(f"\0{file.relative_to(code).as_posix()}\0".encode())
        content.update(file.read_bytes())
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "run"
    return f"{clean}-{content.hexdigest()[:8]}"


def is_identity(name: str) -> bool:
    """Whether a name is one that ``identity`` gives, or one of the same run submitted again."""
    return re.fullmatch(r".+-[0-9a-f]{8}(-[0-9]+)?", name) is not None


def files(code: Path) -> list[Path]:
    """The files of a user's folder that go along: all but hidden ones, caches, virtual environments and fetched runs.

    A run that was fetched into the folder would make another of the next submission of the same experiment.

    Raises:
        ConfigError: no such folder, or more than fits.
    """
    if not code.is_dir():
        raise ConfigError(f"The folder {code} of --code does not exist.")
    found, size = [], 0
    runs = {status.parent for status in code.rglob("*/run.json") if (status.parent / EXPERIMENT).exists()}
    for file in sorted(code.rglob("*")):
        parts = file.relative_to(code).parts
        left = any(part.startswith(".") or part in ("__pycache__", "venv") for part in parts)
        own = file.parent == code and file.name in (REQUEST, EXPERIMENT)
        if left or own or not runs.isdisjoint(file.parents) or not file.is_file():
            continue
        found.append(file)
        size += file.stat().st_size
    if size > LIMIT:
        raise ConfigError(
            f"The folder {code} of --code holds {size / 1e6:.0f} MB, and at most {LIMIT / 1e6:.0f} MB go along with a "
            "run. Leave data sets out: put them where every node reads them, and name that place in the experiment."
        )
    return found


def entrypoint(module: str) -> str:
    """A command for /bin/sh on a head node whose PATH may know no Python.

    The first interpreter asked for is the one that the node's own Ray works with: the parent of this shell is Ray's
    worker, and the worker's parent has the interpreter in its command line. The cluster's address is there too: where
    a machine has several clusters, Ray may put that of any of them into RAY_ADDRESS.

    Args:
        module: of this folder, to run.
    """
    return (
        "raylet=$(sed 's/.*) //' /proc/$PPID/stat 2>/dev/null | cut -d' ' -f2); "
        "said() { tr '\\0' '\\n' </proc/$raylet/cmdline 2>/dev/null | sed -n \"s/^--$1=\\([^ ]*\\).*/\\1/p\"; }; "
        "own=$(said python_worker_command); gcs=$(said gcs-address); "
        '[ -n "$gcs" ] && export RAY_ADDRESS="$gcs"; '
        'for python in "$own" python3 python; do '
        f'"$python" -c "{_FOUND}" 2>/dev/null && exec "$python" -m raysim.service.{module}; done; '
        "echo 'There is no Python with Ray on this node: start Ray with its environment active.'; exit 2"
    )


@contextmanager
def packed(request: dict[str, Any], text: str | None, code: Path | None = None) -> Iterator[dict[str, Any]]:
    """A runtime environment for Ray, whose folders exist inside.

    Args:
        request: what the job is to do.
        text: the experiment; None where the job finds it itself.
        code: the user's own folder.
    """
    from raysim.runtime import capacity

    with TemporaryDirectory(prefix="raysim-") as folder:
        for file in files(code) if code else []:
            assert code is not None
            target = Path(folder) / file.relative_to(code)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        if text is not None:
            (Path(folder) / EXPERIMENT).write_text(text, encoding="utf-8")
        (Path(folder) / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        yield {
            "working_dir": folder,
            "py_modules": [str(_package("raysim")), str(_package("tuning"))],
            "excludes": ["__pycache__"],
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE), capacity.GROUP: f"raysim-{request['id']}"},
        }


def _package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None, f"{name} is part of this installation"
    assert found.submodule_search_locations, f"{name} is a package"
    return Path(found.submodule_search_locations[0])
