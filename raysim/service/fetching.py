"""A run's folder brought to the laptop: from storage where the laptop reaches it, else through the dashboard."""

from __future__ import annotations

import secrets
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import Any

from raysim.core.plugin import ConfigError
from raysim.runtime import folder as folders
from raysim.runtime.storage import is_url
from raysim.service import handing, lines, packing
from raysim.service.cluster import Job, Jobs

LOOK, PATIENCE = 0.5, 600.0  # seconds between looks at the job that packs, and for it in all


def fetch(cluster: Jobs | None, folder: str, to: Path, checkpoints: bool) -> Path:
    """Bring a run's folder here.

    Args:
        cluster: that has it; None for storage that this machine reaches.
        folder: a path on the cluster, or a URL.
        to: where to.
        checkpoints: with its checkpoints, which ``raysim resume`` needs.

    Returns:
        ``to``.

    Raises:
        ConfigError: another run is there, or it cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="raysim-") as aside:
        root = Path(aside)
        if not is_url(folder) or not _copied(folder, root, checkpoints, cluster is None):
            if cluster is None:
                raise ConfigError(f"{folder} is a path on a cluster: name the cluster with --address.")
            shutil.rmtree(root)  # what was copied before the storage refused
            root.mkdir()
            _through(cluster, folder, root, checkpoints)
        folders.read_status(root)  # says so if it is no run
        _put(root, to)
    return to


def _copied(url: str, root: Path, checkpoints: bool, only_way: bool) -> bool:
    """Whether this machine reaches the storage, and has copied the folder from it."""
    try:
        handing.copy(url, root, checkpoints)
    except ConfigError:
        if only_way:
            raise
        return False
    return (root / "run.json").exists() or only_way


def _through(cluster: Jobs, folder: str, root: Path, checkpoints: bool) -> None:
    """Let a small job pack the folder, fetch what it packed, and let it clean up."""
    id = f"raysim-fetch-{secrets.token_hex(4)}"
    request = {"id": id, "folder": folder, "checkpoints": checkpoints}
    with packing.packed(request, None) as environment:
        cluster.submit(id, packing.entrypoint("handing"), environment, {"raysim-fetch": folder})
    try:
        job, facts = _packed(cluster, id)
        assert job.node is not None, "it has written to its log"
        file = root / "packed.tar.gz"
        cluster.download(job.node, facts["file"], file)
        if file.stat().st_size != facts["bytes"]:
            raise ConfigError(f"Only a part of {folder} came through. Try again.")
        unpack(file, root)
        file.unlink()
    finally:
        cluster.stop(id)


def _packed(cluster: Jobs, id: str) -> tuple[Job, dict[str, Any]]:
    """The job, once it has packed the folder, and what it says."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        job = cluster.job(id)
        assert job is not None, "it was submitted"
        facts = lines.last(cluster.log(job, 5))
        if facts.get("event") == "ready":
            return job, facts
        if facts.get("event") == "failed":
            raise ConfigError(facts["text"])
        if job.over:
            raise ConfigError(f"The job that packs the folder failed: {job.message}")
        time.sleep(LOOK)
    raise ConfigError(
        f"The job {id} that packs the folder did not begin within {PATIENCE:.0f} s: see `ray status`."
    )


def unpack(file: Path, root: Path) -> None:
    """Unpack plain files below a folder, and nothing else: an archive may hold links and paths that lead elsewhere."""
    with tarfile.open(file, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.is_absolute() or ".." in path.parts:
                continue
            content = tar.extractfile(member)
            assert content is not None, "a plain file has content"
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, open(target, "wb") as to:
                shutil.copyfileobj(content, to)


def _put(root: Path, to: Path) -> None:
    """Move what was fetched to its place; an earlier state of the same run makes room."""
    if (to / "run.json").exists():
        there = (to / "experiment.yaml").read_text() if (to / "experiment.yaml").exists() else ""
        if there != (root / "experiment.yaml").read_text():
            raise ConfigError(f"{to} holds another run. Choose another folder with --to.")
        if folders.read_status(to)["round"] > folders.read_status(root)["round"]:
            raise ConfigError(
                f"The run in {to} is further than the cluster's. Choose another folder with --to."
            )
        if (root / "checkpoints").exists():  # else those that are here stay: nothing newer came
            shutil.rmtree(to / "checkpoints", ignore_errors=True)
    elif to.exists() and any(to.iterdir()):
        raise ConfigError(f"{to} is not empty, and no run. Choose another folder with --to.")
    shutil.copytree(root, to, dirs_exist_ok=True)
