"""A run goes to the cluster once: submitted twice it is said, twice on purpose it is another, lost it goes on."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raysim import spec
from raysim.core.plugin import ConfigError
from raysim.runtime.storage import is_url
from raysim.service import packing, states
from raysim.service.cluster import Job, Jobs

if TYPE_CHECKING:
    from raysim.simulation import Simulation

STORAGE = "~/raysim-runs"  # on the head node
_LARGE = 100_000
"""Characters of an experiment, written as JSON, that are kept with its job, so that it can start again from nothing.
Ray hands them to the driver in one environment variable, and Linux starts no process with one of 128 KiB."""


@dataclass(frozen=True)
class Submitted:
    """What became of a submission.

    Args:
        id: the job's.
        folder: where the run writes.
        already: what is to be said if it was there already; empty if it was not.
    """

    id: str
    folder: str
    already: str = ""


def submit(
    cluster: Jobs,
    simulation: Simulation,
    storage: str | None = None,
    code: Path | None = None,
    again: bool = False,
    name: str = "",
) -> Submitted:
    """Submit an experiment, unless it has been.

    Args:
        cluster: where to.
        simulation: the experiment.
        storage: folder of runs, an absolute path on the cluster or a URL.
        code: a folder of the user's own that goes along: data files and modules.
        again: run it another time if it has been submitted.
        name: of the run's folder among the others; its id if empty.

    Raises:
        ConfigError: parts of it exist in Python only, or the cluster refuses it.
    """
    hidden = spec.opaque(simulation)
    if hidden:
        raise ConfigError(
            f"This experiment cannot be submitted: {', '.join(hidden)} exists in Python only, here. Use plug-ins "
            "that a file can name (data in .npz files: Npz, with --code for the files)."
        )
    text = simulation.to_yaml()
    base = packing.identity(simulation.name, text, code)
    id, number = base, 1
    while True:
        folder = f"{root_of(storage)}/{name or id}"
        facts = {
            "rounds": str(simulation.rounds),
            "experiment": text if len(json.dumps(text)) <= _LARGE else "",
        }
        facts |= {"code": "1"} if code else {}
        request = {"id": id, "folder": folder, "resume": False, "overrides": [], "rounds": simulation.rounds}
        job = cluster.job(id)
        if job is None and _sent(cluster, request, text, facts, code):
            return Submitted(id, folder)
        if not again:
            return _already(cluster, base)
        number += 1
        id = f"{base}-{number}"


def _already(cluster: Jobs, id: str) -> Submitted:
    """The run that is there, in words."""
    tries = states.attempts(cluster.jobs(), id)
    if not tries:
        raise ConfigError(
            f"A job that is not raysim's has taken the id {id} at {cluster.address}. Rename the experiment."
        )
    job = tries[-1]
    run = states.run_of(cluster, job)
    goes_on = f"go on with it: raysim submit --resume {id}; " if run.state in states.RESUMABLE else ""
    there = f"It is there already, {run.state} since {since(job)}, in {run.folder}: raysim status {job.id}; {goes_on}"
    return Submitted(job.id, run.folder, f"{there}another one like it: --again")


def resume(cluster: Jobs, which: str, overrides: list[str], code: Path | None = None) -> Submitted:
    """Go on with a run in the same folder, as a new job.

    Args:
        cluster: where to.
        which: a run's id that this cluster knows, or its folder: a URL or an absolute path.
        overrides: changes, such as placement.actors=2.
        code: see ``submit``.

    Raises:
        ConfigError: no such run, or it is not to be resumed.
    """
    by_folder = is_url(which) or which.startswith(("/", "~"))
    jobs = cluster.jobs()
    base = _base(jobs, _without_password(which.rstrip("/"))) if by_folder else states.base_of(which)
    tries = states.attempts(jobs, base)
    if not tries and not by_folder:
        raise ConfigError(
            f"The cluster at {cluster.address} knows no run {which}. What it knows: raysim runs. If another cluster "
            "ran it, name its folder: raysim submit --resume URL"
        )
    facts = tries[0].metadata if tries else {}
    if tries:
        _may_go_on(cluster, tries[-1], overrides)
        _as_it_was(base, facts, overrides, code)
    folder = which.rstrip("/") if by_folder else tries[-1].metadata["folder"]
    number = states.attempt(tries[-1].id) + 1 if tries else 2
    request = {"id": f"{base}.{number}", "folder": folder, "resume": True, "overrides": overrides}
    facts = {n: facts[n] for n in ("rounds", "experiment", "code") if n in facts}
    if not _sent(cluster, request, facts.get("experiment") or None, facts, code):
        return _already(cluster, base)
    return Submitted(request["id"], folder)


def _base(jobs: list[Job], folder: str) -> str:
    """The id of the run in a folder: of the one that has been there, else the folder's name.

    Two folders that are called as a submission is have one run, mounted here and behind a URL there; two that are
    called `run` have two.
    """
    same = lambda job: _plain(job.metadata.get("folder", "")) == _plain(folder)
    there = next((states.base_of(job.id) for job in jobs if same(job)), None)
    if there is not None:
        return there
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.rpartition("/")[2]).strip("-") or "run"
    if packing.is_identity(name) or not states.attempts(jobs, name):
        return name
    return f"{name}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def _plain(folder: str) -> str:
    """A folder's path, however it is written."""
    return re.sub(r"(?<!:)/+", "/", folder.removeprefix("file://")).rstrip("/")


def _as_it_was(base: str, facts: dict[str, str], overrides: list[str], code: Path | None) -> None:
    """Say here, and not after it has waited for its turn, what a run could not go on with."""
    if facts.get("code") and code is None:
        raise ConfigError(
            f"{base} was submitted with --code, a folder of files that it needs: name that folder again, "
            f"raysim submit --resume {base} --code FOLDER"
        )
    if overrides and facts.get("experiment"):
        from raysim.simulation import Simulation

        Simulation.from_yaml(facts["experiment"], overrides)


def _may_go_on(cluster: Jobs, job: Job, overrides: list[str]) -> None:
    state = states.run_of(cluster, job).state
    if state in (states.WAITING, states.RUNNING):
        raise ConfigError(
            f"{job.id} is {state} since {since(job)}: there is nothing to resume. See raysim status {job.id}"
        )
    if state == states.FINISHED and not overrides:
        raise ConfigError(
            f"{job.id} has finished all its rounds. For more of them: --resume {states.base_of(job.id)} rounds=N"
        )
    if state == states.DIVERGED:
        raise ConfigError(f"{job.id} diverged, and would again. Submit it with a smaller step size.")


def _sent(
    cluster: Jobs, request: dict[str, Any], text: str | None, facts: dict[str, str], code: Path | None
) -> bool:
    from raysim import __version__

    metadata = {"raysim": __version__, "folder": request["folder"], **facts}
    with packing.packed(request, text, code) as environment:
        return cluster.submit(request["id"], packing.entrypoint("job"), environment, metadata)


def root_of(storage: str | None) -> str:
    """The folder of runs, checked as far as can be from here.

    Raises:
        ConfigError: runs would not stay there, or everybody could read its password.
    """
    found = _without_password((storage or STORAGE).rstrip("/"))
    if found.startswith("memory://"):
        raise ConfigError(
            f"--storage {found} is one process's memory, and goes with it. Name storage that stays."
        )
    if not is_url(found) and not found.startswith(("/", "~/")):
        raise ConfigError(
            f"--storage {found} is a relative path, and a job has no folder to begin from. Give an absolute path on "
            "the cluster (that all its nodes mount, if it has several) or a URL such as s3://bucket/runs."
        )
    return found


def _without_password(folder: str) -> str:
    """A folder that may be shown: what a job was submitted with, everybody on the cluster can read."""
    if is_url(folder) and urlsplit(folder).password is not None:
        raise ConfigError(
            "The URL of the folder holds a password, which everybody on the cluster could read. Leave it out, and let "
            "the cluster's nodes have what the storage asks for: a role, or variables where Ray is started "
            "(cluster/README.md)."
        )
    return folder


def since(job: Job) -> str:
    """When a job began, or ended, in local time."""
    at = job.end if job.over and job.end else job.start
    return "just now" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
