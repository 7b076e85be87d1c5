"""The folder a run leaves: on a disk, or behind a URL (see mirror.py), which then has the same files.

experiment.yaml      the experiment, every field written out, with the versions that ran it
run.json             status, round, form and block, seconds
owner.json           the process that writes here: see claim.py
metrics.jsonl        one line per evaluated round, flushed as it comes
metrics.parquet      the same as a table, at the end
checkpoints/         see checkpoint.py
figures/             learning curves
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from raysim.core.plugin import ConfigError
from raysim.core.server import Server
from raysim.runtime import checkpoint, mirror, storage
from raysim.runtime.claim import Claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

located = storage.located


class RunFolder:
    """Reads and writes a run's folder.

    Args:
        place: its path, made if missing; or its URL, which a working folder on this machine is brought to.
    """

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self.mirror = mirror.Mirror(str(place)) if storage.is_url(place) else None
        self.path = self.mirror.path if self.mirror else Path(place)
        self.claim = self.mirror.claim if self.mirror else Claim(place)
        _make(self.path)

    def open(self, resume: bool) -> checkpoint.Checkpoint | None:
        """Take the folder over; the checkpoint to continue from, if that is wanted and there is one.

        Raises:
            ConfigError: the disk or the storage cannot be written, read or deleted from.
        """
        if self.mirror:
            self.mirror.open()
            self.mirror.fetch(resume)
        else:
            try:
                checkpoint.tidy(self.path)
                self.claim.take()
            except OSError as error:
                raise ConfigError(f"The run's folder {self.path} cannot be written: {error}.") from None
        return checkpoint.latest(self.path) if resume else None

    def status(self, **facts: Any) -> None:
        """Write run.json.

        Raises:
            Superseded: the folder is another process's now.
            CheckpointError: the disk refused.
        """
        facts |= {"raysim": version("raysim"), "torch": version("torch"), "pid": os.getpid()}
        with self._ours("run.json"):
            checkpoint.write(self.path / "run.json", json.dumps(facts, indent=1))
        if self.mirror:
            self.mirror.file("run.json")

    @contextmanager
    def _ours(self, name: str) -> Iterator[None]:
        """Writes a file of a folder on a disk, if that is still this process's."""
        try:
            if not self.mirror:
                self.claim.require()
            yield
        except OSError as error:
            raise checkpoint.CheckpointError(
                f"{self.path / name} could not be written: {error}. {checkpoint.intact(self.path)} Make room, or let "
                f"the folder be written again, then: raysim resume {self.place}"
            ) from None

    def append(self, row: dict[str, Any]) -> None:
        """One line of metrics, on its way to the disk when this returns.

        Raises:
            Superseded: the folder is another process's now.
            CheckpointError: the disk refused.
        """
        with self._ours("metrics.jsonl"), open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.mirror:
            self.mirror.metrics()

    def save(
        self, server: Server, save_rows: Callable[[Path], int], facts: dict[str, Any]
    ) -> checkpoint.Checkpoint:
        """Write a checkpoint (see ``checkpoint.save``).

        Raises:
            CheckpointError: the disk or the storage refused.
            Superseded: the folder is another process's now.
        """
        if self.mirror:
            last = checkpoint.save(self.path, server, save_rows, facts, self.place)
            self.mirror.checkpoint(last)
            return last
        return checkpoint.save(self.path, server, save_rows, facts, self.place, self.claim.require)

    def truncate(self, round: int) -> list[dict[str, Any]]:
        """Forget metrics of later rounds than ``round``; returns what stays."""
        rows = [row for row in read_metrics(self.path) if row["round"] <= round]
        with self._ours("metrics.jsonl"):
            checkpoint.write(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def table(self) -> None:
        """Write the metrics as Parquet too; a disk that has no room for them costs the run nothing else."""
        try:
            pd.DataFrame(read_metrics(self.path)).to_parquet(self.path / "metrics.parquet")
        except OSError as error:
            warnings.warn(
                f"{self.path}/metrics.parquet cannot be written: {error}. metrics.jsonl has the same.",
                stacklevel=2,
            )
            return
        if self.mirror:
            self.mirror.file("metrics.jsonl", age=mirror.OURS)
            self.mirror.file("metrics.parquet", age=mirror.OURS)

    def close(self) -> None:
        """Leave no working folder that the storage has all of."""
        if self.mirror:
            self.mirror.close()


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The run's folder {path} cannot be made: {error}. Choose another with --folder."
        ) from None


def begin(place: Path | str, text: str) -> None:
    """Write the experiment into a new run's folder; an older run there is refused."""
    text = (
        f"# raysim {version('raysim')}, torch {version('torch')}, Python {platform.python_version()}\n" + text
    )
    if storage.is_url(place):
        mirror.begin(str(place), text)
        return
    path = Path(place)
    _make(path)
    if (path / "run.json").exists() or checkpoint.latest(path):
        raise ConfigError(
            f"{path} holds a run already. Continue it with: raysim resume {path}; or choose another."
        )
    try:
        checkpoint.write(path / "experiment.yaml", text)
    except OSError as error:
        raise ConfigError(f"The run's folder {path} cannot be written: {error}.") from None


def read_metrics(place: Path | str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; a last line cut short by a crash is dropped."""
    rows = []
    for line in (storage.text(place, "metrics.jsonl") or "").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_status(place: Path | str) -> dict[str, Any]:
    """run.json.

    Raises:
        ConfigError: there is no run in that folder.
    """
    text = storage.text(place, "run.json")
    if text is None:
        missing = not storage.is_url(place) and not Path(place).exists()
        there = "it does not exist" if missing else "it has no run.json"
        raise ConfigError(f"{place} is not a run's folder: {there}.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{place}/run.json is damaged ({error}). Delete it, then: raysim resume {place}"
        ) from None


def begun(place: Path | str) -> dict[str, Any]:
    """run.json; where there is none, what it would say of a run that was cut off before it could be written.

    Raises:
        ConfigError: there is no run in that folder.
    """
    cut = storage.text(place, "run.json") is None and storage.text(place, "experiment.yaml") is not None
    return {"status": "running", "round": 0} if cut else read_status(place)


def read_experiment(place: Path | str) -> str:
    """experiment.yaml.

    Raises:
        ConfigError: the folder has none.
    """
    text = storage.text(place, "experiment.yaml")
    if text is None:
        raise ConfigError(f"{place} is not a run's folder: it has no experiment.yaml.")
    return text


def intact(place: Path | str) -> int | None:
    """Round of the newest whole checkpoint in a run's folder."""
    if storage.is_url(place):
        return next((manifest["round"] for _, manifest in mirror.whole(storage.Storage(str(place)))), None)
    last = checkpoint.latest(Path(place))
    return last.manifest["round"] if last else None


def left(place: Path | str | None) -> str:
    """What a run that ended in trouble has left, and how to go on."""
    if place is None:
        return "It had no folder, so the run is lost: start it again."
    try:
        round = intact(place)
    except (OSError, ConfigError) as refused:
        return f"Whether {place} has a checkpoint cannot be seen: {storage.reason(refused)}."
    has = "no checkpoint yet" if round is None else f"the checkpoint of round {round}"
    return f"{place} has {has}; go on from there: raysim resume {place}"


@contextmanager
def at_hand(place: Path | str) -> Iterator[Path]:
    """A run's folder to read from; one behind a URL is fetched, and goes again."""
    if not storage.is_url(place):
        yield Path(place)
        return
    copy = mirror.Mirror(str(place))
    try:
        copy.fetch(True)
        yield copy.path
    finally:
        copy.close()


def save_figure(place: Path | str, name: str, figure: Figure) -> Path | str:
    """Write a figure into a run's folder; returns the file."""
    if not storage.is_url(place):
        file = Path(place) / "figures" / name
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, dpi=150)
        return file
    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(Path(folder) / name, dpi=150)
        storage.Storage(str(place)).put(Path(folder) / name, f"figures/{name}")
    return f"{place}/figures/{name}"


def fresh(name: str, root: Path = Path("runs")) -> Path:
    """A folder ``runs/<name>-<n>`` that does not exist yet, made by the one who asks for it."""
    number = 1
    while True:
        path = root / f"{name or 'run'}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ConfigError(
                f"The run's folder {path} cannot be made: {error}. Choose another with --folder."
            ) from None
        else:
            return path
