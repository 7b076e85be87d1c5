"""The job: what the cluster runs for ``raysim submit``.

It joins the cluster and waits for its turn (``raysim.runtime.turns``) and until all that the run needs is there at
once: one placement group, so that ten jobs cannot each hold a part and wait for the rest. Then it runs or resumes the
experiment; the run finds the group by its name (``raysim.runtime.capacity.GROUP``). All it writes to its log are lines
of JSON, each with everything that is known by then, so that the last one is enough for ``raysim status``.

A cluster may have a hundred runs that wait. A process with torch holds some 300 MB, one without a third of that: until
its turn a job imports only what needs no torch (``placing``, ``capacity`` and ``storage`` of ``raysim.runtime``).

It exits as ``raysim run`` does: 0 finished, 1 failed, 2 not runnable as written, 3 diverged, 130 stopped.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysim.core.placement import Placement
from raysim.core.plugin import ConfigError
from raysim.runtime import telemetry
from raysim.service.packing import REQUEST

CODES = {"finished": 0, "diverged": 3, "stopped": 130}
REFUSED, FAILED = 2, 1
EXPLAINED = {"ConfigError": REFUSED, "DataError": REFUSED, "CheckpointError": REFUSED, "ClientError": FAILED}
EXPLAINED |= {"HostLost": FAILED, "CoordinatorLost": FAILED, "Superseded": REFUSED}
"""Exit codes of errors whose message says all a user needs; by name, for some of their modules need torch."""

PAUSE = 1.0  # seconds between lines about rounds, and about checkpoints: short rounds come by the thousand
FOREVER = 1e9  # seconds
TRACE = 20  # lines of a traceback that are kept


class Log:
    """Writes the job's lines.

    Args:
        run: the run's id.
        facts: what every line says.
    """

    def __init__(self, run: str, **facts: Any) -> None:
        self.run, self.facts = run, facts
        self._told: set[str] = set()
        self._due: dict[str, float] = {}

    def __call__(self, event: str, **facts: Any) -> None:
        """One line: what happened, what is known, and what is said this once."""
        sys.stdout.write(telemetry.line(self.run, {**self.facts, **facts, "kind": event}) + "\n")
        sys.stdout.flush()

    def watch(self, event: dict[str, Any]) -> None:
        """Take in one event of the coordinator."""
        kind = event["kind"]
        facts = {k: v for k, v in event.items() if k != "kind"}
        if kind == "warning":
            if facts["text"] in self._told:
                return
            self._told.add(facts["text"])
        if kind in ("checkpoint", "resumed"):
            self.facts["checkpoint"] = facts["round"]
        if kind in ("metrics", "round", "checkpoint"):
            self.facts |= facts
            if kind != "metrics" and time.monotonic() >= self._due.get(kind, 0.0):
                self._due[kind] = time.monotonic() + PAUSE
                self(kind)
            return
        self.facts |= {k: v for k, v in facts.items() if k in ("round", "rounds")}
        self(kind, **facts)


def main() -> int:
    """Do what the request in this folder asks for; returns the exit code."""
    request = json.loads(Path(REQUEST).read_text(encoding="utf-8"))
    folder = request["folder"]
    folder = folder if "://" in folder else str(Path(folder).expanduser())
    log = Log(request["id"], folder=folder, rounds=request.get("rounds"))
    try:
        placement = _begun(request, folder)
        _join(log)
        _reserve(placement, folder, log)
        log("starting")
        return CODES[_run(request, folder, log)]
    except KeyboardInterrupt:
        log("ended", status="stopped", text="stopped before it began")
        return CODES["stopped"]
    except Exception as error:
        return _failed(error, log)


def _begun(request: dict[str, Any], folder: str) -> Placement:
    """Where the run's clients are to live; refuses at once what could not run in this folder.

    Raises:
        ConfigError: there is a run where a new one is to be, or none where one is to go on.
    """
    from raysim.runtime import storage

    there = storage.text(folder, "run.json")
    if there is not None and not request["resume"]:
        raise ConfigError(
            f"{folder} holds a run already, of a cluster that is gone. Go on with it: raysim submit --resume {folder}; "
            "or another one like it: --again --storage ELSEWHERE."
        )
    fields = (_read(_text(request, folder)) or {}).get("placement") or {}
    for override in request["overrides"]:
        path, _, value = override.partition("=")
        if path == "placement":
            fields = _read(value) or {}
        elif path.startswith("placement."):
            fields[path.removeprefix("placement.")] = _read(value)
    _writable(folder)
    try:
        return Placement(**fields)
    except TypeError as error:  # Python's own word for a name that is none
        raise ConfigError(f"placement: {error}. `raysim describe Placement` has its fields.") from None


def _writable(folder: str) -> None:
    """Refuse a folder that a run could not write, before the run has waited for its turn.

    Raises:
        ConfigError: it refuses: with what, and what to do.
    """
    from raysim.runtime import storage

    if storage.is_url(folder):
        storage.Storage(folder).check()
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise ConfigError(
            f"The run's folder {folder} cannot be written on {os.uname().nodename}: {error.strerror or error}. Make "
            "room for it there and go on: raysim submit --resume ID; or elsewhere: --again --storage ELSEWHERE."
        ) from None


def _text(request: dict[str, Any], folder: str) -> str:
    """The experiment: its folder's own if it goes on, else what came along."""
    from raysim.runtime import storage

    text = storage.text(folder, "experiment.yaml") if request["resume"] else None
    if text is None:
        try:
            text = Path("experiment.yaml").read_text(encoding="utf-8")
        except OSError:
            raise ConfigError(f"{folder} is not a run's folder: it has no experiment.yaml.") from None
    return text


def _read(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _join(log: Log) -> None:
    """Join the cluster, and make of the first SIGTERM a Ctrl-C: the run ends after its round, with a checkpoint."""
    import ray

    def once(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        log("stopping", text="after the round in progress, with a checkpoint")
        signal.raise_signal(signal.SIGINT)

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it in what its workers start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, once)


def _reserve(placement: Placement, folder: str, log: Log) -> None:
    """Reserve all that the run needs, however long others have it.

    Raises:
        ConfigError: the cluster can never have that much.
    """
    from raysim.runtime import placing, storage

    log("waiting", text="asking for what the run needs")
    tell = lambda text: log("waiting", text=text.partition(";")[0])
    patient = replace(placement, wait=FOREVER)
    if placement.actors:
        placing.reserve(patient, tell)
    else:
        placing.seat(patient, storage.located(folder), tell)


def _run(request: dict[str, Any], folder: str, log: Log) -> str:
    """Run the experiment, or go on with it; how it ended."""
    from raysim.runtime import drive, storage
    from raysim.simulation import Simulation

    overrides = request["overrides"]
    if request["resume"] and storage.text(folder, "experiment.yaml") is not None:
        changed = Simulation.from_yaml(_text(request, folder), overrides) if overrides else None
        return drive.resume(folder, changed, watch=log.watch).status
    simulation = Simulation.from_yaml(_text(request, folder), overrides)
    return drive.drive(simulation, folder, watch=log.watch).status


def _failed(error: Exception, log: Log) -> int:
    """Say why, with a traceback where the message is not enough."""
    name = type(error).__name__
    lines = [] if name in EXPLAINED else traceback.format_exc().splitlines()[-TRACE:]
    log(
        "failed",
        error=name,
        text=_explained(str(error)) or name,
        **({"traceback": "\n".join(lines)} if lines else {}),
    )
    return EXPLAINED.get(name, FAILED)


def _explained(text: str) -> str:
    """A message about a file in the job's own folder, whose path means nothing to a user."""
    plain = re.sub(rf"{re.escape(str(Path.cwd()))}/|/\S*/_ray_pkg_\w+/", "", text)  # here, and on any node
    if plain == text:
        return text
    return (
        f"{plain} A job finds relative paths in the folder that came along with it: "
        "raysim submit --code FOLDER. Data that is too large for that: put it where every node reads it."
    )


if __name__ == "__main__":
    sys.exit(main())
