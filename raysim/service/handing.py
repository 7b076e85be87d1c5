"""The job that hands a run's folder over: it packs it beside the cluster's logs, which the dashboard serves.

Nothing but the dashboard's port is needed. What was packed goes when it has been fetched.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from raysim.core.plugin import ConfigError
from raysim.runtime import storage
from raysim.service.packing import REQUEST

KEPT = 900  # seconds for the other side to fetch it


def main() -> int:
    """Pack the folder that the request names, wait until it is fetched; returns the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # which says that it has been fetched
    request = json.loads(Path(REQUEST).read_text(encoding="utf-8"))
    try:
        logs = Path(os.readlink("/proc/self/fd/1")).parent  # this job's output goes to a file there
        file = logs / f"{request['id']}.tar.gz"
        try:
            pack(request["folder"], file, request["checkpoints"])
            _tell(request, "ready", file=file.name, bytes=file.stat().st_size)
            signal.sigtimedwait({signal.SIGTERM}, KEPT)
        finally:
            file.unlink(missing_ok=True)
    except (ConfigError, OSError) as error:
        _tell(request, "failed", text=str(error))
        return 2
    return 0


def _tell(request: dict[str, Any], event: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"run": request["id"], "event": event, **facts}) + "\n")
    sys.stdout.flush()


def pack(folder: str, file: Path, checkpoints: bool) -> None:
    """A run's folder as one file.

    Args:
        folder: a path or a URL.
        file: where to write the archive.
        checkpoints: with its checkpoints.

    Raises:
        ConfigError: there is no run in that folder, or its storage refuses.
    """
    with tempfile.TemporaryDirectory(prefix="raysim-") as aside:
        if storage.is_url(folder):
            root = Path(aside)
            copy(folder, root, checkpoints)
        else:
            root = Path(folder).expanduser()
        if not (root / "run.json").exists():
            raise ConfigError(f"{folder} is not a run's folder: it has no run.json.")
        with tarfile.open(file, "w:gz", compresslevel=1) as tar:
            for path in sorted(root.rglob("*")):
                name = path.relative_to(root)
                if path.is_file() and wanted(name.as_posix(), checkpoints):
                    _add(tar, path, name.as_posix())


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """One file; a run that goes on drops its oldest checkpoint at any time."""
    try:
        tar.add(path, name, recursive=False)
    except FileNotFoundError:
        time.sleep(0)


def wanted(name: str, checkpoints: bool) -> bool:
    """Whether a file belongs to what is fetched."""
    return (
        not name.endswith(".tmp")
        and ".tmp/" not in name
        and (checkpoints or not name.startswith("checkpoints/"))
    )


def copy(url: str, root: Path, checkpoints: bool) -> None:
    """Copy a run's folder from storage.

    Args:
        url: of the folder.
        root: a folder here.
        checkpoints: with its checkpoints.

    Raises:
        ConfigError: the storage refuses.
    """
    there = storage.Storage(url)
    try:
        for path in storage.tried(lambda: there.fs.find(there.root)):
            name = path.removeprefix(there.root).lstrip("/")
            if wanted(name, checkpoints):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                there.get(name, root / name)
    except storage.StorageError as error:
        raise ConfigError(f"The run at {url} cannot be fetched: {error}. {storage.advice(error)}") from None


if __name__ == "__main__":
    sys.exit(main())
